"""Encoder, decoder and VAE as linen modules: the architecture, without losses."""

from vae_jax.models.memory import check_memory as check_memory
from vae_jax.models.summary import parameter_table as parameter_table
from vae_jax.models.vae import VAE as VAE
from vae_jax.models.vae import Decoder as Decoder
from vae_jax.models.vae import Encoder as Encoder
from vae_jax.models.vae import check_shapes as check_shapes
