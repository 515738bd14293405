"""Parameter names against timm's, whose rules are written out here: its checkpoints must load after renaming."""

from collections.abc import Iterator

import pytest
import torch

from separable import models
from separable.errors import ModelError

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def norm(name: str) -> list[str]:
    return [f"{name}.{entry}" for entry in NORM]


def efficientnet_keys(attention: bool) -> Iterator[str]:
    yield from ["conv_stem.weight", *norm("bn1")]
    se = [f"se.{part}.{entry}" for part in ("conv_reduce", "conv_expand") for entry in ("weight", "bias")]
    for stage, blocks in enumerate((1, 2, 2, 3, 3, 4, 1)):
        for block in range(blocks):
            prefix = f"blocks.{stage}.{block}"
            convs = ["conv_dw", "conv_pw"] if stage == 0 else ["conv_pw", "conv_dw", "conv_pwl"]
            for number, conv in enumerate(convs, start=1):
                yield from [f"{prefix}.{conv}.weight", *norm(f"{prefix}.bn{number}")]
                yield from (f"{prefix}.{entry}" for entry in se if attention and conv == "conv_dw")
    yield from ["conv_head.weight", *norm("bn2"), "classifier.weight", "classifier.bias"]


STRIDED, SQUEEZED, SHORTCUT = {1, 3, 5, 11}, {3, 4, 9, 10, 11, 13, 15}, {1, 3, 5, 9, 11}
STAGES = [*[(stage, 0) for stage in range(6)], *[(6, block) for block in range(5)], (7, 0)]
STAGES += [(8, block) for block in range(4)]


def ghostnet_keys() -> Iterator[str]:
    yield from ["conv_stem.weight", *norm("bn1")]
    for index, (stage, block) in enumerate(STAGES):
        prefix = f"blocks.{stage}.{block}"
        for ghost in ("ghost1", "ghost2"):
            for part in ("primary_conv", "cheap_operation"):
                yield from [f"{prefix}.{ghost}.{part}.0.weight", *norm(f"{prefix}.{ghost}.{part}.1")]
        if index in STRIDED:
            yield from [f"{prefix}.conv_dw.weight", *norm(f"{prefix}.bn_dw")]
        if index in SQUEEZED:
            yield from (f"{prefix}.se.conv_{p}.{e}" for p in ("reduce", "expand") for e in ("weight", "bias"))
        if index in SHORTCUT:
            for conv in (0, 2):
                yield from [f"{prefix}.shortcut.{conv}.weight", *norm(f"{prefix}.shortcut.{conv + 1}")]
    yield from ["blocks.9.0.conv.weight", *norm("blocks.9.0.bn1"), "conv_head.weight", "conv_head.bias"]
    yield from ["classifier.weight", "classifier.bias"]


def xception_keys() -> Iterator[str]:
    for conv in ("1", "2"):
        yield from [f"conv{conv}.weight", *norm(f"bn{conv}")]
    for block in range(1, 13):
        prefix = f"block{block}"
        if block in (1, 2, 3, 12):
            yield from [f"{prefix}.skip.weight", *norm(f"{prefix}.skipbn")]
        for conv in range(3 if 4 <= block <= 11 else 2):
            place = 3 * conv + (block > 1)
            yield from [f"{prefix}.rep.{place}.conv1.weight", f"{prefix}.rep.{place}.pointwise.weight"]
            yield from norm(f"{prefix}.rep.{place + 1}")
    for conv in ("3", "4"):
        yield from [f"conv{conv}.conv1.weight", f"conv{conv}.pointwise.weight", *norm(f"bn{conv}")]
    yield from ["fc.weight", "fc.bias"]


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("efficientnet_lite0", list(efficientnet_keys(attention=False))),
        ("efficientnet_b0", list(efficientnet_keys(attention=True))),
        ("ghostnet", list(ghostnet_keys())),
        ("xception", list(xception_keys())),
    ],
)
def test_every_name_of_timms_becomes_one_of_ours_and_none_is_missing(name: str, keys: list[str]) -> None:
    renamed = models.from_timm(name, {key: key for key in keys})
    with torch.device("meta"):
        state = models.build(name).state_dict()
    assert len(renamed) == len(keys)
    assert set(renamed) == set(state)
    assert all(ours.endswith(theirs.rpartition(".")[2]) for ours, theirs in renamed.items())


@pytest.mark.parametrize(
    ("name", "theirs", "shape"),
    [
        ("efficientnet_lite0", "blocks.1.0.conv_dw.weight", (96, 1, 3, 3)),
        ("efficientnet_b0", "blocks.1.0.se.conv_reduce.weight", (4, 96, 1, 1)),
        ("efficientnet_b0", "blocks.6.0.conv_pwl.weight", (320, 1152, 1, 1)),
        ("ghostnet", "blocks.3.0.se.conv_expand.bias", (72,)),
        ("xception", "block1.rep.3.pointwise.weight", (128, 128, 1, 1)),
        ("xception", "block2.rep.1.conv1.weight", (128, 1, 3, 3)),
        ("xception", "block12.rep.4.pointwise.weight", (1024, 728, 1, 1)),
        ("xception", "block12.skip.weight", (1024, 728, 1, 1)),
        ("xception", "conv3.pointwise.weight", (1536, 1024, 1, 1)),
    ],
)
def test_a_weight_of_known_shape_arrives_in_its_place(name: str, theirs: str, shape: tuple[int, ...]) -> None:
    # The map looks for attention in the whole state dict.
    given = {theirs: "wanted"} | ({"blocks.0.0.se.conv_reduce.weight": ""} if name == "efficientnet_b0" else {})
    (ours,) = [key for key, value in models.from_timm(name, given).items() if value == "wanted"]
    with torch.device("meta"):
        assert tuple(models.build(name).state_dict()[ours].shape) == shape


def test_a_network_without_a_map_is_refused() -> None:
    with pytest.raises(ModelError, match="got 'resnet18'; expected one of efficientnet, ghostnet, xception"):
        models.from_timm("resnet18", {})
