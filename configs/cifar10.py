"""CIFAR-10 with a latent grid and a mixture of discretised logistics, for one large GPU.

    python train.py --config=configs/cifar10.py --workdir=workdir/cifar10

28 million parameters, 10 million images at 22 GFLOP: a quarter of an hour where 250 TFLOP/s are
reached, which no run has shown yet; tried for a few steps on a CPU only. Before the prior is
trained, the distance of reconstructions should be below a fifth of that of samples (evaluate.py);
otherwise lower kl.weight, or widen model.latent_shape. For CPUs: configs/cifar10_cpu.py.
"""

from ml_collections import ConfigDict

from vae_jax.config import defaults


def get_config() -> ConfigDict:
    """Stages at 32, 16 and 8; latent grid 8x8x16; attention where it is cheap."""
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
