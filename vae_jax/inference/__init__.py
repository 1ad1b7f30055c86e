"""The use of a trained VAE.

`trained_vae` has the class for scripts and notebooks; `loading` loads a run into it; `steps` has
the jitted functions behind it, and `memory` says how many images these can take; `image_sets` makes
the images that the sample metrics compare.
"""

from vae_jax.inference.loading import load as load
from vae_jax.inference.loading import load_experiment as load_experiment
from vae_jax.inference.loading import restore as restore
from vae_jax.inference.steps import create_steps as create_steps
from vae_jax.inference.trained_vae import TrainedVAE as TrainedVAE
