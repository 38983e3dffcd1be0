"""Measurements; each says what it is to be compared with."""
