"""CelebA 64x64 (centre crop 148) with a latent grid and a mixture of discretised logistics.

For one large GPU. Tried for a few steps on a CPU only; the full run and its numbers are still to
come.

    python train.py --config=configs/celeba.py --workdir=workdir/celeba
"""

from ml_collections import ConfigDict

from configs import cifar10


def get_config() -> ConfigDict:
    """As for CIFAR-10, with one more halving: stages at 32, 16 and 8 on patches of 2x2 pixels."""
    config = cifar10.get_config()
    config.data.name = "celeb_a"
    config.model.patch_size = 2
    config.train.batch_size = 128
    return config
