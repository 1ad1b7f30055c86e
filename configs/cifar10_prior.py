"""Priors on a frozen VAE for CIFAR-10, that of configs/cifar10.py, for one large GPU.

    python train.py --config=cifar10_prior --workdir=workdir/cifar10_prior
    python -m vae_jax.studies.priors --config=configs/cifar10_prior.py --workdir=workdir/cifar10

The default is a diffusion, which should train in a quarter of an hour: an image takes some 7 GFLOP,
encoder included, and it sees 15 million images. For other priors add their name after a colon
(`cifar10_prior:flow`): vamp, mixture, ex_post_mixture or flow. Weighting and sampler are those that
were best on Fashion-MNIST (docs/results/priors.md). There are no results: no GPU was available, and
the configuration was only tried for a few steps on a CPU. For CPUs there is
configs/cifar10_cpu_prior.py.
"""

from ml_collections import ConfigDict

from vae_jax.config import defaults

NUM_STEPS = {"vamp": 10_000, "mixture": 10_000, "flow": 40_000, "diffusion": 60_000}
NUM_COMPONENTS = {"vamp": 500, "mixture": 500, "ex_post_mixture": 10}
LEARNING_RATES = {"vamp": 1e-2, "mixture": 5e-3}


def get_config(name: str = "diffusion") -> ConfigDict:
    """Returns the prior of that name, with networks for a latent grid of 8x8."""
    config = defaults.get_config()
    config.vae_workdir = "workdir/cifar10"
    config.prior.name = name
    config.prior.num_components = NUM_COMPONENTS.get(name, 100)
    config.prior.num_couplings = 12
    config.prior.widths = (256, 384) if name == "diffusion" else (192,)
    config.prior.num_blocks = 2
    config.prior.attention_resolutions = (8, 4)
    config.prior.weighting = "simple" if name == "diffusion" else "bound"
    config.prior.sampler = "heun"
    config.prior.num_sampling_steps = 40
    config.optim.learning_rate = LEARNING_RATES.get(name, 5e-4)
    config.optim.warmup_steps = 1000
    config.optim.ema_decay = 0.9995
    config.train.batch_size = 256
    config.train.num_steps = NUM_STEPS.get(name, 10_000)
    config.train.eval_every_steps = 5000
    config.train.checkpoint_every_steps = 5000
    config.train.keep_checkpoints = 12  # for the curve of quality over time
    return config
