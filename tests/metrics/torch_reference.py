"""pytorch-fid's network with random weights: the reference of the tests of the Inception metrics.

Needs torch, torchvision and pytorch-fid, which only tests use: if one is missing, the test that
calls a function of this file is skipped.
"""

import importlib.util
import math
import pathlib
from unittest import mock

import pytest

_STUBS = []  # torch forgets a library's operators when the library is garbage-collected


def import_torchvision():
    """Imports torchvision, even if its compiled operators do not load.

    The operators are built for one torch and do not load with another (CUDA and CPU, say), and
    torchvision cannot be imported without two of them. Its networks need no operators, so that the
    signatures of these two are enough.
    """
    torch = pytest.importorskip("torch")
    specification = importlib.util.find_spec("torchvision")
    if specification is None:
        pytest.skip("torchvision is not installed")
    try:
        torch.ops.load_library(pathlib.Path(specification.origin).parent / "_C.so")
    except OSError:
        if not _STUBS:
            _STUBS.append(torch.library.Library("torchvision", "DEF"))
            for name in ("nms", "qnms"):
                arguments = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                _STUBS[0].define(name + arguments)
    import torchvision

    return torchvision


def random_fid_inception(seed: int):
    """pytorch-fid's Inception-v3 in evaluation mode, with random weights and statistics.

    Initialised as He et al. 2015 (arXiv:1502.01852) and normalised by variances about 1, so that
    activations neither vanish nor explode: all taps are of order 1 for inputs in [-1, 1].

    Returns:
      (torch module with the logits' layer `fc`, its state dict).
    """
    torchvision = import_torchvision()
    pytest.importorskip("pytorch_fid")
    import torch
    from pytorch_fid import inception

    # The network keeps its initial weights in place of those that pytorch-fid downloads.
    with (
        mock.patch.object(inception, "load_state_dict_from_url"),
        mock.patch.object(torchvision.models.Inception3, "load_state_dict"),
    ):
        network = inception.fid_inception_v3().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.normal_(0.0, math.sqrt(2 / fan_in), generator=generator)
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.weight.uniform_(0.8, 1.2, generator=generator)
            module.bias.normal_(0.0, 0.1, generator=generator)
            module.running_mean.normal_(0.0, 0.1, generator=generator)
            module.running_var.uniform_(0.8, 1.25, generator=generator)
        elif isinstance(module, torch.nn.Linear):
            module.weight.normal_(0.0, math.sqrt(1 / module.in_features), generator=generator)
            module.bias.normal_(0.0, 0.1, generator=generator)
    return network, network.state_dict()


def fid_features(network, **options):
    """Returns pytorch-fid's extractor around `network`: images in [0, 1] -> list of four taps.

    Args:
      options: options of `pytorch_fid.inception.InceptionV3`, such as `resize_input`.
    """
    from pytorch_fid import inception

    with mock.patch.object(inception, "fid_inception_v3", return_value=network):
        return inception.InceptionV3(output_blocks=range(4), **options).eval()
