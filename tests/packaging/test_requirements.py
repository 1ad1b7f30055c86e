"""Version ranges stand in pyproject.toml only."""

import tomllib

import pytest

import vae_jax
from scripts import requirements
from tests.conftest import REPOSITORY


@pytest.mark.parametrize("name", requirements.HEADERS)
def test_requirements_are_those_of_pyproject(name):
    """If not: `make format`."""
    assert (REPOSITORY / name).read_text() == requirements.render()[name]


def test_base_installs_no_tensorflow():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    names = " ".join(project["dependencies"])
    assert not any(name in names for name in ("tensorflow", "tensorboard", "clu", "torch"))


def test_version_is_in_the_changelog():
    assert f"## [{vae_jax.__version__}]" in (REPOSITORY / "CHANGELOG.md").read_text()
