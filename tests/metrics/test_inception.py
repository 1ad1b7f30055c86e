"""Tests of vae_jax/metrics/inception.py, beside pytorch-fid's network with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.metrics import torch_reference
from vae_jax import data
from vae_jax.metrics import inception_weights
from vae_jax.metrics.features import FeatureExtractor, preprocess_pytorch_fid
from vae_jax.metrics.frechet import GaussianStatistics, frechet_distance
from vae_jax.metrics.inception import LOGITS, TAPS, InceptionV3
from vae_jax.metrics.inception_layers import LAYER_SHAPES
from vae_jax.metrics.inception_weights import InceptionWeights

PARTIAL_FILES = sorted((REPOSITORY.parent / "shared/data/inception").glob("*.npz"))
STEM = ("conv", "conv_1", "conv_2")  # the layers up to tap 64

# pytorch_fid 0.3 asks SciPy for sqrtm(disp=False), which SciPy deprecated.
IGNORE_DISP = pytest.mark.filterwarnings("ignore:The `disp` argument is deprecated")


def fid_network_features(network, images: np.ndarray, num_taps: int = 4) -> list[np.ndarray]:
    """What pytorch-fid computes from uint8 images [N, H, W, C], grey ones as their RGB."""
    import torch

    extractor = torch_reference.fid_features(network)
    extractor.blocks = extractor.blocks[:num_taps]
    rgb = np.broadcast_to(images, (*images.shape[:-1], 3)).transpose(0, 3, 1, 2)
    maps = extractor(torch.from_numpy(np.ascontiguousarray(rgb)) / 255)
    return [tap.mean((2, 3)).numpy() for tap in maps]


def pytorch_fid_distance(x: np.ndarray, y: np.ndarray) -> float:
    """pytorch-fid's own distance of two sets of features."""
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    moments = [(f.mean(axis=0), np.cov(f, rowvar=False)) for f in (np.float64(x), np.float64(y))]
    return fid_score.calculate_frechet_distance(*moments[0], *moments[1])


def assert_close(found: np.ndarray, expected: np.ndarray):
    """Asserts equality to 1e-5 of the largest feature; rounding alone gives less than 1e-6."""
    assert found.dtype == np.float32
    assert expected.std() > 0.05 * np.abs(expected).max()  # constants would agree by accident
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def assert_same_features_and_distance(ours: list[np.ndarray], theirs: list[np.ndarray]):
    """Compares two sets of few images, and their distance along axes that span their features.

    The distance does not depend on the axes, and pytorch-fid needs most of a minute for the root of
    a matrix of 2048 x 2048.
    """
    for found, expected in zip(ours, theirs, strict=True):
        assert_close(found, expected)
    axes = np.linalg.qr(np.float64(np.concatenate(theirs)).T).Q
    statistics = [GaussianStatistics.of(features @ axes) for features in ours]
    found = frechet_distance(*statistics, allow_biased=True)
    expected = pytorch_fid_distance(*(features @ axes for features in theirs))
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def real_images(name: str, num_images: int) -> np.ndarray:
    """The first test images of a dataset that is already prepared: nothing is downloaded."""
    directory = data.dataset_directory(name)
    if not (directory / "test_images.npy").exists():
        pytest.skip(f"no {name} in {directory}: python -m vae_jax.data {name}")
    split = data.load_split(name, "test", data.DEFAULT_DATA_DIR)
    return split.take(np.arange(num_images))


def random_images(num_images: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_images, *shape), dtype=np.uint8)


@pytest.fixture(scope="module")
def network():
    """pytorch-fid's network with random weights."""
    return torch_reference.random_fid_inception(seed=0)[0]


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory) -> InceptionWeights:
    """The same weights, by way of a torch file."""
    import torch

    path = tmp_path_factory.mktemp("torch") / "weights.pth"
    torch.save(network.state_dict(), path)
    return inception_weights.read(path)


@pytest.fixture(scope="module")
def apply(weights):
    """Maps images [2, 299, 299, 3] to all taps and the logits, compiled once."""
    params = jax.device_put(weights.layers)

    @jax.jit
    def apply(images):
        return InceptionV3().apply({"params": params}, images, (*TAPS, LOGITS))

    return apply


@pytest.fixture(scope="module", params=PARTIAL_FILES or [None], ids=lambda path: path and path.stem)
def released(request) -> InceptionWeights:
    """The released weights, as far as their files are available."""
    if request.param is None:
        pytest.skip("no shared/data/inception/*.npz beside the checkout")
    return inception_weights.read(request.param)


@pytest.fixture(scope="module")
def released_network(released):
    """pytorch-fid's network with the released weights; batch normalisation is the identity."""
    torch = pytest.importorskip("torch")

    network, _ = torch_reference.random_fid_inception(seed=1)
    # torchvision defines the branches in the order in which TensorFlow counts the towers, so this
    # pairs modules and layers without the package's own table of module names.
    modules = [m for m in network.modules() if type(m).__name__ == "BasicConv2d"]
    for module, name in zip(modules, [n for n in LAYER_SHAPES if n != "softmax"], strict=True):
        if name in released.layers:
            kernel, bias = map(torch.from_numpy, released.layers[name])
            module.conv.weight.copy_(kernel.permute(3, 2, 0, 1))
            module.bn.bias.copy_(bias)
            module.bn.weight.fill_(1.0)
            module.bn.running_mean.fill_(0.0)
            module.bn.running_var.fill_(1.0)
            module.bn.eps = 0.0
    return network


# The network


@pytest.mark.parametrize(
    "shape",
    [(28, 28, 1), *(pytest.param(s, marks=pytest.mark.long) for s in ((32, 32, 3), (64, 64, 3)))],
)
def test_features_and_logits_are_those_of_pytorch_fid(network, apply, shape):
    images = random_images(2, shape)
    expected = dict(zip(TAPS, fid_network_features(network, images), strict=True))
    # The bias of the logits is of order 0.1, so that a missing one would show.
    expected[LOGITS] = expected[2048] @ network.fc.weight.numpy().T
    resized = preprocess_pytorch_fid(images)
    found = apply(jnp.broadcast_to(resized, (*resized.shape[:-1], 3)))
    assert found.keys() == expected.keys()
    for tap, features in expected.items():
        assert_close(np.asarray(found[tap]), features)


def test_parameters_are_the_layers():
    variables = jax.eval_shape(
        lambda key: InceptionV3().init(key, jnp.zeros((1, 299, 299, 3)), (2048, LOGITS)),
        jax.random.key(0),
    )
    shapes = {name: tuple(a.shape for a in pair) for name, pair in variables["params"].items()}
    assert shapes == {name: (shape, shape[-1:]) for name, shape in LAYER_SHAPES.items()}


def test_the_network_runs_as_far_as_the_last_tap(weights):
    stem = {"params": {name: weights.layers[name] for name in STEM}}
    images = jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32)
    found = jax.eval_shape(lambda x: InceptionV3().apply(stem, x, (64,)), images)
    assert {tap: features.shape for tap, features in found.items()} == {64: (2, 64)}


# The distance of real images


@IGNORE_DISP
# Some channels are zero for all images, others nearly constant; pytorch-fid handles that.
@pytest.mark.filterwarnings("ignore:Matrix is singular")
@pytest.mark.parametrize("name", [pytest.param("fashion_mnist", marks=pytest.mark.long), "cifar10"])
def test_distance_at_tap_64_is_that_of_pytorch_fid(network, weights, name):
    x, y = np.split(real_images(name, 2 * 66), 2)
    stem = InceptionWeights({layer: weights.layers[layer] for layer in STEM})
    extractor = FeatureExtractor(stem, (64,))
    ours = [extractor.feature_set([images], 66).statistics[64] for images in (x, y)]
    theirs = [fid_network_features(network, images, num_taps=1)[0] for images in (x, y)]
    np.testing.assert_allclose(frechet_distance(*ours), pytorch_fid_distance(*theirs), rtol=1e-3)


@IGNORE_DISP
def test_distance_at_tap_2048_is_that_of_pytorch_fid(network, weights):
    sets = np.split(real_images("cifar10", 12), 2)
    extractor = FeatureExtractor(weights, (2048,), batch_size=6)
    ours = [extractor.features(images)[2048] for images in sets]
    theirs = [fid_network_features(network, images)[-1] for images in sets]
    assert_same_features_and_distance(ours, theirs)


# The released weights


@IGNORE_DISP
# Of six images the covariances are singular; pytorch-fid handles that.
@pytest.mark.filterwarnings("ignore:Matrix is ill-conditioned")
@pytest.mark.parametrize("name", [pytest.param("fashion_mnist", marks=pytest.mark.long), "cifar10"])
def test_released_numbers_give_features_and_distance_of_pytorch_fid(
    released, released_network, name
):
    taps = released.available_taps
    sets = np.split(real_images(name, 12), 2)
    extractor = FeatureExtractor(released, taps, batch_size=6)
    ours = [extractor.features(images) for images in sets]
    theirs = [fid_network_features(released_network, images, len(taps)) for images in sets]
    for i, tap in enumerate(taps):
        assert_same_features_and_distance([f[tap] for f in ours], [f[i] for f in theirs])
