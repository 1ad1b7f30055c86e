"""Measures how many steps the sampler of a diffusion prior needs, and at which noise levels.

    python -m benchmarks.sampler_steps --workdir=workdir/cifar10_cpu_prior

Draws the same latents in few and in many steps and prints a table. The latents are standardised, as
the prior sees them: codes of training images have the standard deviation 1. Only deterministic
samplers are compared, because the others cannot repeat a draw with another number of steps.
"""

import argparse
import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax import inference
from vae_jax.priors import diffusion, samplers
from vae_jax.recording.tables import Table
from vae_jax.runtime import process

SAMPLERS = {"heun": (10, 20, 40), "ddim": (20, 40, 80)}  # sampler: numbers of steps
NUM_REFERENCE_STEPS = 100  # with Heun's method


def noise_levels(prior: diffusion.Diffusion, num_steps: int) -> dict[str, jax.Array]:
    """Returns {name: gamma from the highest to the lowest, [num_steps + 1]}."""
    times = jnp.linspace(1.0, 0.0, num_steps + 1)
    return {
        "equal steps": prior.gamma_min + (prior.gamma_max - prior.gamma_min) * times,
        "the schedule's quantiles": prior.schedule.gamma(times),
    }


def measure(prior: diffusion.Diffusion, num_samples: int) -> Table:
    """Measures the standard deviation and the error of the draws of a bound prior."""
    network, variables = prior.network.clone(parent=None), prior.network.variables
    predict_v = functools.partial(diffusion.apply_network, network, variables)

    def draw(sampler, gammas):
        shape = (num_samples, *prior.latent_shape)
        return np.asarray(samplers.sample(sampler, predict_v, jax.random.key(0), shape, gammas))

    many = noise_levels(prior, NUM_REFERENCE_STEPS)["equal steps"]
    reference = draw("heun", many)
    rows = [["heun", f"{NUM_REFERENCE_STEPS}", "equal steps", f"{reference.std():.3f}", ""]]
    for sampler, all_num_steps in SAMPLERS.items():
        for num_steps in all_num_steps:
            for name, gammas in noise_levels(prior, num_steps).items():
                z = draw(sampler, gammas)
                error = np.sqrt(np.mean((z - reference) ** 2))
                rows.append([sampler, f"{num_steps}", name, f"{z.std():.3f}", f"{error:.3f}"])
    return Table(["sampler", "steps", "noise levels", "standard deviation", "rms error"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--workdir", type=pathlib.Path, required=True, help="run with a diffusion prior")
    add("--num_samples", type=int, default=50, help="number of draws per row")
    args = parser.parse_args()
    process.cache_compilations()
    vae = inference.load(args.workdir)
    if not vae.experiment.prior.samples_in_steps:
        sys.exit(
            f"benchmarks.sampler_steps: --workdir={args.workdir} must be a run with prior.name = "
            f"'diffusion', but has {vae.experiment.config['prior.name']!r}, which needs no sampler "
            "steps. Give another --workdir."
        )
    prior = vae.model.bind({"params": vae.params}).prior.base
    print("\n".join(measure(prior, args.num_samples).to_markdown()))


if __name__ == "__main__":
    main()
