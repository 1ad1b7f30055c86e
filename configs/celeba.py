"""CelebA 64x64 (centre crop 148) with a latent grid and a mixture of discretised logistics.

    python train.py --config=configs/celeba.py --workdir=workdir/celeba

For one large GPU: 28 million parameters, 7.2 million images (44 epochs) at 22 GFLOP, some 10
minutes where 250 TFLOP/s are reached, which no run has shown yet. Tried for a few steps on a CPU
only, on 40 faces; the run is still to come. For 10,000 faces: configs/celeba_10k.py.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config


def get_config() -> ConfigDict:
    """As for CIFAR-10, with one more halving: stages at 32, 16 and 8 on patches of 2x2 pixels."""
    config = named_config("cifar10")
    config.data.name = "celeb_a"
    config.model.patch_size = 2
    config.train.num_steps = 28_000
    config.train.eval_every_steps = 4000
    config.train.checkpoint_every_steps = 4000
    return config
