"""SSDLite: torchvision's integers and names, hand-worked sums, and boxes that come out where they were put in."""

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from separable import models
from separable.cost import count
from separable.errors import ModelError, SpecError
from separable.graph import trace
from separable.models import DetectOptions
from separable.models.boxes import encode
from separable.nn import InvertedResidual2d


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@cache
def small() -> models.SSDLite:
    torch.manual_seed(0)
    blocks = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), InvertedResidual2d(8, 12, 3, 2), InvertedResidual2d(12, 16, 3, 2))
    return models.ssdlite(blocks, 4, strides=(8, 16), extras=(20,)).eval()


@pytest.mark.parametrize(
    ("name", "parameters", "giga_macs"),
    # torchvision prints 3,440,060 and 0.583.
    [("ssdlite320_mobilenet_v3_large", 3_440_060, 0.583)],
)
def test_ssdlite_is_torchvisions_to_the_integer(name: str, parameters: int, giga_macs: float) -> None:
    with torch.device("meta"):
        total = count(models.build(name), models.example(name)).total
    assert (total.parameters, round(total.macs / 1e9, 3)) == (parameters, giga_macs)


NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def conv_norm(name: str) -> Iterator[str]:
    yield from [f"{name}.0.weight", *(f"{name}.1.{entry}" for entry in NORM)]


def attention(name: str) -> Iterator[str]:
    yield from (f"{name}.{layer}.{entry}" for layer in ("fc1", "fc2") for entry in ("weight", "bias"))


# (expands, squeezes) for each block of MobileNetV3-Large.
LARGE = ["00", "10", "10", "11", "11", "11", "10", "10", "10", "10", "11", "11", "11", "11", "11"]


def torchvisions_keys() -> Iterator[str]:
    first, second = "backbone.features.0", "backbone.features.1"
    yield from conv_norm(f"{first}.0")
    for block, (expands, squeezes) in enumerate(LARGE, start=1):
        # The thirteenth is cut behind its first 1×1.
        place = f"{first}.{block}" if block < 13 else f"{second}.{block - 13}"
        layers = ["conv"] * (1 + int(expands)) + ["attention"] * int(squeezes) + ["conv"]
        for index, layer in enumerate(layers):
            name = f"{place}.block.{index}"
            if block == 13:
                name = f"{first}.13" if index == 0 else f"{second}.0.{index}"
            yield from conv_norm(name) if layer == "conv" else attention(name)
    yield from conv_norm(f"{second}.3")
    for extra in range(4):
        for index in range(3):
            yield from conv_norm(f"backbone.extra.{extra}.{index}")
    for head in ("classification_head", "regression_head"):
        for level in range(6):
            name = f"head.{head}.module_list.{level}"
            yield from [*conv_norm(f"{name}.0"), f"{name}.1.weight", f"{name}.1.bias"]


def test_the_weights_have_torchvisions_names_and_shapes() -> None:
    with torch.device("meta"):
        state = models.ssdlite320_mobilenet_v3_large().state_dict()
    assert list(state) == list(torchvisions_keys())
    shapes = {
        "backbone.features.0.13.0.weight": (672, 112, 1, 1),
        "backbone.features.1.0.1.0.weight": (672, 1, 5, 5),
        "backbone.features.1.0.3.0.weight": (80, 672, 1, 1),
        "backbone.features.1.3.0.weight": (480, 80, 1, 1),
        "backbone.extra.0.1.0.weight": (256, 1, 3, 3),
        "backbone.extra.3.2.0.weight": (128, 64, 1, 1),
        "head.classification_head.module_list.0.1.weight": (546, 672, 1, 1),
        "head.regression_head.module_list.5.0.0.weight": (128, 1, 3, 3),
        "head.regression_head.module_list.5.1.weight": (24, 128, 1, 1),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


@pytest.mark.parametrize("separable", [True, False])
def test_heads_and_extra_maps_cost_what_their_layers_add_up_to(separable: bool) -> None:
    with torch.device("meta"):
        model = models.ssdlite(models.mobilenet_v2(), 5, extras=(64,), separable=separable)
        cost = count(model, torch.empty(1, 3, 96, 96))
    # By hand: maps of 6×6 with 576 channels, 3×3 with 1280 and 2×2 with 64; six boxes of 4 and of 5 numbers each.
    maps, numbers = ((36, 576), (9, 1280), (4, 64)), (24, 30)
    if separable:
        macs = sum(places * (9 * c + c * n) for places, c in maps for n in numbers)
        parameters = sum(9 * c + 2 * c + c * n + n for _, c in maps for n in numbers)
        macs += 9 * 1280 * 32 + 4 * (9 * 32 + 32 * 64)
        parameters += 1280 * 32 + 2 * 32 + 9 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    else:
        macs = sum(places * 9 * c * n for places, c in maps for n in numbers)
        parameters = sum(9 * c * n + n for _, c in maps for n in numbers)
        macs += 9 * 1280 * 32 + 4 * 9 * 32 * 64
        parameters += 1280 * 32 + 2 * 32 + 9 * 32 * 64 + 2 * 64
    added = [layer.cost for layer in cost.layers if not layer.name.startswith("backbone.features")]
    assert sum(layer.macs for layer in added) == macs
    assert sum(layer.parameters for layer in added) == parameters


def test_each_number_of_the_answer_belongs_to_its_default_box() -> None:
    model = small()
    maps = model.backbone(images(1, 3, 36, 52))
    assert [tuple(m.shape[2:]) for m in maps] == [(5, 7), (3, 4), (2, 2)]
    offsets, logits = model(images(1, 3, 36, 52))
    head = model.head.regression_head.module_list[0](maps[0])
    # Row 2, column 3, fourth shape, third number of the first map.
    torch.testing.assert_close(offsets[0, (2 * 7 + 3) * 6 + 4, 3], head[0, 4 * 4 + 3, 2, 3])
    assert offsets.shape == (1, (35 + 12 + 4) * 6, 4)
    assert logits.shape == (1, (35 + 12 + 4) * 6, 4)
    assert model.default_boxes((36, 52)).shape == ((35 + 12 + 4) * 6, 4)


def test_a_default_box_lies_where_its_position_of_the_map_looks() -> None:
    boxes = small().default_boxes((36, 52))
    # Row 2, column 3 of 5×7.
    x, y = (boxes[(2 * 7 + 3) * 6, :2] + boxes[(2 * 7 + 3) * 6, 2:]).div(2).tolist()
    assert (x, y) == pytest.approx((3.5 / 7 * 52, 2.5 / 5 * 36))


def answer_for(
    model: models.SSDLite, size: tuple[int, int], wanted: list[tuple[int, int, list[float], float]]
) -> tuple[Tensor, Tensor]:
    """An answer in which default box ``at`` says a class and a box with some logit, and all others say background."""
    defaults = model.default_boxes(size)
    offsets, logits = torch.zeros(1, len(defaults), 4), torch.zeros(1, len(defaults), model.classes)
    logits[..., 0] = 20
    for at, label, box, logit in wanted:
        offsets[0, at] = encode(torch.tensor(box), defaults[at])
        logits[0, at, 0], logits[0, at, label] = 0, logit
    return offsets, logits


def test_what_an_answer_says_is_what_comes_out() -> None:
    model = small()
    wanted = [
        (100, 2, [10.0, 4.0, 30.0, 20.0], 5.0),
        (7, 2, [11.0, 4.0, 31.0, 20.0], 4.0),  # Overlaps the first by 19 of 21: goes.
        (8, 3, [11.0, 4.0, 31.0, 20.0], 3.0),  # Another class: stays.
        (50, 2, [-9.0, 30.0, 9.0, 50.0], 6.0),  # Cut off at the image's edge.
    ]
    (found,) = model.decode(answer_for(model, (36, 52), wanted), (36, 52), DetectOptions(score=0.1))
    assert found.labels.tolist() == [2, 2, 3]
    expected = torch.tensor([[0.0, 30, 9, 36], [10, 4, 30, 20], [11, 4, 31, 20]])
    torch.testing.assert_close(found.boxes, expected, rtol=1e-4, atol=1e-4)
    # A logit of 6 against three zeros.
    assert float(found.scores[0]) == pytest.approx(2.718281828**6 / (2.718281828**6 + 3))
    assert str(found).splitlines()[1] == "class 2, 98%, x 10.0 to 30.0, y 4.0 to 20.0"
    assert len(found.above(0.9)) == 2


def test_an_image_without_objects_has_no_detections() -> None:
    model = small()
    (found,) = model.decode(answer_for(model, (36, 52), []), (36, 52))
    assert (len(found), found.boxes.shape, str(found)) == (0, (0, 4), "nothing found")


def test_no_more_than_the_wanted_number_comes_out() -> None:
    found = small().decode(small()(images(2, 3, 36, 52)), (36, 52), DetectOptions(score=0.0, most=5, candidates=20))
    assert [len(each) for each in found] == [5, 5]
    assert all(bool((each.scores.diff() <= 0).all()) for each in found)


def test_an_answer_to_images_of_another_size_is_refused() -> None:
    with pytest.raises(ModelError, match=r"expected \(n, 504, 4\), for images of 64×64"):
        small().decode(small()(images(1, 3, 32, 32)), (64, 64))


@pytest.mark.parametrize("options", [{"score": -0.1}, {"overlap": 1.1}, {"candidates": 0}, {"most": 0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(SpecError, match=f"DetectOptions.{next(iter(options))}"):
        DetectOptions(**options)


def test_images_smaller_than_the_stride_and_strides_that_do_not_exist_are_refused() -> None:
    with pytest.raises(SpecError, match="got images of 15×40; expected at least 16×16"):
        small()(images(1, 3, 15, 40))
    with pytest.raises(SpecError, match=r"SSDLite.strides: got a stride of 12; expected one of 2, 4, 8, 16, 32"):
        models.ssdlite(models.mobilenet_v2(0.25), 4, strides=(12,))
    with pytest.raises(SpecError, match=r"SSDLite.strides: got \(32, 16\); expected one or more"):
        models.ssdlite(models.mobilenet_v2(0.25), 4, strides=(32, 16))


@pytest.mark.parametrize("network", [models.resnet18, models.mobilenet_v1, lambda: models.mobilenet_v2(0.35)])
def test_ssdlite_stands_on_any_network(network: Callable[[], nn.Module]) -> None:
    with torch.device("meta"):
        model = models.ssdlite(network(), 6, strides=(8, 16, 32), extras=(32,)).eval()
        offsets, _ = model(torch.empty(2, 3, 70, 100))
        assert offsets.shape[1:] == model.boxes.on([(9, 13), (5, 7), (3, 4), (2, 2)]).shape


def test_the_network_given_is_left_as_it_is_and_its_weights_are_taken_along() -> None:
    network = models.mobilenet_v2(0.25)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    model = models.ssdlite(network, 3)
    assert torch.equal(model.backbone.features[0][0][0].weight, network.features[0][0].weight)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


def test_it_exports_for_any_batch() -> None:
    model, x = small(), images(2, 3, 32, 48)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=2)},))
    more = images(3, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(more), model(more))


def test_autocast_to_bfloat16_gives_nearly_the_same_boxes_in_float32() -> None:
    model, x = small(), images(1, 3, 48, 48)
    with torch.no_grad():
        exact = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(x)
    # 8 bits: a relative error of 2⁻⁸ a layer, over a dozen layers.
    assert all(float((a.float() - b).norm() / b.norm()) < 0.1 for a, b in zip(rounded, exact, strict=True))
    assert model.decode(rounded, (48, 48))[0].boxes.dtype == torch.float32


def test_its_convolutions_are_found() -> None:
    names = {site.name for site in trace(small(), images(1, 3, 48, 48)).sites}
    assert {"backbone.features.0.0", "backbone.extra.0.0.0", "head.classification_head.module_list.0.1"} <= names
