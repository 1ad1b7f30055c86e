"""A VAE on 10,000 faces of CelebA, for CPUs; configs/celeba_10k_cpu_prior.py adds its prior.

    python train.py --config=celeba_10k_cpu --workdir=workdir/celeba_10k_vae

Of the faces 9,000 are for training, 500 of these for validation, and 1,000 for the test; the arrays
have to be in ~/.cache/vae_jax/celeb_a_10k_crop148_64. The likelihood is a Gaussian with the optimal
variance, for the reasons given in configs/cifar10_cpu.py: for a model of this size its images are
sharper than those of a mixture of logistics, but there are no bits/dim. Other settings that were
tried, and the results: docs/results/celeba.md.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config


def get_config() -> ConfigDict:
    """Returns configs/cifar10_cpu.py with patches of 8x8 pixels, more channels and fewer steps."""
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
