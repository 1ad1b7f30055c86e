"""Convolutional VAEs for images in JAX and Flax."""

from vae_jax.inference import TrainedVAE, load

__all__ = ["TrainedVAE", "__version__", "load"]
__version__ = "0.2.0"
