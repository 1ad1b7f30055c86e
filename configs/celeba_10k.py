"""A VAE on 10,000 faces of CelebA, for one GPU.

    python train.py --config=celeba_10k --workdir=workdir/celeba_10k_gpu_vae

Of the faces 9,000 are for training, 500 of these for validation, and 1,000 for the test. The arrays
have to be in ~/.cache/vae_jax/celeb_a_10k_crop148_64; they must not be redistributed, so there is
no download of them.

A large model would memorise so few images. Therefore the network has a quarter of the parameters of
configs/celeba.py, the faces are mirrored, and training ends when the validation ELBO stops rising;
the doctor's finding `overfitting` tells how much it has memorised. There are no results: no GPU was
available, and the configuration was only tried for a few steps on a CPU. For CPUs there is
configs/celeba_10k_cpu.py.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config


def get_config() -> ConfigDict:
    """Returns configs/celeba.py with half the channels, half the latent and early stopping."""
    config = named_config("celeba")
    config.data.name = "celeb_a_10k_crop148_64"
    config.data.validation_size = 500
    config.model.latent_shape = (8, 8, 8)
    config.model.widths = (64, 128, 256)
    config.kl.warmup_steps = 1000
    config.optim.warmup_steps = 500
    config.optim.ema_decay = 0.999
    config.train.num_steps = 10_000
    config.train.eval_every_steps = 500
    config.train.checkpoint_every_steps = 500
    config.train.patience = 4
    config.train.keep_checkpoints = 4
    return config
