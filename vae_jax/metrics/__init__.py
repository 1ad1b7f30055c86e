"""Measures of reconstructions and of the latent code."""
