"""Convolutional VAEs for images in JAX and Flax."""

import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vae_jax.inference import TrainedVAE, load

__all__ = ["TrainedVAE", "__version__", "load"]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Imports JAX and the rest on first use, so that a command can start before."""
    if name in ("TrainedVAE", "load"):
        return getattr(importlib.import_module("vae_jax.inference"), name)
    if importlib.util.find_spec(f"vae_jax.{name}"):
        return importlib.import_module(f"vae_jax.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
