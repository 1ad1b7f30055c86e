"""10,000 faces of CelebA (9,000 train, 500 of them for validation; 1,000 test), for one GPU.

    python train.py --config=configs/celeba_10k.py --workdir=workdir/celeba_10k_gpu_vae

For arrays in ~/.cache/vae_jax/celeb_a_10k_crop148_64; they are not to be redistributed, so there is
no download of them. So few images are learned by heart: the network has a quarter of the parameters
of configs/celeba.py, faces are mirrored, and training ends when the validation ELBO does not rise
any more; the doctor's `overfitting` tells how far it came. Tried for a few steps on a CPU only. For
CPUs: configs/celeba_10k_cpu.py.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config


def get_config() -> ConfigDict:
    """Half the channels of configs/celeba.py and half the latent's."""
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
