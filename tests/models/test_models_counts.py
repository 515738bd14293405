"""Costs of the reference networks against the known integers of tests/facts/counts.json."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from separable import models
from separable.cost import count

FACTS = json.loads((Path(__file__).parent.parent / "facts" / "counts.json").read_text(encoding="utf-8"))["networks"]
# How many rows the file has for each network of this package; its other rows are for networks that are not in it.
ROWS = {"mobilenet_v1": 16, "mobilenet_v2": 22, "resnet18": 1, "resnet34": 1, "resnet50": 1, "vgg16": 1}
KNOWN = [row for row in FACTS if row["model"] in ROWS]
# Not in the file: both 224×224, width 1.
VARIANTS = [
    {"model": "mobilenet_v1", "standard": True, "parameters": 29_294_088, "macs": 4_867_293_184, "resolution": 224},
    {"model": "mobilenet_v1", "shallow": True, "parameters": 2_887_976, "macs": 307_323_392, "resolution": 224},
]


@cache
def built(name: str, options: tuple[tuple[str, float], ...]) -> nn.Module:
    with torch.device("meta"):
        return models.build(name, **dict(options)).eval()


def test_no_row_of_a_network_in_this_package_is_left_out() -> None:
    assert {name: sum(row["model"] == name for row in KNOWN) for name in ROWS} == ROWS


@pytest.mark.parametrize("row", KNOWN + VARIANTS, ids=lambda row: " ".join(str(value) for value in row.values()))
def test_macs_and_parameters_are_exactly_the_known_ones(row: dict[str, object]) -> None:
    facts = {"model", "parameters", "macs", "resolution"}
    options = {key: value for key, value in row.items() if key not in facts}
    model = built(row["model"], tuple(options.items()))
    total = count(model, models.example(model, resolution=row["resolution"])).total
    assert (total.macs, total.parameters) == (row["macs"], row["parameters"])


def test_the_convolutions_of_vgg_alone_have_the_known_macs() -> None:
    with torch.device("meta"):
        cost = count(models.vgg16(), models.example("vgg16"))
    assert cost.by_kind()["dense"].macs == 15_346_630_656
