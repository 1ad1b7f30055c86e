"""Tests of vae_jax/streams.py: stored results depend on every key."""

import jax
import numpy as np
import pytest

from vae_jax import streams

SEED = 3
KEY = jax.random.key(SEED)
# The derivations with which the committed results were computed.
EXPECTED = {
    "init": jax.random.split(KEY)[0],
    "train": jax.random.split(KEY)[1],
    "codes": KEY,
    "eval/binary": jax.random.fold_in(KEY, 1),
    "eval/elbo": jax.random.split(KEY, 3)[0],
    "eval/iw_elbo": jax.random.split(KEY, 3)[1],
    "eval/samples": jax.random.split(KEY, 3)[2],
    "eval/paths": jax.random.fold_in(jax.random.split(KEY, 3)[2], 1),
    "eval/log_prior": KEY,
    **{
        f"eval/{name}": jax.random.split(jax.random.fold_in(KEY, 2), 5)[i]
        for i, name in enumerate(("prior", "images", "posterior", "reconstructions", "pixels"))
    },
    "validation/elbo": jax.random.split(KEY)[0],
    "validation/samples": jax.random.split(KEY)[1],
    **{
        f"doctor/{name}": jax.random.split(jax.random.fold_in(KEY, 3), 3)[i]
        for i, name in enumerate(("elbo", "posterior", "prior"))
    },
    "ablation/elbo": KEY,
    "ablation/samples": jax.random.fold_in(KEY, 2),
    "priors/posterior_0": jax.random.fold_in(KEY, 10),
    "priors/posterior_1": jax.random.fold_in(KEY, 11),
}


def data(key: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(key))


@pytest.mark.parametrize("name", streams._DERIVATIONS)
def test_stream_is_the_one_of_stored_results(name):
    np.testing.assert_array_equal(data(streams.stream(name, SEED)), data(EXPECTED[name]))


def test_keys_of_a_step_are_functions_of_the_step():
    keys = streams.step_keys(KEY, 5)
    flip, binary, posterior = jax.random.split(jax.random.fold_in(KEY, 5), 3)
    expected = (flip, binary, posterior, jax.random.fold_in(posterior, 1))
    for key, other in zip(keys, expected, strict=True):
        np.testing.assert_array_equal(data(key), data(other))
    assert np.any(data(streams.step_keys(KEY, 6).flip) != data(flip))
