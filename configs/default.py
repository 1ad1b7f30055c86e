"""The default value of every key, as a configuration of its own: a small VAE on Fashion-MNIST.

    python train.py --config=default --workdir=workdir/default

It is a starting point for experiments and has no recorded results. The meaning, the unit and the
valid values of each key are in vae_jax/config/defaults.py.
"""

from vae_jax.config.defaults import get_config

__all__ = ["get_config"]
