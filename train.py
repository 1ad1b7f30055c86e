"""Trains a VAE: python train.py --config=demo --workdir=workdir/demo (all flags: --help)."""

from vae_jax.commands.train import run

if __name__ == "__main__":
    run()
