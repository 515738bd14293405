"""Networks for masks: dilation against the undilated network, torchvision's integers and names, hand-worked sums."""

import copy
from collections.abc import Callable
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from separable import Budget, models, shrink
from separable.cost import count
from separable.errors import ModelError, SpecError
from separable.graph import trace
from separable.models.taps import last_at, reach, without_head
from separable.nn import InvertedResidual2d

SMALL: dict[str, Callable[[], nn.Module]] = {
    "lraspp": lambda: models.lraspp_mobilenet_v3_large(0.25, 4),
    "deeplab": lambda: models.deeplabv3plus(models.mobilenet_v2(0.25), 4, output_stride=8, width=16, rates=(1, 2)),
}
CHAINS: dict[str, Callable[[], nn.Module]] = {
    "mobilenet_v1": lambda: models.mobilenet_v1(0.25),
    "mobilenet_v2": lambda: models.mobilenet_v2(0.35),
    "mnasnet": lambda: models.mnasnet(0.35),
    "resnet18": models.resnet18,
    "resnet50": models.resnet50,
    "xception": models.xception,
}


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@cache
def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return SMALL[name]().eval()


@pytest.mark.parametrize(
    ("name", "output_stride"), [*((name, 8) for name in CHAINS), ("mobilenet_v2", 16), ("xception", 16)]
)
def test_a_dilated_network_holds_all_that_the_strided_one_computes(name: str, output_stride: int) -> None:
    torch.manual_seed(0)
    blocks = models.blocks_of(CHAINS[name]().eval())
    x = images(1, 3, 45, 70)
    with torch.no_grad():
        coarse = blocks(x)
        models.dilate_(blocks, output_stride)
        fine = blocks(x)
    step = 32 // output_stride
    assert fine.shape[2:] == (-(-45 // output_stride), -(-70 // output_stride))
    torch.testing.assert_close(fine[:, :, ::step, ::step], coarse, rtol=1e-4, atol=1e-4 * float(coarse.abs().max()))


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0", "ghostnet"])
def test_networks_with_attention_can_be_dilated_too(name: str) -> None:
    with torch.device("meta"):
        blocks = models.blocks_of(models.build(name))
        models.dilate_(blocks, 8)
        assert blocks(torch.empty(2, 3, 64, 80)).shape[2:] == (8, 10)


def test_the_blocks_are_a_copy_that_keeps_the_weights() -> None:
    network = models.mobilenet_v2(0.25)
    blocks = models.blocks_of(network)
    models.dilate_(blocks, 8)
    assert torch.equal(blocks[0][0].weight, network.features[0][0].weight)
    assert {conv.dilation for conv in network.modules() if isinstance(conv, nn.Conv2d)} == {(1, 1)}


def test_blocks_of_ones_own_do_as_well() -> None:
    blocks = nn.Sequential(nn.Conv2d(5, 8, 3, 2, 1), InvertedResidual2d(8, 8, 3, 2), InvertedResidual2d(8, 16, 3, 2))
    model = models.deeplabv3plus(blocks, 3, output_stride=8, width=8, rates=(1,)).eval()
    with torch.no_grad():
        assert model(images(1, 5, 20, 30)).shape == (1, 3, 20, 30)


def test_strides_and_heads_are_found_by_shape() -> None:
    with torch.device("meta"):
        blocks = models.blocks_of(models.mobilenet_v2())
    reached = reach(blocks)
    assert [last_at(stride, reached) for stride in (2, 4, 8, 16, 32)] == ["1", "3", "6", "13", "18"]
    assert list(dict(without_head(blocks).named_children()))[-1] == "17"
    assert reached.channels["13"] == 96


def test_what_a_stride_cannot_be_is_said() -> None:
    with pytest.raises(SpecError, match=r"got a stride of 12; expected one of 2, 4, 8, 16, 32"):
        models.deeplabv3plus(models.mobilenet_v2(0.25), 3, output_stride=12)
    with pytest.raises(SpecError, match="backbone: got a stride of 4"):
        models.deeplabv3plus(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1)), 3, output_stride=2)
    with pytest.raises(ModelError, match="got a VGG"):
        models.deeplabv3plus(models.vgg16(), 3)


def test_lraspp_is_torchvisions_to_the_integer() -> None:
    with torch.device("meta"):
        total = count(models.build("lraspp_mobilenet_v3_large"), models.example("lraspp_mobilenet_v3_large")).total
    assert total.parameters == 3_221_538
    # "2.086" G in torchvision's table, for 520×520.
    assert round(total.macs / 1e9, 3) == 2.086


def test_lraspps_weights_have_torchvisions_names() -> None:
    with torch.device("meta"):
        keys = dict(models.lraspp_mobilenet_v3_large().state_dict())
        network = models.mobilenet_v3_large()
    trunk = {f"backbone.{key}": tensor.shape for key, tensor in network.features.state_dict().items()}
    norm = ("weight", "bias", "running_mean", "running_var")
    head = {f"classifier.cbr.1.{entry}": (128,) for entry in norm} | {"classifier.cbr.1.num_batches_tracked": ()}
    head |= {"classifier.cbr.0.weight": (128, 960, 1, 1), "classifier.scale.1.weight": (128, 960, 1, 1)}
    head |= {"classifier.low_classifier.weight": (21, 40, 1, 1), "classifier.low_classifier.bias": (21,)}
    head |= {"classifier.high_classifier.weight": (21, 128, 1, 1), "classifier.high_classifier.bias": (21,)}
    assert {key: tuple(tensor.shape) for key, tensor in keys.items()} == {**trunk, **head}


def test_lraspps_last_three_blocks_are_dilated_where_torchvision_dilates_them() -> None:
    with torch.device("meta"):
        model = models.lraspp_mobilenet_v3_large()
    convs = {n: conv for n, conv in model.named_modules() if isinstance(conv, nn.Conv2d)}
    assert [n for n, c in convs.items() if c.dilation == (2, 2)] == [f"backbone.{i}.block.1.0" for i in (13, 14, 15)]
    assert {c.padding for n, c in convs.items() if c.dilation == (2, 2)} == {(4, 4)}
    assert [n for n, c in convs.items() if c.stride == (2, 2)] == ["backbone.0.0"] + [
        f"backbone.{i}.block.1.0" for i in (2, 4, 7)
    ]


@pytest.mark.parametrize(
    ("separable", "macs", "parameters"),
    [
        # By hand, for 320 channels at 4×4 and 24 at 16×16 (64×64 images, MobileNetV2), 32 in the decoder, 5 classes.
        # Pyramid: 1×1, three separable 3×3 and the mean, then 1×1 over 160. Decoder: 1×1 to 48, two separable 3×3
        # from 80 and from 32, 1×1. A convolution's norm has two parameters a channel.
        (
            True,
            16 * (320 * 32 + 3 * 320 * (9 + 32) + 160 * 32)
            + 320 * 32
            + 256 * (24 * 48 + 80 * (9 + 32) + 32 * (9 + 32) + 32 * 5),
            (320 * 32 + 3 * 320 * (9 + 32) + 160 * 32 + 320 * 32)
            + 2 * (32 + 3 * (320 + 32) + 32 + 32)
            + (24 * 48 + 80 * 41 + 32 * 41 + 32 * 5 + 5)
            + 2 * (48 + 80 + 32 + 32 + 32),
        ),
        (
            False,
            16 * (320 * 32 + 3 * 320 * 9 * 32 + 160 * 32)
            + 320 * 32
            + 256 * (24 * 48 + 80 * 9 * 32 + 32 * 9 * 32 + 32 * 5),
            (320 * 32 + 3 * 320 * 9 * 32 + 160 * 32 + 320 * 32)
            + 2 * (5 * 32 + 32)
            + (24 * 48 + 80 * 9 * 32 + 32 * 9 * 32 + 32 * 5 + 5)
            + 2 * (48 + 32 + 32),
        ),
    ],
)
def test_deeplabs_head_costs_what_its_layers_add_up_to(separable: bool, macs: int, parameters: int) -> None:
    with torch.device("meta"):
        model = models.deeplabv3plus(models.mobilenet_v2(), 5, output_stride=16, width=32, separable=separable)
        cost = count(model, torch.empty(1, 3, 64, 64))
    head = [layer.cost for layer in cost.layers if not layer.name.startswith("backbone")]
    assert sum(layer.macs for layer in head) == macs
    assert sum(layer.parameters for layer in head) == parameters


@pytest.mark.parametrize("network", [models.resnet18, lambda: models.mobilenet_v3_small(0.5), models.xception])
def test_deeplab_stands_on_any_network(network: Callable[[], nn.Module]) -> None:
    with torch.device("meta"):
        model = models.deeplabv3plus(network(), 6, output_stride=8, width=16).eval()
        assert model(torch.empty(2, 3, 65, 97)).shape == (2, 6, 65, 97)


@pytest.mark.parametrize("name", SMALL)
def test_images_smaller_than_the_stride_are_refused_with_one_error(name: str) -> None:
    stride = built(name).output_stride
    with pytest.raises(SpecError, match=rf"got images of {stride - 1}×40; expected at least {stride}×{stride}"):
        built(name)(images(1, 3, stride - 1, 40))
    with torch.no_grad():
        assert built(name)(images(1, 3, stride, stride)).shape == (1, 4, stride, stride)


@pytest.mark.parametrize("name", SMALL)
def test_it_exports_for_any_batch(name: str) -> None:
    model, x = built(name), images(2, 3, 32, 48)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=2)},))
    more = images(3, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(more), model(more))


@pytest.mark.parametrize("name", SMALL)
def test_autocast_to_bfloat16_gives_nearly_the_same(name: str) -> None:
    model, x = built(name), images(1, 3, 48, 48)
    with torch.no_grad():
        exact = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            y = model(x)
    # 8 bits: a relative error of 2⁻⁸ a layer, over the depth of the network.
    assert float((y.float() - exact).norm() / exact.norm()) < 0.1


@pytest.mark.parametrize("name", SMALL)
def test_every_weight_learns(name: str) -> None:
    model, x = copy.deepcopy(built(name)).train(), images(2, 3, 48, 48)
    F.cross_entropy(model(x), torch.zeros(2, 48, 48, dtype=torch.long)).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.usefixtures("clock")
def test_its_convolutions_are_found_and_shrunk() -> None:
    torch.manual_seed(0)
    blocks = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU())
    model = models.deeplabv3plus(blocks, 4, output_stride=4, width=8, rates=(1,)).eval()
    x = images(1, 3, 32, 32)
    assert {"backbone.2", "low.0", "refine.0.pointwise", "classifier"} <= {site.name for site in trace(model, x).sites}
    shrunk = shrink(model, x, None, Budget(macs=0.9))
    with torch.no_grad():
        assert shrunk.model(x).shape == (1, 4, 32, 32)
    assert count(shrunk.model, x).total.macs <= 0.9 * count(model, x).total.macs
