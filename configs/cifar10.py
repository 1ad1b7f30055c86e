"""A VAE on CIFAR-10 with a latent grid and a mixture of discretised logistics, for one large GPU.

    python train.py --config=cifar10 --workdir=workdir/cifar10

The model has 28 million parameters and sees 10 million images at 22 GFLOP each: a quarter of an
hour at 250 TFLOP/s, a speed that no run has confirmed yet. There are no results: no GPU was
available, and the configuration was only tried for a few steps on a CPU.

Evaluate the VAE before you train its prior (configs/cifar10_prior.py): the distance of its
reconstructions should be below a fifth of that of its samples. If it is not, lower kl.weight or
widen model.latent_shape. For CPUs there is configs/cifar10_cpu.py.
"""

from ml_collections import ConfigDict

from vae_jax.config import defaults


def get_config() -> ConfigDict:
    """Returns a VAE with stages at 32, 16 and 8, attention at 8, and an 8x8x16 latent grid."""
    config = defaults.get_config()
    config.data.name = "cifar10"
    config.data.flip = True
    config.model.latent_shape = (8, 8, 16)
    config.model.patch_size = 1
    config.model.widths = (128, 256, 512)
    config.model.num_blocks = (2, 2, 2)
    config.model.attention_resolutions = (8,)
    config.model.dtype = "bfloat16"
    config.likelihood.num_mixtures = 10
    config.kl.warmup_steps = 5000
    config.optim.name = "adamax"
    config.optim.warmup_steps = 1000
    config.optim.ema_decay = 0.9995
    config.train.batch_size = 256
    config.train.num_steps = 40_000
    config.train.eval_every_steps = 5000
    config.train.checkpoint_every_steps = 5000
    config.train.keep_checkpoints = 8  # for the curve of quality over time
    return config
