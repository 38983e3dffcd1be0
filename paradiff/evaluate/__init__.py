"""Measuring a model: the scenes benchmark and its reports."""
