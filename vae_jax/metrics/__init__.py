"""Metrics of reconstructions, latent codes and samples."""
