"""The recipes of docs/extending.md, applied to a copy of the repository and run."""

import math
import pathlib
import re
import shutil

import pytest

from tests.conftest import REPOSITORY, TINY, run_python
from vae_jax.metrics import stored

BLOCK = re.compile(r"```(python|diff)\n# (\S+)\n(.*?)```", re.DOTALL)
# What each recipe is checked with, in the copy.
LIKELIHOOD = """
import jax, numpy as np
from scipy import stats
from vae_jax.likelihoods import create_likelihood
laplace = create_likelihood("laplace", num_channels=1)
outputs = jax.random.normal(jax.random.key(0), (5, 4, 4, 2))
x = jax.random.uniform(jax.random.key(1), (5, 4, 4, 1))
location, log_scale = (np.asarray(p) for p in laplace._parameters(outputs))
expected = stats.laplace.logpdf(x, location, np.exp(log_scale)).sum(axis=(1, 2, 3))
np.testing.assert_allclose(laplace.log_prob(outputs, x), expected, rtol=1e-5)
"""
PRIOR = """
import jax, jax.numpy as jnp, numpy as np
from scipy import stats
from vae_jax.priors.student_t import StudentT
prior = StudentT((3,), degrees=4.0)
z = jax.random.normal(jax.random.key(0), (7, 3))
scale = jnp.array([0.5, 1.0, 2.0])
log_prob = prior.apply({"params": {"log_scale": jnp.log(scale)}}, z, method="log_prob")
expected = stats.t.logpdf(z, 4.0, scale=scale).sum(axis=1)
np.testing.assert_allclose(log_prob, expected, rtol=1e-5)
"""
SAMPLER = """
import jax, jax.numpy as jnp, numpy as np
from vae_jax.priors import samplers
def predict_v(z_t, gamma):  # if every latent is 0.7
    alpha, sigma = samplers.alpha_sigma(gamma)
    return alpha * (z_t - alpha * 0.7) / sigma - sigma * 0.7
gammas = jnp.linspace(8.0, -10.0, 5)
z = samplers.sample("renoise", predict_v, jax.random.key(0), (100, 2), gammas)
np.testing.assert_allclose(z, 0.7, atol=0.05)  # the last noise has the standard deviation exp(-5)
assert 0.003 < z.std() < 0.01
"""
FINDING = """
import types
import numpy as np
from vae_jax.doctor.model import RULES, concentrated_rate
assert concentrated_rate in RULES
finding = concentrated_rate(None, types.SimpleNamespace(rate_per_dim=np.array([6.0, 3.0, 1.0])))
assert finding.evidence == "One of 3 dimensions has 60% of the rate.", finding
even = types.SimpleNamespace(rate_per_dim=np.array([4.0, 3.0, 3.0]))
assert concentrated_rate(None, even) is None
"""


def apply_diff(text: str, diff: str) -> str:
    """`text` with the lines of the diff replaced; its context must be there exactly once."""
    lines = diff.splitlines()
    assert all(line[:1] in (" ", "+", "-", "") for line in lines), diff
    old = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
    new = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
    assert text.count(old) == 1, f"{text.count(old)} places for:\n{old}"
    return text.replace(old, new)


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> pathlib.Path:
    """A copy of the repository with every recipe applied."""
    directory = tmp_path_factory.mktemp("extended")
    for name in ("vae_jax", "configs"):
        shutil.copytree(REPOSITORY / name, directory / name)
    for name in ("train.py", "evaluate.py"):
        shutil.copy(REPOSITORY / name, directory)
    for kind, name, text in BLOCK.findall((REPOSITORY / "docs" / "extending.md").read_text()):
        path = directory / name
        assert path.exists() == (kind == "diff"), name
        path.write_text(text if kind == "python" else apply_diff(path.read_text(), text))
    return directory


def run(directory: pathlib.Path, *arguments: object) -> None:
    completed = run_python(*arguments, cwd=directory)
    assert completed.returncode == 0, completed.stderr


@pytest.mark.parametrize(
    "check",
    [LIKELIHOOD, PRIOR, SAMPLER, FINDING],
    ids=["likelihood", "prior", "sampler", "finding"],
)
def test_recipe_computes_what_it_says(copy, check):
    run(copy, "-c", check)


@pytest.mark.long
def test_run_with_all_recipes(copy, tmp_path):
    """Trains on the new dataset with the new likelihood and prior, and evaluates."""
    workdir = tmp_path / "run"
    values = {
        **TINY,
        "data.name": "shapes",
        "data.dir": str(tmp_path),
        "likelihood.name": "laplace",
        "prior.name": "student_t",
    }
    flags = [f"--config.{key}={value}" for key, value in values.items()]
    run(copy, "train.py", "--config=default", f"--workdir={workdir}", *flags)
    run(copy, "evaluate.py", f"--workdir={workdir}", "--num_samples=0", "--num_failures=0")
    metrics = stored.read(workdir / "eval" / "metrics.json")
    assert 0 < metrics["mae"].value < 1
    assert metrics["mae"].num_images == 16
    assert math.isfinite(metrics["elbo"].value)
    assert "iw_elbo" in metrics  # the prior is exact
    assert "log_scale" in (workdir / "parameters.md").read_text()
