"""Evaluates a trained VAE: python evaluate.py --workdir=workdir/demo (all flags: --help)."""

from vae_jax.commands.evaluate import run

if __name__ == "__main__":
    run()
