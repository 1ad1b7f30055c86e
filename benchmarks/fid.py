"""Images per second through the Inception network, compared with pytorch-fid in the same run.

    python -m benchmarks.fid                      # 200 images on a CPU, 20,000 on a GPU
    python -m benchmarks.fid --tap=768 --output=fid.json

Both have the same random weights, get the same uint8 images from memory and return their features
as NumPy arrays, so that the resizing to 299 pixels and all transfers count. pytorch-fid runs as its
own command does: float32, NCHW and 50 images at a time. On a GPU, larger batches are tried as well,
and the fastest counts. The times with channels_last, which pytorch-fid does not use, are for
information only. TensorFloat-32 and bfloat16 are off for both. Fails if the features disagree.
"""

import argparse
import copy
import os
import pathlib
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from unittest import mock

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs memory as well

import jax
import numpy as np
import pytest

from tests.metrics.torch_reference import random_fid_inception
from vae_jax import files
from vae_jax.metrics import inception_weights
from vae_jax.metrics.features import FeatureExtractor

IMAGE_SHAPE = (32, 32, 3)
NUM_IMAGES = {"cpu": 200, "gpu": 20_000}
BATCH_SIZES = {"cpu": (50,), "gpu": (50, 250, 500)}  # for pytorch-fid
TOLERANCE = 1e-3  # relative to the largest feature
OURS = "ours"

Extract = Callable[[np.ndarray], np.ndarray]  # uint8 [N, H, W, C] -> float32 [N, tap]


def main():
    options = parse_options()
    device = jax.devices()[0]
    try:
        network, state = random_fid_inception(seed=0)
    except pytest.skip.Exception as error:  # from `pytest.importorskip`
        sys.exit(f"The benchmark needs torch, torchvision and pytorch-fid: {error}")
    import torch

    if device.platform == "gpu" and not torch.cuda.is_available():
        sys.exit(
            "JAX sees a GPU, but torch does not: install torch with CUDA or set JAX_PLATFORMS=cpu."
        )
    torch.set_num_threads(os.cpu_count())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    num_images = options.num_images or NUM_IMAGES[device.platform]
    batch_sizes = BATCH_SIZES[device.platform]
    images = np.random.default_rng(0).integers(0, 256, (num_images, *IMAGE_SHAPE), dtype=np.uint8)
    plain, channels_last = "batch {}", "batch {}, channels_last"
    programs = {OURS: make_ours(state, options.tap)}
    for name, memory_format in (
        (plain, torch.contiguous_format),
        (channels_last, torch.channels_last),
    ):
        for size in batch_sizes:
            programs[name.format(size)] = make_pytorch_fid(
                network, options.tap, size, memory_format, device.platform
            )

    print(machine := describe_machine(device))
    print(f"float32 without TensorFloat-32; load average before: {os.getloadavg()[0]:.2f}")
    speeds, difference = measure(programs, images, options.repeats)

    def best(name: str) -> str:
        return max((name.format(size) for size in batch_sizes), key=lambda n: np.median(speeds[n]))

    theirs, information = best(plain), best(channels_last)
    ratios = speeds[OURS] / speeds[theirs]
    print("ours / pytorch-fid, round by round:", *(f"{ratio:.3f}" for ratio in ratios))
    print(f"largest difference: {difference:.1e} of the largest feature")
    print()
    print("| device | tap | images | ours | pytorch-fid | channels_last | ours / pytorch-fid |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {device.device_kind} | {options.tap} | {num_images} "
        f"| {np.median(speeds[OURS]):.1f}/s "
        f"| {np.median(speeds[theirs]):.1f}/s ({theirs}) "
        f"| {np.median(speeds[information]):.1f}/s ({information.split(',')[0]}) "
        f"| {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f}) |"
    )
    if options.output:
        result = {
            "machine": machine,
            "tap": options.tap,
            "num_images": num_images,
            "images_per_second": {name: list(values) for name, values in speeds.items()},
            "pytorch_fid": theirs,
            "ratios": list(ratios),
            "median_ratio": float(np.median(ratios)),
            "largest_relative_difference": difference,
        }
        files.write_json(options.output, result)
    if not difference <= TOLERANCE:
        sys.exit(f"The features differ by more than {TOLERANCE} of the largest feature.")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fid", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--tap", type=int, default=2048, choices=(768, 2048))
    parser.add_argument("--num_images", type=int, help="default: 200 on a CPU, 20,000 on a GPU")
    parser.add_argument(
        "--repeats", type=int, default=5, help="number of rounds, after one to warm up"
    )
    parser.add_argument("--output", type=pathlib.Path, help="JSON file to write the numbers to")
    return parser.parse_args()


def make_ours(state: dict, tap: int) -> Extract:
    import torch

    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "weights.pth"
        torch.save(state, path)
        weights = inception_weights.read(path)
    # pytorch-fid does not compute the logits.
    layers = {name: layer for name, layer in weights.layers.items() if name != "softmax"}
    extractor = FeatureExtractor(inception_weights.InceptionWeights(layers), (tap,))
    return lambda images: extractor.features(images)[tap]


def make_pytorch_fid(network, tap: int, batch_size: int, memory_format, platform: str) -> Extract:
    """Returns `pytorch_fid.fid_score.get_activations` as a function of images in memory."""
    import torch
    from pytorch_fid import inception

    device = "cuda" if platform == "gpu" else "cpu"
    # In place of the weights that pytorch-fid would download.
    with mock.patch.object(inception, "fid_inception_v3", return_value=copy.deepcopy(network)):
        module = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[tap]])
    module = module.eval().to(device, memory_format=memory_format)

    @torch.no_grad()
    def extract(images: np.ndarray) -> np.ndarray:
        features = np.empty((len(images), tap), np.float32)
        for start in range(0, len(images), batch_size):
            batch = torch.from_numpy(images[start : start + batch_size]).permute(0, 3, 1, 2)
            batch = batch.to(device).contiguous(memory_format=memory_format).float() / 255
            (maps,) = module(batch)
            pooled = torch.nn.functional.adaptive_avg_pool2d(maps, (1, 1))
            features[start : start + batch_size] = pooled[:, :, 0, 0].cpu().numpy()
        return features

    return extract


def measure(
    programs: dict[str, Extract], images: np.ndarray, repeats: int
) -> tuple[dict[str, np.ndarray], float]:
    """Returns images per second of each round and the largest relative difference of features.

    The programs take turns, so that other load on the machine affects all of them.
    """
    for extract in programs.values():  # compiles, and lets torch choose its kernels
        extract(images[: max(BATCH_SIZES["gpu"])])
    seconds, features = {name: [] for name in programs}, {}
    for i in range(repeats):
        for name, extract in programs.items():
            start = time.perf_counter()
            features[name] = extract(images)
            seconds[name].append(time.perf_counter() - start)
            speed = len(images) / seconds[name][-1]
            print(f"round {i + 1}/{repeats}, {name}: {speed:.1f} images/s", flush=True)
    largest = np.abs(features[OURS]).max()
    differences = [np.abs(f - features[OURS]).max() / largest for f in features.values()]
    speeds = {name: len(images) / np.array(values) for name, values in seconds.items()}
    return speeds, float(np.max(differences))


def describe_machine(device: jax.Device) -> str:
    import torch

    processor = platform.processor() or platform.machine()
    information = pathlib.Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text(encoding="utf-8").splitlines()
        names = [line for line in lines if line.startswith("model name")]
        processor = names[0].split(":", 1)[1].strip() if names else processor
    return (
        f"{processor}, {os.cpu_count()} cores; device {device.device_kind}; "
        f"Python {platform.python_version()}, JAX {jax.__version__}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
