"""10,000 faces of CelebA, a VAE for CPUs; its prior is configs/celeba_10k_cpu_prior.py.

    python train.py --config=configs/celeba_10k_cpu.py --workdir=workdir/celeba_10k_vae

9,000 train, 500 of them for validation, 1,000 test, in ~/.cache/vae_jax/celeb_a_10k_crop148_64. A
Gaussian with the optimal variance, as in configs/cifar10_cpu.py, whose reasons hold here as well:
sharper than a mixture of logistics at such a size, but no bits/dim. What was tried, and results:
docs/celeba.md.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config


def get_config() -> ConfigDict:
    """As for CIFAR-10, with patches of 8x8 pixels, more channels and fewer images."""
    config = named_config("cifar10_cpu")
    config.data.name = "celeb_a_10k_crop148_64"
    config.data.validation_size = 500
    config.model.latent_shape = (8, 8, 8)
    config.model.patch_size = 8
    config.model.widths = (192,)
    config.optim.clip_norm = 32000.0
    config.train.num_steps = 2600
    config.train.eval_every_steps = 650
    config.train.checkpoint_every_steps = 650
    config.train.patience = 2
    config.train.keep_checkpoints = 4  # for a curve of quality over time
    return config
