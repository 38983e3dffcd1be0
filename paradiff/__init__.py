"""Parallel masked diffusion over text and images, in JAX.

Letters used for array shapes everywhere: B batch, L sequence, T text tokens,
N image tokens, A answer tokens, P prefix tokens, D width, H heads, K head
size, F mlp width, V vocabulary, C codebook, S denoising steps, Q guidance
branches, G group, R scored steps.
"""
