"""A trained VAE in use."""

from vae_jax.inference.trained_vae import TrainedVAE, load

__all__ = ["TrainedVAE", "load"]
