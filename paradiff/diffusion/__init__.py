"""Masked diffusion over text and picture tokens on one time axis."""
