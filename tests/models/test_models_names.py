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


# (expands, squeezes) for each block.
LARGE = ["00", "10", "10", "11", "11", "11", "10", "10", "10", "10", "11", "11", "11", "11", "11"]
SMALL = ["01", "10", "10", "11", "11", "11", "11", "11", "11", "11", "11"]


def block_keys(prefix: str, expands: bool, squeezes: bool) -> Iterator[str]:
    parts = ["conv"] * (1 + expands) + ["attention"] * squeezes + ["conv"]
    for index, part in enumerate(parts):
        if part == "conv":
            yield from [f"{prefix}.block.{index}.0.weight", *norm(f"{prefix}.block.{index}.1")]
        else:
            yield from [f"{prefix}.block.{index}.{entry}" for entry in ("fc1.weight", "fc1.bias", "fc2.weight")]
            yield f"{prefix}.block.{index}.fc2.bias"


def mobilenet_v3_keys(blocks: list[str]) -> Iterator[str]:
    yield from ["features.0.0.weight", *norm("features.0.1")]
    for index, (expands, squeezes) in enumerate(blocks, start=1):
        yield from block_keys(f"features.{index}", expands == "1", squeezes == "1")
    last = len(blocks) + 1
    yield from [f"features.{last}.0.weight", *norm(f"features.{last}.1")]
    yield from ["classifier.0.weight", "classifier.0.bias", "classifier.3.weight", "classifier.3.bias"]


def efficientnet_keys(repeats: tuple[int, ...]) -> Iterator[str]:
    yield from ["features.0.0.weight", *norm("features.0.1")]
    for stage, blocks in enumerate(repeats, start=1):
        for block in range(blocks):
            yield from block_keys(f"features.{stage}.{block}", expands=stage > 1, squeezes=True)
    yield from ["features.8.0.weight", *norm("features.8.1"), "classifier.1.weight", "classifier.1.bias"]


def mnasnet_keys() -> Iterator[str]:
    for conv in (0, 3, 6):
        yield from [f"layers.{conv}.weight", *norm(f"layers.{conv + 1}")]
    for stage, blocks in enumerate((3, 3, 3, 2, 4, 1), start=8):
        for block in range(blocks):
            for conv in (0, 3, 6):
                prefix = f"layers.{stage}.{block}.layers"
                yield from [f"{prefix}.{conv}.weight", *norm(f"{prefix}.{conv + 1}")]
    yield from ["layers.14.weight", *norm("layers.15"), "classifier.1.weight", "classifier.1.bias"]


PLAIN = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
NORMED = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)


@pytest.mark.parametrize(
    ("name", "options", "keys"),
    [
        ("resnet18", {}, list(resnet_keys((2, 2, 2, 2), convs=2))),
        ("resnet34", {}, list(resnet_keys((3, 4, 6, 3), convs=2))),
        ("resnet50", {}, list(resnet_keys((3, 4, 6, 3), convs=3))),
        ("mobilenet_v2", {}, list(mobilenet_v2_keys())),
        ("mobilenet_v3_large", {}, list(mobilenet_v3_keys(LARGE))),
        ("mobilenet_v3_small", {}, list(mobilenet_v3_keys(SMALL))),
        ("efficientnet_b0", {}, list(efficientnet_keys((1, 2, 2, 3, 3, 4, 1)))),
        ("efficientnet_b4", {}, list(efficientnet_keys((2, 4, 4, 6, 6, 8, 2)))),
        ("mnasnet", {}, list(mnasnet_keys())),
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
        ("mobilenet_v3_large", "features.4.block.1.0.weight", (72, 1, 5, 5)),
        ("mobilenet_v3_large", "features.4.block.2.fc1.weight", (24, 72, 1, 1)),
        ("mobilenet_v3_small", "features.1.block.0.0.weight", (16, 1, 3, 3)),
        ("mobilenet_v3_small", "classifier.0.weight", (1024, 576)),
        ("efficientnet_b0", "features.2.0.block.2.fc1.weight", (4, 96, 1, 1)),
        ("efficientnet_b0", "features.7.0.block.3.0.weight", (320, 1152, 1, 1)),
        ("mnasnet", "layers.9.0.layers.3.weight", (72, 1, 5, 5)),
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
        ("mobilenet_v3_large", [f"features.{i}.block.1.0" for i in (2, 4, 7, 13)]),
        ("mobilenet_v3_small", ["features.1.block.0.0", *(f"features.{i}.block.1.0" for i in (2, 4, 9))]),
        ("efficientnet_b0", [f"features.{i}.0.block.1.0" for i in (2, 3, 4, 6)]),
        ("mnasnet", [f"layers.{i}.0.layers.3" for i in (8, 9, 10, 12)]),
        ("vgg16", []),
    ],
)
def test_the_strides_are_where_torchvision_has_them(name: str, stride_2: list[str]) -> None:
    with torch.device("meta"):
        model = models.build(name)
    stem = {"resnet18": ["conv1"], "resnet50": ["conv1"], "mnasnet": ["layers.0"], "vgg16": []}
    convs = {n: conv.stride for n, conv in model.named_modules() if isinstance(conv, nn.Conv2d)}
    assert [n for n, stride in convs.items() if stride == (2, 2)] == stem.get(name, ["features.0.0"]) + stride_2
    assert set(convs.values()) <= {(1, 1), (2, 2)}


def constants(name: str) -> set[tuple[float, float]]:
    if name == "ssdlite320_mobilenet_v3_large":
        return {(1e-3, 0.03)}
    if "mobilenet_v3" in name:  # Heads of other tasks have PyTorch's own.
        return {(1e-3, 1e-2)} | ({(1e-5, 0.1)} if name.startswith(("lraspp", "deeplab")) else set())
    if name in ("efficientnet_b5", "efficientnet_b6", "efficientnet_b7"):
        return {(1e-3, 1e-2)}
    return {(1e-5, 1 - 0.9997 if name == "mnasnet" else 0.1)}


@pytest.mark.parametrize("name", models.NAMES)
def test_batch_norms_have_torchvisions_constants(name: str) -> None:
    with torch.device("meta"):
        model = models.build(name)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(module.eps, module.momentum) for module in norms} <= constants(name)
