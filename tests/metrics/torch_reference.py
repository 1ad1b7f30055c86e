"""pytorch-fid's network with random weights: the reference of the tests of the Inception metrics.

Needs torch, torchvision and pytorch-fid, which only tests use: where one is missing, the test that
calls a function of this file is skipped.
"""

import importlib.util
import math
import pathlib
from unittest import mock

import pytest

_STUBS = []  # torch forgets a library's operators when the library is garbage-collected


def import_torchvision():
    """Imports torchvision, also where its compiled operators do not load.

    They are built for one torch and do not load beside another (CUDA and CPU, say), and torchvision
    cannot be imported without the two operators of which it tells torch more. Its networks need no
    operator, so the two signatures will do.
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

    # Instead of pytorch-fid's weights, which it downloads, the network keeps what it is built with.
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
    """pytorch-fid's feature extractor around `network`: images in [0, 1] to the list of four taps.

    Args:
      options: of `pytorch_fid.inception.InceptionV3`, such as `resize_input`.
    """
    from pytorch_fid import inception

    with mock.patch.object(inception, "fid_inception_v3", return_value=network):
        return inception.InceptionV3(output_blocks=range(4), **options).eval()
