"""Priors on a frozen VAE for Fashion-MNIST, that of configs/fashion_mnist_grid.py.

    python train.py --config=fashion_mnist_prior:flow \\
        --config.vae_workdir=workdir/fashion_mnist_grid --workdir=workdir/fashion_mnist_flow
    python -m vae_jax.studies.priors --config=configs/fashion_mnist_prior.py \\
        --workdir=workdir/fashion_mnist_grid                       # all priors, and a table

Train that VAE first. The name of the prior follows the colon: vamp, mixture, ex_post_mixture, flow,
diffusion (the default), or diffusion_simple, a diffusion trained with DDPM's weights of the noise
levels. The fits took 3 to 32 minutes on one busy core each. Results: docs/results/priors.md.
"""

from ml_collections import ConfigDict

from vae_jax.config import defaults

NUM_STEPS = {"vamp": 2000, "mixture": 4000, "flow": 4000, "diffusion": 6000}
NUM_COMPONENTS = {"vamp": 200, "mixture": 200, "ex_post_mixture": 10}
LEARNING_RATES = {"vamp": 1e-2, "mixture": 5e-3}


def get_config(name: str = "diffusion") -> ConfigDict:
    """Returns the prior of that name, with networks for the latent grid of 7x7."""
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
