"""Trains a VAE: python train.py --config=demo --workdir=workdir/demo (all flags: --help)."""

from vae_jax.commands import vae_train

if __name__ == "__main__":
    vae_train()
