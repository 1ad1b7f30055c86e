"""Tests of vae_jax/inference/arguments.py, and that each public method passes its gate."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vae_jax
from tests.conftest import IMAGE_SHAPE, TINY, smooth_images
from vae_jax.distributions import DiagonalGaussian
from vae_jax.errors import InputError
from vae_jax.inference import arguments

N = 3
LATENT_SHAPE = TINY["model.latent_shape"]
LATENT = jax.ShapeDtypeStruct(LATENT_SHAPE, jnp.float32)
GROUPS = {"grid": jax.ShapeDtypeStruct((2, 2, 1), jnp.float32), "vector": LATENT}
KEY = jax.random.key(5)
IMAGES = smooth_images(N)
FLOATS = IMAGES / np.float32(255)
Z = np.random.default_rng(0).normal(size=(N, *LATENT_SHAPE)).astype(np.float32)


def with_value(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.copy()
    changed[(1, *[0] * (array.ndim - 1))] = value
    return changed


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


# Images


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (IMAGES, IMAGES),
        (jnp.asarray(IMAGES), IMAGES),
        (read_only(IMAGES), IMAGES),
        (FLOATS.tolist(), FLOATS),
        (FLOATS.astype(np.float64), FLOATS),
        (FLOATS.astype(">f4"), FLOATS),
        (FLOATS.astype(np.float16), FLOATS.astype(np.float16).astype(np.float32)),
        (jnp.asarray(FLOATS, jnp.bfloat16), FLOATS.astype(jnp.bfloat16).astype(np.float32)),
        (np.ma.masked_array(FLOATS), FLOATS),
        (IMAGES > 100, (IMAGES > 100).astype(np.float32)),
    ],
    ids=["uint8", "jax", "read_only", "list", "f64", "endian", "f16", "bf16", "unmasked", "bool"],
)
def test_images_of_every_sensible_kind_are_taken(given, expected):
    images = arguments.images(given, IMAGE_SHAPE)
    assert type(images) is np.ndarray and images.dtype == expected.dtype
    np.testing.assert_array_equal(images, expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, r"images have dtype object \(a NoneType\)"),
        ("cat", "images have dtype <U3"),
        (IMAGES.astype(object), "images have dtype object"),
        (FLOATS + 0j, "images have dtype complex64"),
        (IMAGES.astype(np.int64), r"dtype int64: .* pass np.asarray\(images, np.uint8\)"),
        (IMAGES.tolist(), r"dtype int64 \(a list\): .* pass np.asarray\(images, np.uint8\)"),
        ([[1, 2], [3]], "images: not readable as an array"),
        ([], r"images have shape \(0,\)"),
        (with_value(FLOATS, np.nan), r"images have 1 of 768 .* the first nan at \(1, 0, 0, 0\)"),
        (with_value(FLOATS, np.inf), "images have 1 of 768 .* the first inf"),
        (FLOATS.astype(np.float64) * 1e300, "images have 768 of 768 .* the first inf"),
        (with_value(FLOATS, 1.001), "lie in .*, 1.001]: scale them"),
        (np.ma.masked_array(FLOATS, FLOATS > 0.9), r"images: .* masked.*images.filled\("),
        (KEY, "images: not readable as an array"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_images_are_refused(given, message):
    with pytest.raises(InputError, match=message) as raised:
        arguments.images(given, IMAGE_SHAPE)
    assert "\n" not in str(raised.value)


# Latents


class Unreadable:
    def __array__(self, *_, **__):
        raise AttributeError("it is broken")


@pytest.mark.parametrize(
    "given",
    [Z, Z.tolist(), jnp.asarray(Z), Z.astype(np.float64), read_only(Z)],
    ids=["array", "list", "jax", "f64", "read_only"],
)
def test_latents_of_every_sensible_kind_are_taken(given):
    z = arguments.latents(given, LATENT)
    assert type(z) is np.ndarray and z.dtype == np.float32
    np.testing.assert_array_equal(z, Z)


def test_integers_are_latents():
    given = np.arange(4).reshape(1, 4)
    np.testing.assert_array_equal(arguments.latents(given, LATENT), given.astype(np.float32))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (with_value(Z, np.nan), r"noise has 1 of 12 .* the first nan at \(1, 0\)"),
        (with_value(Z, -np.inf), "noise has 1 of 12 .* the first -inf"),
        (Z.astype(np.float64) + 1e300, "noise has 12 of 12 .* float32"),
        (Z + 0j, "noise has dtype complex64"),
        (Z > 0, "noise has dtype bool"),
        (None, r"noise has dtype object \(a NoneType\)"),
        (DiagonalGaussian(Z, Z), r"\(a DiagonalGaussian\): .* pass the mean"),
        (Z[:0], r"noise has shape \(0, 4\)"),
        ((Z, Z), r"noise has shape \(2, 3, 4\)"),
        (np.ma.masked_array(Z, Z > 0), "noise: some values are masked"),
        ([np.ma.masked_array(row, row > 0) for row in Z], "noise: some values are masked"),
        (Z + 1e16, r"noise has values up to 1e\+16: beyond 1e\+15"),
        (Unreadable(), "noise: not readable as an array .it is broken"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_latents_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        arguments.latents(given, LATENT, "noise")


def test_groups_of_latents_are_a_tree():
    given = {"grid": np.zeros((N, 2, 2, 1)), "vector": Z.tolist()}
    z = arguments.latents(given, GROUPS)
    assert z.keys() == GROUPS.keys()
    assert [z[name].dtype for name in z] == [np.float32] * 2
    np.testing.assert_array_equal(z["vector"], Z)
    arguments.same_length("images", IMAGES, "z", z)
    with pytest.raises(InputError, match="images and z have 2 and 3 rows"):
        arguments.same_length("images", IMAGES[:2], "z", z)
    with pytest.raises(InputError, match="z and another group of z have 3 and 2 rows"):
        arguments.latents({**given, "vector": Z[:2]}, GROUPS)
    for wrong in (Z, None, {"grid": given["grid"]}, {**given, "more": Z}):
        with pytest.raises(InputError, match=r"z is .*'grid': '\(N, 2, 2, 1\)'"):
            arguments.latents(wrong, GROUPS)


# Numbers


@pytest.mark.parametrize(
    "given", [2, np.int32(2), np.uint8(2), np.array(2), jnp.array(2)], ids=repr
)
def test_whole_numbers_are_counts(given):
    assert type(arguments.count("n", given)) is int and arguments.count("n", given) == 2


@pytest.mark.parametrize(
    "given",
    [0, -1, 1.5, 2.0, True, np.True_, "3", None, np.nan, 11, 10**12, 10**5000, np.array([2])],
    ids=lambda value: str(value)[:9] if not isinstance(value, int) or value < 99 else "",
)
def test_other_counts_are_refused(given):
    with pytest.raises(InputError, match="n = .*: must be an integer, at least 1 and at most 10"):
        arguments.count("n", given, maximum=10)


@pytest.mark.parametrize("given", [0, 1, 0.5, np.float32(0.5), np.array(0.5), jnp.array(0.5)])
def test_temperatures(given):
    assert type(arguments.temperature(given)) is float
    assert arguments.temperature(given) == float(given)


@pytest.mark.parametrize(
    "given",
    [-1, np.nan, np.inf, 1e39, 100.1, True, "1", None, 1j, [0.5], 10**400],
    ids=lambda v: str(v)[:9],
)
def test_other_temperatures_are_refused(given):
    with pytest.raises(
        InputError, match="temperature = .*: must be a number from 0 to 100 .1: the"
    ):
        arguments.temperature(given)


# Keys


def words(key: jax.Array) -> list[int]:
    return np.asarray(jax.random.key_data(key)).tolist()


def test_keys_of_the_usual_kind_stay_as_they_are():
    old_style = jax.random.PRNGKey(5)
    for given in (KEY, old_style, np.asarray(old_style)):
        key = arguments.key(given)
        assert key.dtype == KEY.dtype and words(key) == words(KEY)


@pytest.mark.parametrize("kind", ["rbg", "unsafe_rbg"])
def test_keys_of_another_kind_become_keys_of_the_usual_one(kind):
    keys = [arguments.key(jax.random.key(seed, impl=kind)) for seed in (0, 1, 1)]
    assert {key.dtype for key in keys} == {KEY.dtype}
    assert words(keys[0]) != words(keys[1]) == words(keys[2])


@pytest.mark.parametrize(
    "given",
    [
        5,
        None,
        "key",
        [0, 1],
        np.random.default_rng(0),
        jax.random.split(KEY, 2),
        jax.random.split(KEY, 1),
        jax.random.PRNGKey(5, impl="rbg"),  # also a key of the kind unsafe_rbg
        np.zeros((3, 2), np.uint32),
        np.zeros(2, np.int32),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_single_key_is_refused(given):
    with pytest.raises(InputError, match=r"key is .*: must be .* jax.random.key\(seed\)"):
        arguments.key(given)


# The methods


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("images", lambda vae, bad: vae.encode(bad)),
        ("images", lambda vae, bad: vae.reconstruct(bad)),
        ("images", lambda vae, bad: vae.log_prob(bad, Z)),
        ("images", lambda vae, bad: vae.elbo_terms(bad, KEY)),
        ("images", lambda vae, bad: vae.elbo(bad, KEY)),
        ("images", lambda vae, bad: vae.iw_elbo(bad, KEY)),
        ("z", lambda vae, bad: vae.decode(bad)),
        ("z", lambda vae, bad: vae.to_noise(bad)),
        ("noise", lambda vae, bad: vae.from_noise(bad)),
        ("z", lambda vae, bad: vae.log_prior(bad, KEY)),
        ("z", lambda vae, bad: vae.log_prob(IMAGES, bad)),
        ("key", lambda vae, bad: vae.decode(Z, bad)),
        ("key", lambda vae, bad: vae.reconstruct(IMAGES, bad)),
        ("key", lambda vae, bad: vae.sample(bad, 2)),
        ("key", lambda vae, bad: vae.sample_prior(bad, 2)),
        ("key", lambda vae, bad: vae.log_prior(Z, bad)),
        ("key", lambda vae, bad: vae.elbo_terms(IMAGES, bad)),
        ("key", lambda vae, bad: vae.elbo(IMAGES, bad)),
        ("key", lambda vae, bad: vae.iw_elbo(IMAGES, bad)),
        ("n", lambda vae, bad: vae.sample(KEY, bad)),
        ("n", lambda vae, bad: vae.sample_prior(KEY, bad)),
        ("num_samples", lambda vae, bad: vae.iw_elbo(IMAGES, KEY, bad)),
        ("temperature", lambda vae, bad: vae.sample(KEY, 2, temperature=bad)),
        ("temperature", lambda vae, bad: vae.sample_prior(KEY, 2, bad)),
        ("draw", lambda vae, bad: vae.sample(KEY, 2, draw=bad)),
    ],
)
def test_every_argument_of_every_method_is_checked(vae, name, call):
    for bad in (np.full(3, np.nan), "text"):
        with pytest.raises(InputError, match=rf"^{name}\b"):
            call(vae, bad)


@pytest.mark.parametrize("n", [1, 2])
def test_log_prob_needs_a_latent_for_each_image(vae, n):
    """Both lengths fit into one batch."""
    with pytest.raises(InputError, match=f"images and z have {N} and {n} rows"):
        vae.log_prob(IMAGES, Z[:n])


def test_largest_number_of_samples_fits_into_an_array(vae):
    with pytest.raises(InputError, match="at most 536,870,911"):  # times 4, below 2^31
        vae.sample(KEY, 2**29)


def test_images_in_the_middle_of_a_jax_function_are_refused(vae):
    with pytest.raises(InputError, match="images: traced by JAX"):
        jax.eval_shape(lambda x: vae.encode(x).mean, FLOATS)
    with pytest.raises(InputError, match="key: traced by JAX"):
        jax.eval_shape(lambda key: vae.sample(key, 2), KEY)


def test_draws_with_a_key_of_another_kind_do_not_depend_on_the_batch(vae):
    """JAX's own draws from several such keys at once do."""
    key = jax.random.key(5, impl="rbg")
    drawn = vae.elbo(IMAGES, key)
    np.testing.assert_allclose(vae.elbo(IMAGES[:2], key), drawn[:2], rtol=1e-6)
    same_images = np.repeat(IMAGES[:1], 2, axis=0)
    assert len(np.unique(vae.elbo(same_images, key))) == 2


def test_returned_images_are_accepted(vae):
    for images in (vae.sample(KEY, N), vae.sample(KEY, N, draw=True), vae.decode(Z, KEY)):
        vae.encode(images)
    vae.encode(vae.reconstruct(IMAGES))


# Loading


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size = 0: must be an integer, at least 1"),
        ({"batch_size": 1.5}, "batch_size = 1.5: must be an integer"),
        ({"batch_size": True}, "batch_size = True: must be an integer"),
        ({"use_ema": "no"}, "use_ema = 'no': must be True or False"),
        ({"num_iw_images": -1}, "num_iw_images = -1: must be an integer, at least 0"),
        ({"data_dir": 5}, "data_dir = 5: must be the path of a directory"),
        ({"checkpoint": None}, "checkpoint None must be 'best', 'latest' or"),
        ({"checkpoint": 1.5}, "checkpoint 1.5 must be 'best', 'latest' or"),
        ({"checkpoint": -1}, "checkpoint -1 must be 'best', 'latest' or"),
        ({"workdir": None}, "workdir = None: must be the path of a directory"),
        ({"workdir": __file__}, "workdir = .*test_arguments.py': must be the path of a directory"),
    ],
    ids=str,
)
def test_wrong_arguments_of_load_are_refused(trained_workdir, changes, message):
    with pytest.raises(InputError, match=message):
        vae_jax.load(**{"workdir": trained_workdir, **changes})


def test_numpy_numbers_and_paths_are_arguments_of_load(trained_workdir, data_dir):
    vae = vae_jax.load(
        pathlib.Path(trained_workdir),
        np.int64(24),
        batch_size=np.int64(6),
        use_ema=np.False_,
        data_dir=data_dir,
        num_iw_images=np.int32(0),
    )
    assert (vae.step, vae.batch_size, vae.raw) == (24, 6, None)
    plan = vae.experiment.evaluation
    assert (plan.use_ema, plan.num_iw_images) == (False, 0)


def test_deleted_key_is_refused():
    key = jax.random.key(3)
    key.delete()
    with pytest.raises(InputError, match="key: not readable as an array"):
        arguments.key(key)
