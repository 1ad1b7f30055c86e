"""Tests of vae_jax/runtime/settings.py: results do not depend on JAX's settings."""

import contextlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vae_jax
from tests.conftest import TINY, config_flags, read_state, run_command, smooth_images
from vae_jax import streams
from vae_jax.distributions import DiagonalGaussian, sample_posterior
from vae_jax.runtime.provenance import jax_settings
from vae_jax.runtime.settings import standard_settings

N = 3
KEY = jax.random.key(5)
IMAGES = smooth_images(N)
Z = np.random.default_rng(0).normal(size=(N, *TINY["model.latent_shape"]))
# What a notebook may have set, as contexts.
OTHERS = {
    "x64": lambda: jax.enable_x64(True),
    "rbg": lambda: jax.default_prng_impl("rbg"),
    "unsafe_rbg": lambda: jax.default_prng_impl("unsafe_rbg"),
    "not_partitionable": lambda: jax.threefry_partitionable(False),
    "strict_dtypes": lambda: jax.numpy_dtype_promotion("strict"),
    "no_rank_promotion": lambda: jax.numpy_rank_promotion("raise"),
    "no_old_keys": lambda: jax.legacy_prng_key("error"),
    "key_reuse": lambda: jax.debug_key_reuse(True),
    "tracer_leaks": jax.checking_leaks,
    "transfer_guard": lambda: jax.transfer_guard("disallow_explicit"),
    "debug_nans": lambda: jax.debug_nans(True),
    "debug_infs": lambda: jax.debug_infs(True),
    "disable_jit": jax.disable_jit,
}
other_settings = pytest.mark.parametrize("name", OTHERS)


def results(vae: vae_jax.TrainedVAE) -> dict[str, np.ndarray]:
    posterior = vae.encode(IMAGES)
    return {
        "mean": posterior.mean,
        "log_std": posterior.log_std,
        "decode": vae.decode(Z),
        "reconstruct": vae.reconstruct(IMAGES, KEY),
        "sample": vae.sample(KEY, N, draw=True),
        "sample_prior": vae.sample_prior(KEY, N, 0.5),
        "to_noise": vae.to_noise(Z),
        "log_prior": vae.log_prior(Z, KEY),
        "log_prob": vae.log_prob(IMAGES, Z),
        "elbo": vae.elbo(IMAGES, KEY),
        "iw_elbo": vae.iw_elbo(IMAGES, KEY, 2),
    }


@pytest.fixture(scope="module")
def usual_results(vae) -> dict[str, np.ndarray]:
    return results(vae)


def assert_same(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, value in expected.items():
        assert actual[name].dtype == np.float32, name
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


@other_settings
def test_results_of_a_model_do_not_depend_on_the_settings(vae, usual_results, name):
    with OTHERS[name]():
        assert_same(results(vae), usual_results)


def test_model_is_loaded_with_all_other_settings_at_once(trained_workdir, usual_results):
    with contextlib.ExitStack() as stack:
        for context in OTHERS.values():
            stack.enter_context(context())
        vae = vae_jax.load(trained_workdir)
        assert {leaf.dtype for leaf in jax.tree.leaves(vae.params)} == {np.dtype(np.float32)}
        assert_same({"elbo": vae.elbo(IMAGES, KEY)}, {"elbo": usual_results["elbo"]})


def test_mesh_of_the_user_does_not_matter(vae, usual_results):
    """One setting of its own, because functions are compiled again in the scope of a mesh."""
    with jax.set_mesh(jax.make_mesh((1,), ("x",), devices=jax.local_devices()[:1])):
        assert_same({"mean": vae.encode(IMAGES).mean}, {"mean": usual_results["mean"]})


@pytest.mark.parametrize("name", [name for name in OTHERS if name != "transfer_guard"])
def test_streams_do_not_depend_on_the_settings(name):
    expected = np.asarray(jax.random.key_data(streams.stream("eval/pixels", 3)))
    with OTHERS[name]():
        key = streams.stream("eval/pixels", 3)
        assert key.dtype == KEY.dtype
    np.testing.assert_array_equal(jax.random.key_data(key), expected)


@pytest.mark.parametrize("seed", [0, 3, 2**31 - 1, 2**31, 2**32 - 1])
def test_streams_begin_at_the_key_that_jax_makes_by_default(seed):
    expected = jax.random.key_data(jax.random.key(seed))
    np.testing.assert_array_equal(jax.random.key_data(streams.stream("codes", seed)), expected)


def test_draws_from_a_posterior_stay_float32():
    posterior = DiagonalGaussian(np.float32(Z), np.float32(Z))
    expected = np.asarray(sample_posterior(posterior, KEY))
    with jax.enable_x64(True):
        drawn = np.asarray(sample_posterior(posterior, KEY))
    assert drawn.dtype == np.float32
    np.testing.assert_array_equal(drawn, expected)


# The context itself


def test_settings_hold_in_the_block_only_and_blocks_nest():
    with jax.enable_x64(True), jax.debug_nans(True):
        with standard_settings(), standard_settings():
            assert jnp.zeros(1).dtype == np.float32
            assert np.isnan(jnp.log(-jnp.ones(()))).all()  # raises nothing
        assert jnp.zeros(1).dtype == np.float64
        with pytest.raises(FloatingPointError):
            jnp.log(-jnp.ones(()))


def test_functions_jitted_outside_of_the_block_stay_compiled():
    calls = []

    @jax.jit
    def function(x):
        calls.append(x)
        return x + 1

    function(np.ones(3))
    with standard_settings():
        function(np.ones(3))
    assert len(calls) == 1


def test_provenance_names_the_settings_that_matter():
    with standard_settings():
        usual = jax_settings()
    assert usual == {
        "key_kind": "threefry2x32",
        "enable_x64": False,
        "threefry_partitionable": True,
        "default_matmul_precision": None,
    }
    with jax.default_matmul_precision("highest"), standard_settings():
        assert jax_settings() == {**usual, "default_matmul_precision": "highest"}


@pytest.mark.long
def test_training_does_not_depend_on_the_settings(trained_workdir, data_dir, tmp_path):
    settings = (
        "JAX_ENABLE_X64=1",
        "JAX_DEFAULT_PRNG_IMPL=rbg",
        "JAX_THREEFRY_PARTITIONABLE=0",
        "JAX_NUMPY_DTYPE_PROMOTION=strict",
        "JAX_NUMPY_RANK_PROMOTION=raise",
        "JAX_DEBUG_NANS=1",
        "JAX_DEBUG_INFS=1",
        "JAX_TRANSFER_GUARD=disallow",
        "JAX_DISABLE_JIT=1",
    )
    workdir, python = tmp_path / "run", ("env", *settings, sys.executable)
    flags = config_flags(data_dir, train__diagnose=True)
    # The second command resumes, and finds nothing to do.
    for _ in range(2):
        trained = run_command(*python, "train.py", f"--workdir={workdir}", *flags)
        assert trained.returncode == 0, trained.stderr
    states = [jax.device_get(read_state(directory)) for directory in (workdir, trained_workdir)]
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert [leaf.dtype for leaf in jax.tree.leaves(states[0])] == [
        leaf.dtype for leaf in jax.tree.leaves(states[1])
    ]
    for command in ("evaluate.py", "-mvae_jax.doctor"):
        done = run_command(*python, command, f"--workdir={workdir}")
        assert "Traceback" not in done.stderr and "damaged" not in done.stderr, done.stderr
