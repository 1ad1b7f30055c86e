"""The evidence lower bound (ELBO), and the loss that training minimises."""

from vae_jax.objectives.bound import (
    ElboTerms,
    apply_free_bits,
    bits_per_dim,
    compute_elbo_terms,
    compute_iw_elbo,
    compute_log_weights,
    compute_loss,
    compute_rate,
)

__all__ = [
    "ElboTerms",
    "apply_free_bits",
    "bits_per_dim",
    "compute_elbo_terms",
    "compute_iw_elbo",
    "compute_log_weights",
    "compute_loss",
    "compute_rate",
]
