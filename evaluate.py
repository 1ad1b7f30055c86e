"""Evaluates a trained VAE: python evaluate.py --workdir=workdir/demo (all flags: --help)."""

from vae_jax.commands import vae_evaluate

if __name__ == "__main__":
    vae_evaluate()
