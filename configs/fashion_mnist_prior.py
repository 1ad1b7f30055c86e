"""Priors on a frozen Fashion-MNIST VAE, `configs/fashion_mnist_grid.py`, which is trained first.

    python train.py --config=configs/fashion_mnist_prior.py:flow \
        --config.vae_workdir=workdir/fashion_mnist_grid --workdir=workdir/fashion_mnist_flow
    python -m vae_jax.priors.compare --config=configs/fashion_mnist_prior.py \
        --workdir=workdir/fashion_mnist_grid                       # all of them, and a table

After the colon: vamp, mixture, ex_post_mixture, flow, diffusion (or nothing), or diffusion_simple,
which is trained with DDPM's weighting of noise levels.

Results: docs/priors.md. The fits took 3 to 32 minutes, on one busy core each.
"""

from ml_collections import ConfigDict

from vae_jax.config import defaults

NUM_STEPS = {"vamp": 2000, "mixture": 4000, "flow": 4000, "diffusion": 6000}
NUM_COMPONENTS = {"vamp": 200, "mixture": 200, "ex_post_mixture": 10}
LEARNING_RATES = {"vamp": 1e-2, "mixture": 5e-3}


def get_config(name: str = "diffusion") -> ConfigDict:
    """The prior of that name, with networks that fit the 7x7 grid of `fashion_mnist_grid`."""
    config = defaults.get_config()
    if name == "diffusion_simple":
        name = "diffusion"
        config.prior.weighting = "simple"
    config.prior.name = name
    config.prior.num_components = NUM_COMPONENTS.get(name, 100)
    config.prior.widths = (48,) if name == "flow" else (64,)
    config.prior.num_blocks = 1 if name == "flow" else 2
    config.prior.num_sampling_steps = 40
    config.optim.learning_rate = LEARNING_RATES.get(name, 1e-3)
    config.train.batch_size = 100
    config.train.num_steps = NUM_STEPS.get(name, 4000)
    config.train.eval_every_steps = 1000
    config.train.checkpoint_every_steps = 1000
    return config
