"""Tests of vae_jax/metrics/inception_layers.py, inception_formats.py and inception_weights.py."""

import hashlib
import http.server
import io
import pathlib
import tarfile
import threading

import numpy as np
import pytest

from tests.conftest import REPOSITORY, run_python
from tests.metrics import torch_reference
from vae_jax.metrics import graph_file, inception_weights
from vae_jax.metrics.inception_layers import LAYER_SHAPES, SCOPES, TAP_ENDS
from vae_jax.metrics.inception_weights import InceptionWeights, WeightsUnavailableError

PARTIAL_FILE = REPOSITORY.parent / "shared/data/inception/inception-2015-12-05-to-mixed_7.npz"
STEM_MODULES = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3")  # up to tap 64


def names_up_to(last: str) -> list[str]:
    names = list(LAYER_SHAPES)
    return names[: names.index(last) + 1]


def zero_layers(last: str) -> dict:
    """Layers from the input to `last`, of zeros that take no memory."""

    def zeros(*shape: int) -> np.ndarray:
        return np.broadcast_to(np.float32(0), shape)

    shapes = {name: LAYER_SHAPES[name] for name in names_up_to(last)}
    return {name: (zeros(*shape), zeros(shape[-1])) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def stem() -> InceptionWeights:
    """Random weights up to tap 64."""
    rng = np.random.default_rng(0)
    shapes = {name: LAYER_SHAPES[name] for name in names_up_to("conv_2")}
    return InceptionWeights(
        {
            name: (rng.random(shape, np.float32), rng.random(shape[-1], np.float32))
            for name, shape in shapes.items()
        }
    )


def assert_equal(found: InceptionWeights, expected: InceptionWeights, tolerance: float = 0.0):
    assert found.layers.keys() == expected.layers.keys()
    for name, arrays in expected.layers.items():
        for a, b in zip(found.layers[name], arrays, strict=True):
            assert a.dtype == np.float32
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=name)


# Files in the formats of their sources


def write_torch(path: pathlib.Path, state: dict) -> pathlib.Path:
    """Writes a torch file with its hash in the name, as torch.hub does."""
    import torch

    torch.save(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(path.with_name(f"{path.stem}-{digest[:8]}.pth"))


def make_graph(layers: dict, epsilon: float, is_scaled: bool, logits: dict | None = None) -> bytes:
    """A frozen graph of layers: name -> (kernel, (gamma, beta, moving mean, moving variance))."""
    graph_pb2 = pytest.importorskip("tensorboard.compat.proto.graph_pb2")
    from tensorboard.compat.proto import types_pb2

    graph = graph_pb2.GraphDef()

    def add_constant(name: str, array: np.ndarray):
        tensor = graph.node.add(name=name, op="Const").attr["value"].tensor
        tensor.dtype = types_pb2.DT_FLOAT
        tensor.tensor_content = array.astype("<f4").tobytes()
        for size in array.shape:
            tensor.tensor_shape.dim.add(size=size)

    for name, (kernel, norm) in layers.items():
        add_constant(f"{SCOPES[name]}/conv2d_params", kernel)
        keys = ("gamma", "beta", "moving_mean", "moving_variance")
        for key, array in zip(keys, norm, strict=True):
            add_constant(f"{SCOPES[name]}/batchnorm/{key}", array)
        node = graph.node.add(name=f"{SCOPES[name]}/batchnorm")
        node.op = "BatchNormWithGlobalNormalization"
        node.attr["variance_epsilon"].f = epsilon
        node.attr["scale_after_normalization"].b = is_scaled
    for name, array in (logits or {}).items():
        add_constant(name, array)
    return graph.SerializeToString()


def make_constant_graph(is_scaled: bool) -> bytes:
    """A graph up to tap 64: kernel 2, gamma 3, beta 5, mean 1, variance + epsilon = 3.75 + 0.25."""
    layers = {}
    for name in names_up_to("conv_2"):
        norm = [np.full(LAYER_SHAPES[name][-1:], value) for value in (3.0, 5.0, 1.0, 3.75)]
        layers[name] = (np.full(LAYER_SHAPES[name], 2.0), norm)
    return make_graph(layers, epsilon=0.25, is_scaled=is_scaled)


def write_archive(path: pathlib.Path, graph: bytes) -> pathlib.Path:
    with tarfile.open(path, "w:gz") as archive:
        members = {"cropped_panda.jpg": b"panda", "./classify_image_graph_def.pb": graph}
        for name, content in members.items():
            information = tarfile.TarInfo(name)
            information.size = len(content)
            archive.addfile(information, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def reference():
    """pytorch-fid's network with random weights, and its state dict."""
    return torch_reference.random_fid_inception(seed=0)


@pytest.fixture(scope="module")
def weights(reference, tmp_path_factory) -> InceptionWeights:
    """The reference's weights, by way of a torch file."""
    directory = tmp_path_factory.mktemp("torch")
    return inception_weights.read(write_torch(directory / "pt_inception.pth", reference[1]))


@pytest.fixture(scope="module")
def stem_state(reference) -> dict:
    return {key: value for key, value in reference[1].items() if key.startswith(STEM_MODULES)}


@pytest.fixture(scope="module")
def stem_path(stem_state, tmp_path_factory) -> pathlib.Path:
    """A torch file that ends at tap 64."""
    return write_torch(tmp_path_factory.mktemp("stem") / "stem.pth", stem_state)


# Torch files


def test_folded_layers_compute_what_the_modules_compute(reference, weights):
    import torch

    # torchvision defines the branches in the order in which TensorFlow counts the towers, so this
    # pairs modules and layers without the package's own table of module names.
    modules = [m for m in reference[0].modules() if type(m).__name__ == "BasicConv2d"]
    generator = torch.Generator().manual_seed(1)
    for module, name in zip(modules, names_up_to("mixed_10_tower_2_conv"), strict=True):
        kernel, bias = map(torch.from_numpy, weights.layers[name])
        x = torch.randn(1, kernel.shape[2], 7, 7, generator=generator)
        expected = module.bn(torch.nn.functional.conv2d(x, module.conv.weight))
        found = torch.nn.functional.conv2d(x, kernel.permute(3, 2, 0, 1).contiguous(), bias)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4, err_msg=name)


def test_logits_are_those_of_the_last_module(reference, weights):
    import torch

    x = torch.randn(2, 2048, generator=torch.Generator().manual_seed(1))
    kernel, bias = weights.layers["softmax"]
    np.testing.assert_allclose(x.numpy() @ kernel + bias, reference[0].fc(x), rtol=0, atol=1e-4)


def test_a_whole_network_has_all_layers_taps_and_logits(weights):
    assert list(weights.layers) == list(LAYER_SHAPES)
    assert weights.available_taps == (64, 192, 768, 2048)
    assert weights.has_logits


def test_a_file_whose_hash_is_not_that_of_its_name_is_refused(stem_path, tmp_path):
    content = bytearray(stem_path.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = tmp_path / stem_path.name
    damaged.write_bytes(content)
    digest = stem_path.name[-12:-4]
    match = f"{damaged}.*SHA-256 begins with ........, not with {digest}.*Download it again"
    with pytest.raises(ValueError, match=match):
        inception_weights.read(damaged)


def test_a_module_without_statistics_is_named(stem_state, tmp_path):
    missing = "Conv2d_2a_3x3.bn.running_var"
    state = {key: value for key, value in stem_state.items() if key != missing}
    with pytest.raises(ValueError, match=missing):
        inception_weights.read(write_torch(tmp_path / "stem.pth", state))


# TensorFlow's graph


def test_a_graph_gives_what_the_torch_file_gives(reference, weights, tmp_path):
    _, state = reference
    modules = [key.removesuffix(".conv.weight") for key in state if key.endswith(".conv.weight")]
    layers = {}
    for module, name in zip(modules, names_up_to("mixed_10_tower_2_conv"), strict=True):
        kernel, *norm = (
            state[f"{module}.{key}"].numpy()
            for key in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
        )
        layers[name] = (kernel.transpose(2, 3, 1, 0), norm)
    logits = {
        "softmax/weights": state["fc.weight"].numpy().T,
        "softmax/biases": state["fc.bias"].numpy(),
    }
    path = tmp_path / "classify_image_graph_def.pb"
    path.write_bytes(make_graph(layers, epsilon=1e-3, is_scaled=True, logits=logits))
    assert_equal(inception_weights.read(path), weights, tolerance=1e-6)


@pytest.mark.parametrize(
    ("is_scaled", "kernel", "bias"),
    [
        (True, 2 * 3 / np.sqrt(3.75 + 0.25), 5 - 1 * 3 / np.sqrt(3.75 + 0.25)),
        (False, 2 / np.sqrt(3.75 + 0.25), 5 - 1 / np.sqrt(3.75 + 0.25)),
    ],
)
@pytest.mark.parametrize("name", ["graph.pb", "inception.tgz", "inception.tar.gz"])
def test_folding_in_closed_form(name, is_scaled, kernel, bias, tmp_path):
    graph = make_constant_graph(is_scaled)
    if name == "graph.pb":
        (tmp_path / name).write_bytes(graph)
    else:
        write_archive(tmp_path / name, graph)
    found = inception_weights.read(tmp_path / name)
    assert found.layers.keys() == set(names_up_to("conv_2"))
    for found_kernel, found_bias in found.layers.values():
        assert np.all(found_kernel == kernel)
        assert np.all(found_bias == bias)


def test_another_graph_is_refused(tmp_path):
    path = tmp_path / "graph.pb"
    op = b"BatchNormWithGlobalNormalization"
    path.write_bytes(make_constant_graph(True).replace(op, op[::-1]))
    with pytest.raises(ValueError, match="node conv/batchnorm is a .*not the graph of 2015-12-05"):
        inception_weights.read(path)


def test_numbers_of_a_constant_may_be_a_list_or_one_for_all(tmp_path):
    graph_pb2 = pytest.importorskip("tensorboard.compat.proto.graph_pb2")
    from tensorboard.compat.proto import types_pb2

    graph = graph_pb2.GraphDef()
    for name, numbers in (("list", [1.0, 2.0, 3.0, 4.0]), ("one for all", [5.0])):
        tensor = graph.node.add(name=name, op="Const").attr["value"].tensor
        tensor.dtype = types_pb2.DT_FLOAT
        tensor.float_val.extend(numbers)
        for size in (2, 2):
            tensor.tensor_shape.dim.add(size=size)
    nodes = graph_file.read_graph(graph.SerializeToString())
    np.testing.assert_array_equal(nodes["list"].array(), [[1, 2], [3, 4]])
    np.testing.assert_array_equal(nodes["one for all"].array(), [[5, 5], [5, 5]])


# This project's format, and what a file must hold


def test_npz_round_trip(stem, tmp_path):
    inception_weights.save(stem, tmp_path / "weights.npz")
    found = inception_weights.read(tmp_path / "weights.npz")
    assert_equal(found, stem)
    assert found.digest == stem.digest


def test_npz_round_trip_of_the_whole_network(weights, tmp_path):
    inception_weights.save(weights, tmp_path / "weights.npz")
    assert inception_weights.read(tmp_path / "weights.npz").digest == weights.digest


def test_the_digest_is_of_names_and_numbers(stem):
    assert len(stem.digest) == 16
    assert int(stem.digest, 16) >= 0
    assert InceptionWeights(dict(reversed(stem.layers.items()))).digest == stem.digest
    kernel, bias = stem.layers["conv"]
    changed = np.nextafter(bias, np.float32(2))
    assert InceptionWeights(stem.layers | {"conv": (kernel, changed)}).digest != stem.digest


@pytest.mark.parametrize("tap", TAP_ENDS)
def test_layers_may_end_at_any_tap(tap):
    found = InceptionWeights(zero_layers(TAP_ENDS[tap]))
    assert found.available_taps == tuple(t for t in (64, 192, 768, 2048) if t <= tap)
    assert not found.has_logits


@pytest.mark.parametrize(
    ("last", "left_out", "message"),
    [
        ("conv_4", "conv_1", "1 of 5 layers are missing, the first is 'conv_1'"),
        ("conv_3", None, "1 of 5 layers are missing, the first is 'conv_4'"),
        ("mixed_8_tower_conv", None, "23 of 94 layers are missing, the first is 'mixed_8_tower_co"),
        ("softmax", "mixed_10_conv", "1 of 95 layers are missing, the first is 'mixed_10_conv'"),
        ("conv", "conv", "3 of 3 layers are missing, the first is 'conv'"),
    ],
)
def test_a_missing_layer_is_named(last, left_out, message, tmp_path):
    layers = zero_layers(last)
    layers.pop(left_out, None)
    with pytest.raises(ValueError, match=message):
        InceptionWeights(layers)


@pytest.mark.parametrize("index", [0, 1])
def test_a_wrong_shape_is_named(index):
    layers = zero_layers("conv_2")
    arrays = list(layers["conv_1"])
    arrays[index] = arrays[index][..., :-1]
    layers["conv_1"] = tuple(arrays)
    found, wanted = [((3, 3, 32, 31), (3, 3, 32, 32)), ((31,), (32,))][index]
    with pytest.raises(ValueError) as caught:
        InceptionWeights(layers)
    assert str(caught.value) == f"layer 'conv_1' has an array of shape {found}, not {wanted}"


def test_a_wrong_shape_in_a_file_is_named_before_folding(stem_state, tmp_path):
    key = "Conv2d_2a_3x3.conv.weight"
    path = write_torch(tmp_path / "stem.pth", stem_state | {key: stem_state[key][:7]})
    match = r"layer 'conv_1' has an array of shape \(3, 3, 32, 7\), not \(3, 3, 32, 32\)"
    with pytest.raises(ValueError, match=match):
        inception_weights.read(path)


@pytest.mark.parametrize("name", ["w.npz", "w.pth", "w.pt", "w.tgz", "w.tar.gz", "w.pb"])
@pytest.mark.parametrize("content", [b"", b"\xff not what the name says"])
def test_a_file_of_another_kind_is_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        ValueError, match=f"{tmp_path / name}: the file is damaged .*Download it again"
    ):
        inception_weights.read(tmp_path / name)


@pytest.mark.parametrize("name", ["weights.npz", "weights.tgz"])
def test_a_truncated_file_is_refused(name, stem, tmp_path):
    path = tmp_path / name
    if name == "weights.npz":
        inception_weights.save(stem, path)
    else:
        write_archive(path, make_constant_graph(True))
    content = path.read_bytes()
    for size in (len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="damaged"):
            inception_weights.read(path)


def test_an_archive_without_the_graph_is_refused(tmp_path):
    with tarfile.open(tmp_path / "empty.tgz", "w:gz"):
        pass
    with pytest.raises(ValueError, match="no classify_image_graph_def.pb"):
        inception_weights.read(tmp_path / "empty.tgz")


def test_an_unknown_ending_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(ValueError, match=".h5: the name must end in .npz, .pth, .*.pb$"):
        inception_weights.read(tmp_path / "weights.h5")
    with pytest.raises(ValueError, match="there is no such file. Sources: https://github"):
        inception_weights.read(tmp_path / "weights.npz")


def test_reading_needs_neither_torch_nor_tensorflow_nor_tensorboard(stem, stem_path, tmp_path):
    inception_weights.save(stem, tmp_path / "stem.npz")
    write_archive(tmp_path / "stem.tgz", make_constant_graph(True))
    hide = "import sys; sys.modules.update(dict.fromkeys(('torch', 'tensorflow', 'tensorboard')))"
    code = f"{hide}; from vae_jax.metrics.inception_weights import read; " + "; ".join(
        f"print(read({str(path)!r}).available_taps)"
        for path in (stem_path, tmp_path / "stem.npz", tmp_path / "stem.tgz")
    )
    completed = run_python("-W", "error", "-c", code)
    assert completed.stdout == 3 * "(64,)\n", completed.stderr


@pytest.mark.skipif(not PARTIAL_FILE.exists(), reason=f"no {PARTIAL_FILE.name} beside the checkout")
def test_the_released_numbers_up_to_mixed_7():
    found = inception_weights.read(PARTIAL_FILE)
    assert found.available_taps == (64, 192, 768)
    assert not found.has_logits


# Finding and downloading


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` {name: content}, but only the first half of those named in `truncated`."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.truncated: set[str] = set()
        self.requests: list[str] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.removeprefix("/")
        self.server.requests.append(name)
        if name not in self.server.files:
            return self.send_error(404)
        content = self.server.files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        end = len(content) // 2 if name in self.server.truncated else len(content)
        self.wfile.write(content[:end])

    def log_message(self, *_):
        pass


FIRST, SECOND = "first.npz", "second.tgz"


@pytest.fixture
def server(stem, tmp_path, monkeypatch):
    """Serves `FIRST` (`stem`) and `SECOND` (the constant graph) at the URLs of the module."""
    inception_weights.save(stem, tmp_path / FIRST)
    write_archive(tmp_path / SECOND, make_constant_graph(True))
    with Server() as server:
        server.files = {name: (tmp_path / name).read_bytes() for name in (FIRST, SECOND)}
        monkeypatch.setattr(inception_weights, "URLS", (server.url(FIRST), server.url(SECOND)))
        monkeypatch.setenv("no_proxy", "*")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def cache_dir(tmp_path) -> pathlib.Path:
    return tmp_path / "cache"


def files_in(cache_dir: pathlib.Path) -> list[str]:
    return sorted(path.name for path in (cache_dir / "inception").iterdir())


def bias_in(weights: InceptionWeights) -> float:
    """Returns a number that identifies the file: 3.5 for `SECOND`, another one for `stem`."""
    return float(weights.layers["conv"][1][0])


def test_downloads_once(server, stem, cache_dir):
    for _ in range(2):
        assert_equal(inception_weights.find_or_download(None, cache_dir), stem)
    assert server.requests == [FIRST]
    assert files_in(cache_dir) == [FIRST]


def test_downloads_a_torch_file(server, stem_path, cache_dir, monkeypatch):
    server.files[stem_path.name] = stem_path.read_bytes()
    monkeypatch.setattr(inception_weights, "URLS", (server.url(stem_path.name),))
    found = inception_weights.find_or_download(None, cache_dir)
    assert_equal(found, inception_weights.read(stem_path))
    assert files_in(cache_dir) == [stem_path.name]


@pytest.mark.parametrize("damage", ["truncated", "wrong hash", "absent"])
def test_a_failed_download_leaves_nothing_and_the_next_source_is_tried(
    damage, server, cache_dir, monkeypatch
):
    first = FIRST
    if damage == "truncated":
        server.truncated.add(FIRST)
    elif damage == "wrong hash":
        first = "first-00000000.pth"
        server.files[first] = server.files[FIRST]
        monkeypatch.setattr(inception_weights, "URLS", (server.url(first), server.url(SECOND)))
    else:
        del server.files[FIRST]
    assert bias_in(inception_weights.find_or_download("", cache_dir)) == 3.5
    assert server.requests == [first, SECOND]
    assert files_in(cache_dir) == [SECOND]


def test_if_all_downloads_fail_the_message_gives_reasons_and_remedies(server, cache_dir):
    server.truncated.add(FIRST)
    server.files[SECOND] = b"<html>Log in to this network</html>"
    with pytest.raises(WeightsUnavailableError) as caught:
        inception_weights.find_or_download(None, cache_dir)
    message, size = str(caught.value), len(server.files[FIRST])
    assert f"no Inception weights in {cache_dir / 'inception'}, " in message
    reason = f"the transfer ended after {size // 2} of {size} bytes"
    assert f"{server.url(FIRST)}: {reason}" in message
    assert f"{server.url(SECOND)}: BadGzipFile: " in message
    assert "Place one of these files there" in message
    assert "--inception_weights=FILE" in message
    assert files_in(cache_dir) == []


def test_a_refused_connection_is_reported(cache_dir, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with Server() as closed:
        url = closed.url("weights.pth")
    monkeypatch.setattr(inception_weights, "URLS", (url,))
    with pytest.raises(WeightsUnavailableError, match=f"{url}: URLError: .*refused"):
        inception_weights.find_or_download(None, cache_dir)


def test_a_silent_server_is_abandoned(server, cache_dir, monkeypatch):
    monkeypatch.setattr(inception_weights, "_TIMEOUT", 0.1)
    monkeypatch.setattr(Handler, "do_GET", lambda self: threading.Event().wait(1.0))
    with pytest.raises(WeightsUnavailableError, match="timed out"):
        inception_weights.find_or_download(None, cache_dir)


def test_a_cache_that_cannot_be_written_is_reported(server, cache_dir):
    cache_dir.write_text("a file where a directory is wanted")
    with pytest.raises(WeightsUnavailableError, match=r"(NotADirectory|FileExists)Error.*--incept"):
        inception_weights.find_or_download(None, cache_dir)


def test_the_file_that_is_given_is_read_and_nothing_else(server, cache_dir, tmp_path):
    found = inception_weights.find_or_download(str(tmp_path / SECOND), cache_dir)
    assert bias_in(found) == 3.5
    with pytest.raises(ValueError, match="no such file"):
        inception_weights.find_or_download(str(tmp_path / "none.npz"), cache_dir)
    assert server.requests == []
    assert not cache_dir.exists()


def test_the_order_of_the_files_in_the_directory(server, stem, cache_dir, tmp_path):
    directory = cache_dir / "inception"
    directory.mkdir(parents=True)

    def found() -> tuple[tuple, float]:
        weights = inception_weights.find_or_download(None, cache_dir)
        return weights.available_taps, bias_in(weights)

    (directory / "link.npz").symlink_to("nowhere")
    inception_weights.save(stem, directory / "a.npz")
    inception_weights.save(InceptionWeights(zero_layers("conv_4")), directory / "b.npz")
    assert found() == ((64, 192), 0.0)
    (directory / SECOND).write_bytes(server.files[SECOND])
    assert found() == ((64,), 3.5)
    (directory / FIRST).write_bytes(server.files[FIRST])
    assert found() == ((64,), bias_in(stem))
    assert server.requests == []


def test_a_damaged_file_in_the_directory_is_an_error(server, cache_dir):
    damaged = cache_dir / "inception" / FIRST
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(server.files[FIRST][:-1])
    with pytest.raises(ValueError, match=f"{damaged}: the file is damaged .* Download it again"):
        inception_weights.find_or_download(None, cache_dir)
    assert server.requests == []
