"""The defaults of every key, as a configuration of their own: a small VAE on Fashion-MNIST.

Keys with meaning, unit and rule: vae_jax/config/defaults.py.
"""

from vae_jax.config.defaults import get_config

__all__ = ["get_config"]
