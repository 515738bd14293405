"""Weights under timm's names. In: a network's name and a state dict of timm's. Out: the same tensors, named as here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from separable.errors import ModelError

Value = TypeVar("Value")
MID = 7  # Stages of EfficientNet between stem and head.


def from_timm(network: str, state: Mapping[str, Value]) -> dict[str, Value]:
    """``state`` with timm's names for ``network`` turned into ours; ``ModelError`` when none are known.

    The rules, timm's name on the left:

    - ``efficientnet_…``: ``conv_stem``, ``bn1`` → ``features.0.0``, ``features.0.1``; ``conv_head``, ``bn2`` →
      ``features.8.0``, ``features.8.1``; ``blocks.s.b`` → ``features.(s + 1).b.block`` with its convolutions, each
      followed by its norm, numbered in the order in which they run, and ``se`` where it runs.
    - ``ghostnet``: as it is, but for ``se.conv_reduce`` → ``se.fc1`` and ``se.conv_expand`` → ``se.fc2``.
    - ``xception`` (timm's ``legacy_xception``): ``conv1``, ``bn1``, ``conv2``, ``bn2`` → ``entry.stem.0, 1, 3, 4``;
      ``block1…3`` → ``entry.block1…3``; ``block4…11`` → ``middle.0…7``; ``block12`` → ``exit.block``; ``conv3``,
      ``conv4`` with their norms → ``exit.separable1, 2``; ``skip``, ``skipbn`` → ``shortcut.0, 1``.
    """
    family = next((family for family in RULES if network.startswith(family)), None)
    if family is None:
        expected = f"one of {', '.join(RULES)}"
        raise ModelError(
            "from_timm", given=repr(network), expected=expected, remedy="Others are named as torchvision's."
        )
    rule = RULES[family](any(".se." in key for key in state))
    return {rule(key): value for key, value in state.items()}


Rule = Callable[[str], str]


def _efficientnet(has_attention: bool) -> Rule:
    project = 3 if has_attention else 2
    ends = {"conv_stem": "features.0.0", "bn1": "features.0.1", "classifier": "classifier.1"}
    ends |= {"conv_head": f"features.{MID + 1}.0", "bn2": f"features.{MID + 1}.1"}
    # The blocks of the first stage do not expand.
    first = {"conv_dw": "0.0", "bn1": "0.1", "se": "1", "conv_pw": f"{project - 1}.0", "bn2": f"{project - 1}.1"}
    other = {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "se": "2"}
    other |= {"conv_pwl": f"{project}.0", "bn3": f"{project}.1"}

    def rule(key: str) -> str:
        if (match := re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(\w+)\.(.+)", key)) is None:
            layer, _, entry = key.partition(".")
            return f"{ends[layer]}.{entry}"
        stage, block, layer, entry = match.groups()
        place = (first if stage == "0" else other)[layer]
        return _attention(f"features.{int(stage) + 1}.{block}.block.{place}.{entry}")

    return rule


def _ghostnet(_: bool) -> Rule:
    return _attention


def _attention(key: str) -> str:
    return key.replace(".conv_reduce.", ".fc1.").replace(".conv_expand.", ".fc2.")


def _xception(_: bool) -> Rule:
    ends = {"conv1": "entry.stem.0", "bn1": "entry.stem.1", "conv2": "entry.stem.3", "bn2": "entry.stem.4", "fc": "fc"}
    tail = {"conv3.conv1": "separable1.depthwise", "conv3.pointwise": "separable1.pointwise"}
    tail |= {"bn3": "separable1.pointwise_norm", "bn4": "separable2.pointwise_norm"}
    tail |= {"conv4.conv1": "separable2.depthwise", "conv4.pointwise": "separable2.pointwise"}

    def rule(key: str) -> str:
        layer, _, entry = key.rpartition(".")
        match = re.fullmatch(r"block(\d+)\.(skip|skipbn|rep\.(\d+)(?:\.(conv1|pointwise))?)", layer)
        if match is None:
            return f"{ends[layer]}.{entry}" if layer in ends else f"exit.{tail[layer]}.{entry}"
        number = int(match[1])
        block = f"entry.block{number}" if number < 4 else f"middle.{number - 4}" if number < 12 else "exit.block"
        if match[3] is None:
            return f"{block}.shortcut.{('skip', 'skipbn').index(match[2])}.{entry}"
        # timm counts activation, convolution and norm; here a convolution has its norm inside. The first block of all
        # has no activation in front.
        index = int(match[3]) // 3 * 2 + (number > 1)
        half = {"conv1": "depthwise", "pointwise": "pointwise", None: "pointwise_norm"}[match[4]]
        return f"{block}.layers.{index}.{half}.{entry}"

    return rule


RULES: Mapping[str, Callable[[bool], Rule]] = {
    "efficientnet": _efficientnet,
    "ghostnet": _ghostnet,
    "xception": _xception,
}
