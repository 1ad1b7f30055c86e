"""Tests of vae_jax/doctor/non_finite.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from tests.conftest import IMAGE_SHAPE
from vae_jax.doctor import first_non_finite
from vae_jax.likelihoods import Bernoulli, Gaussian
from vae_jax.models import VAE
from vae_jax.tasks import VAETask

LATENT_DIMS, WIDTH, BATCH = 4, 8, 3
POSITIONS = 16  # of the only stage: 16 x 16 pixels in patches of 4 x 4
HUGE = 1e38  # float32 ends at 3.4e38
BLOCK = "stage_0/ResidualBlock_0"
NAMES = [
    f"{part}/{module}/{parameter}"
    for part in ("encoder", "decoder")
    for module in ("stem", f"{BLOCK}/GroupNorm_0", f"{BLOCK}/Conv_1", "GroupNorm_0", "head")
    for parameter in (("scale", "bias") if "Norm" in module else ("kernel", "bias"))
]


def make_model(**overrides) -> VAE:
    arguments = {"latent_shape": (LATENT_DIMS,), "num_outputs": 1, **overrides}
    return VAE(IMAGE_SHAPE, widths=(WIDTH,), num_blocks=(1,), patch_size=4, **arguments)


@pytest.fixture(scope="module")
def model() -> VAE:
    return make_model()


def init(model: VAE) -> dict[str, jax.Array]:
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *IMAGE_SHAPE)))
    return flatten_dict(variables["params"], sep="/")


@pytest.fixture(scope="module")
def params(model) -> dict[str, jax.Array]:
    return init(model)


def locate(model, params, x=None, likelihood=None, kl_weight=1.0, **planted) -> str | None:
    """Fills the `planted` parameters (keys with __ for /) and returns which tensor is named."""
    changed = {name.replace("__", "/"): value for name, value in planted.items()}
    assert changed.keys() <= params.keys()
    filled = {name: jnp.full_like(params[name], value) for name, value in changed.items()}
    likelihood = likelihood or Bernoulli(1)
    x = jax.random.uniform(jax.random.key(1), (BATCH, *IMAGE_SHAPE)) if x is None else x
    task = VAETask(model, likelihood)
    batch = task.prepare({"x": x}, jax.random.key(2), step=0)
    tree = unflatten_dict({**params, **filled}, sep="/")
    return first_non_finite(task, tree, batch, kl_weight)


def test_nothing_is_named_where_all_is_finite(model, params):
    assert locate(model, params) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", NAMES)
def test_one_bad_entry_of_a_parameter_is_named(model, params, name, bad):
    spoilt = params[name].at[(-1,) * params[name].ndim].set(bad)
    actual = locate(model, {**params, name: spoilt})
    assert actual == f"parameter {name}"


def test_bad_image_is_named(model, params):
    x = jnp.zeros((BATCH, *IMAGE_SHAPE)).at[1, 2, 3, 0].set(jnp.nan)
    assert locate(model, params, x) == "images"


# The forward pass: all parameters finite, one so large that its products are not


@pytest.mark.parametrize(
    ("planted", "named"),
    [
        # White images: sums of 16 to 144 products, or more.
        ({"encoder__stem__kernel": HUGE}, "encoder/stem"),
        ({f"encoder__{BLOCK}__Conv_0__kernel": HUGE}, f"encoder/{BLOCK}/Conv_0"),
        # The bias added to features of the same size: their square is not finite.
        ({"encoder__stem__bias": 1e25}, f"encoder/{BLOCK}/GroupNorm_0"),
        # silu(1) = 0.73 at all 128 features.
        (
            {
                "encoder__GroupNorm_0__scale": 0.0,
                "encoder__GroupNorm_0__bias": 1.0,
                "encoder__head__kernel": HUGE,
            },
            "encoder/head",
        ),
        # z is about 30, and 4 HUGE z is not finite.
        (
            {
                "encoder__head__kernel": 0.0,
                "encoder__head__bias": 30.0,
                "decoder__stem__kernel": HUGE,
            },
            "decoder/stem",
        ),
        ({"decoder__stem__bias": 1e25}, f"decoder/{BLOCK}/GroupNorm_0"),
        (
            {
                "decoder__GroupNorm_0__scale": 0.0,
                "decoder__GroupNorm_0__bias": 1.0,
                "decoder__head__kernel": HUGE,
            },
            "decoder/head",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_overflow_of_the_forward_pass_is_named_by_its_module(model, params, planted, named):
    planted = {name.replace("/", "__"): value for name, value in planted.items()}
    x = jnp.ones((BATCH, *IMAGE_SHAPE))
    assert locate(model, params, x, **planted) == f"output of {named}"


def test_overflow_of_either_term_is_named(model, params):
    # 256 pixels, each with a cross-entropy of HUGE where it is black.
    black = jnp.zeros((BATCH, *IMAGE_SHAPE))
    assert locate(model, params, black, decoder__head__bias=HUGE) == "distortion"
    # The mean is 1e20, and its square costs a rate that is not finite; the decoder ignores z.
    planted = {"encoder__head__bias": 1e20, "decoder__stem__kernel": 0.0}
    assert locate(model, params, black, **planted) == "rate"


def test_log_std_of_the_decoder_is_one_of_its_parameters():
    likelihood = Gaussian(1)
    model = make_model(num_outputs=likelihood.num_outputs, has_log_std=True)
    params = init(model)
    assert locate(model, params, likelihood=likelihood) is None
    named = locate(model, params, likelihood=likelihood, decoder__log_std=jnp.nan)
    assert named == "parameter decoder/log_std"


@pytest.mark.long
def test_modules_of_attention_are_known():
    model = make_model(latent_shape=(4, 4, 2), attention_resolutions=(4,))
    params = init(model)
    assert locate(model, params) is None
    attention = "stage_0__AttentionBlock_0__MultiHeadDotProductAttention_0"
    named = locate(model, params, **{f"decoder__{attention}__query__kernel": HUGE})
    assert named == f"output of decoder/{attention.replace('__', '/')}/query"


# The gradient alone: loss and outputs are finite


@pytest.mark.parametrize(("feature", "named"), [(1e36, None), (HUGE, "decoder/head/kernel")])
def test_gradient_of_the_decoder_is_named(model, params, feature, named):
    """The head sees `feature` at all positions and passes 0 on; its own gradient sums over them.

    For black images, each logit has the gradient sigmoid(0) = 1/2, so that the gradient of the
    middle of the kernel is POSITIONS / 2 * feature.
    """
    assert (0.5 * POSITIONS * feature > float(np.finfo(np.float32).max)) == (named is not None)
    black = jnp.zeros((BATCH, *IMAGE_SHAPE))
    planted = {
        "decoder__GroupNorm_0__scale": 0.0,
        "decoder__GroupNorm_0__bias": feature,
        "decoder__head__kernel": 0.0,
        "decoder__head__bias": 0.0,
    }
    expected = None if named is None else f"gradient of {named}"
    assert locate(model, params, black, **planted) == expected


@pytest.mark.parametrize(("kl_weight", "named"), [(0.0, None), (1.0, "encoder/head/kernel")])
def test_gradient_of_the_encoder_is_named(model, params, kl_weight, named):
    """The rate of a mean of 100 has the gradient 100, which meets features of HUGE.

    The decoder ignores z, so that without the rate no gradient reaches the encoder.
    """
    planted = {
        "encoder__GroupNorm_0__scale": 0.0,
        "encoder__GroupNorm_0__bias": HUGE,
        "encoder__head__kernel": 0.0,
        "encoder__head__bias": 100.0,
        "decoder__stem__kernel": 0.0,
    }
    expected = None if named is None else f"gradient of {named}"
    assert locate(model, params, kl_weight=kl_weight, **planted) == expected


def test_last_module_with_a_bad_gradient_is_named(model, params):
    """Backpropagation meets the decoder first."""
    planted = {
        f"{part}__GroupNorm_0__{name}": value
        for part in ("encoder", "decoder")
        for name, value in (("scale", 0.0), ("bias", HUGE))
    }
    planted |= {"encoder__head__kernel": 0.0, "encoder__head__bias": 100.0}
    planted |= {"decoder__head__kernel": 0.0, "decoder__head__bias": 0.0}
    black = jnp.zeros((BATCH, *IMAGE_SHAPE))
    assert locate(model, params, black, **planted) == "gradient of decoder/head/kernel"
