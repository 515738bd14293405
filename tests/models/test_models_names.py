"""Parameter names and geometry against torchvision's, whose rules are written out here: its checkpoints must load."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from separable import models

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def norm(name: str) -> list[str]:
    return [f"{name}.{entry}" for entry in NORM]


def resnet_keys(depths: tuple[int, ...], convs: int) -> Iterator[str]:
    yield from ["conv1.weight", *norm("bn1")]
    for stage, depth in enumerate(depths, start=1):
        for block in range(depth):
            prefix = f"layer{stage}.{block}"
            for conv in range(1, convs + 1):
                yield from [f"{prefix}.conv{conv}.weight", *norm(f"{prefix}.bn{conv}")]
            if block == 0 and (stage > 1 or convs == 3):
                yield from [f"{prefix}.downsample.0.weight", *norm(f"{prefix}.downsample.1")]
    yield from ["fc.weight", "fc.bias"]


def mobilenet_v2_keys() -> Iterator[str]:
    yield from ["features.0.0.weight", *norm("features.0.1")]
    yield from ["features.1.conv.0.0.weight", *norm("features.1.conv.0.1")]
    yield from ["features.1.conv.1.weight", *norm("features.1.conv.2")]
    for block in range(2, 18):
        for half in (0, 1):
            yield from [f"features.{block}.conv.{half}.0.weight", *norm(f"features.{block}.conv.{half}.1")]
        yield from [f"features.{block}.conv.2.weight", *norm(f"features.{block}.conv.3")]
    yield from ["features.18.0.weight", *norm("features.18.1"), "classifier.1.weight", "classifier.1.bias"]


def vgg16_keys(convs: tuple[int, ...], batch_norm: bool) -> Iterator[str]:
    for conv in convs:
        yield from [f"features.{conv}.weight", f"features.{conv}.bias"]
        yield from norm(f"features.{conv + 1}") if batch_norm else []
    for linear in (0, 3, 6):
        yield from [f"classifier.{linear}.weight", f"classifier.{linear}.bias"]


PLAIN = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
NORMED = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)


@pytest.mark.parametrize(
    ("name", "options", "keys"),
    [
        ("resnet18", {}, list(resnet_keys((2, 2, 2, 2), convs=2))),
        ("resnet34", {}, list(resnet_keys((3, 4, 6, 3), convs=2))),
        ("resnet50", {}, list(resnet_keys((3, 4, 6, 3), convs=3))),
        ("mobilenet_v2", {}, list(mobilenet_v2_keys())),
        ("vgg16", {}, list(vgg16_keys(PLAIN, batch_norm=False))),
        ("vgg16", {"batch_norm": True}, list(vgg16_keys(NORMED, batch_norm=True))),
    ],
)
def test_the_state_dict_has_torchvisions_keys_in_their_order(
    name: str, options: dict[str, object], keys: list[str]
) -> None:
    with torch.device("meta"):
        assert list(models.build(name, **options).state_dict()) == keys


@pytest.mark.parametrize(
    ("name", "key", "shape"),
    [
        ("resnet18", "layer1.0.conv1.weight", (64, 64, 3, 3)),
        ("resnet18", "layer4.0.downsample.0.weight", (512, 256, 1, 1)),
        ("resnet18", "fc.weight", (1000, 512)),
        ("resnet50", "layer1.0.conv1.weight", (64, 64, 1, 1)),
        ("resnet50", "layer1.0.conv2.weight", (64, 64, 3, 3)),
        ("resnet50", "layer1.0.downsample.0.weight", (256, 64, 1, 1)),
        ("resnet50", "layer4.2.conv3.weight", (2048, 512, 1, 1)),
        ("mobilenet_v2", "features.1.conv.0.0.weight", (32, 1, 3, 3)),
        ("mobilenet_v2", "features.2.conv.0.0.weight", (96, 16, 1, 1)),
        ("mobilenet_v2", "features.17.conv.2.weight", (320, 960, 1, 1)),
        ("mobilenet_v2", "classifier.1.weight", (1000, 1280)),
        ("vgg16", "features.28.weight", (512, 512, 3, 3)),
        ("vgg16", "classifier.0.weight", (4096, 25088)),
    ],
)
def test_the_weights_have_torchvisions_shapes(name: str, key: str, shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        assert tuple(models.build(name).state_dict()[key].shape) == shape


@pytest.mark.parametrize(
    ("name", "stride_2"),
    [
        ("resnet18", [f"layer{i}.0.{c}" for i in (2, 3, 4) for c in ("conv1", "downsample.0")]),
        # The 3×3 has the stride, not the 1×1 before it: what torchvision's weights are trained with.
        ("resnet50", [f"layer{i}.0.{c}" for i in (2, 3, 4) for c in ("conv2", "downsample.0")]),
        ("mobilenet_v2", [f"features.{i}.conv.1.0" for i in (2, 4, 7, 14)]),
        ("vgg16", []),
    ],
)
def test_the_strides_are_where_torchvision_has_them(name: str, stride_2: list[str]) -> None:
    with torch.device("meta"):
        model = models.build(name)
    stem = {"resnet18": ["conv1"], "resnet50": ["conv1"], "mobilenet_v2": ["features.0.0"], "vgg16": []}[name]
    convs = {n: conv.stride for n, conv in model.named_modules() if isinstance(conv, nn.Conv2d)}
    assert [n for n, stride in convs.items() if stride == (2, 2)] == stem + stride_2
    assert set(convs.values()) <= {(1, 1), (2, 2)}


@pytest.mark.parametrize("name", models.NAMES)
def test_batch_norms_have_torchvisions_constants(name: str) -> None:
    with torch.device("meta"):
        model = models.build(name)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(module.eps, module.momentum) for module in norms} <= {(1e-5, 0.1)}
