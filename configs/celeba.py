"""A VAE on CelebA (centre crop 148, 64x64) with a latent grid, for one large GPU.

    python train.py --config=celeba --workdir=workdir/celeba

The likelihood is a mixture of discretised logistics. The model has 28 million parameters and sees
7.2 million images (44 epochs) at 22 GFLOP each: some 10 minutes at 250 TFLOP/s, a speed that no run
has confirmed yet. There are no results: no GPU was available, and the configuration was only tried
for a few steps on a CPU, on 40 faces. For 10,000 faces there is configs/celeba_10k.py.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config


def get_config() -> ConfigDict:
    """Returns configs/cifar10.py with patches of 2x2 pixels: stages again at 32, 16 and 8."""
    config = named_config("cifar10")
    config.data.name = "celeb_a"
    config.model.patch_size = 2
    config.train.num_steps = 28_000
    config.train.eval_every_steps = 4000
    config.train.checkpoint_every_steps = 4000
    return config
