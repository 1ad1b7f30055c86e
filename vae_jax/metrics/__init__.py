"""Measures of reconstructions, of the latent code and of samples."""
