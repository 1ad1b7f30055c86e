"""Encoder, decoder and VAE as linen modules: the architecture, without losses."""

from vae_jax.models.summary import parameter_table
from vae_jax.models.vae import VAE, Decoder, Encoder, check_shapes

__all__ = ["VAE", "Decoder", "Encoder", "check_shapes", "parameter_table"]
