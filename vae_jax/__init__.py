"""Convolutional VAEs for images in JAX and Flax."""

from vae_jax.inference import TrainedVAE, load

__all__ = ["TrainedVAE", "load"]
