"""Weights in training come in; the gradient of their code length, grids and latent weights go out."""
