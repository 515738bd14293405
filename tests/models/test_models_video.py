"""Networks for clips: published sizes, torchvision's names, and motions that only the order of the frames tells."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from separable import cost, graph, models
from separable import nn as snn
from separable.errors import SpecError
from separable.pipeline import ShrinkOptions, shrink
from separable.spec import Budget

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def counted(name: str, **options: object) -> cost.Cost:
    with torch.device("meta"):
        model = models.build(name, **options).eval()
    return cost.count(model, models.example(model)).total


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        # As torchvision's documentation prints them.
        ("r3d_18", {}, 33_371_472),
        ("r2plus1d_18", {}, 31_505_325),
        # As MMAction2's model zoo prints them.
        ("csn50", {"interaction": "reduced"}, 13_131_152),
        ("csn152", {"interaction": "reduced"}, 29_703_568),
        ("csn152", {"interaction": "preserved"}, 33_016_592),
    ],
)
def test_the_parameters_are_the_published_ones(name: str, options: dict[str, str], parameters: int) -> None:
    assert counted(name, **options).parameters == parameters


@pytest.mark.parametrize(("name", "billions"), [("r3d_18", 40.70), ("r2plus1d_18", 40.52)])
def test_the_macs_are_those_that_torchvision_prints(name: str, billions: float) -> None:
    assert round(counted(name).macs / 1e9, 2) == billions


def test_mobilenet_v2_in_3d_differs_from_the_one_in_2d_by_its_depthwise_and_first_kernels_alone() -> None:
    with torch.device("meta"):
        flat = models.mobilenet_v2(classes=600)
    spatial = [conv.weight for conv in flat.modules() if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3)]
    parameters = counted("mobilenet_v2_3d").parameters
    assert parameters == sum(p.numel() for p in flat.parameters()) + 2 * sum(weight.numel() for weight in spatial)
    assert round(parameters / 1e6, 2) == 3.12  # Köpüklü et al. 2019, table 2


@pytest.mark.parametrize(
    ("convolution", "weights"),
    # From 4 channels to 4 and from 4 to 8, of a 3×3×3 kernel; (2+1)D has ⌊27·c·c' / (9c + 3c')⌋ channels between.
    [
        ("standard", (27 * 16, 27 * 32)),
        ("depthwise", (27 * 4 + 16, 27 * 4 + 32)),
        ("space_time", (9 * (9 * 4 + 3 * 4) + 2 * 9, 14 * (9 * 4 + 3 * 8) + 2 * 14)),
    ],
)
def test_the_convolutions_of_the_small_network_have_the_weights_of_their_kind(
    convolution: str, weights: tuple[int, int]
) -> None:
    model = models.video_resnet_small(4, convolution=convolution)
    blocks = model.layer1[0].conv1[0], model.layer2[0].conv1[0]
    assert tuple(sum(p.numel() for p in block.parameters()) for block in blocks) == weights


def r2plus1d_keys() -> Iterator[str]:
    def norm(name: str) -> list[str]:
        return [f"{name}.{entry}" for entry in NORM]

    yield from ["stem.0.weight", *norm("stem.1"), "stem.3.weight", *norm("stem.4")]
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            for conv in ("conv1", "conv2"):
                prefix = f"layer{stage}.{block}.{conv}"
                yield from [
                    f"{prefix}.0.0.weight",
                    *norm(f"{prefix}.0.1"),
                    f"{prefix}.0.3.weight",
                    *norm(f"{prefix}.1"),
                ]
            if stage > 1 and block == 0:
                yield from [f"layer{stage}.0.downsample.0.weight", *norm(f"layer{stage}.0.downsample.1")]
    yield from ["fc.weight", "fc.bias"]


def test_r2plus1d_has_torchvisions_keys_shapes_and_strides() -> None:
    with torch.device("meta"):
        model = models.r2plus1d_18()
    state = model.state_dict()
    assert list(state) == list(r2plus1d_keys())
    shapes = {
        "stem.0.weight": (45, 3, 1, 7, 7),
        "stem.3.weight": (64, 45, 3, 1, 1),
        "layer1.0.conv1.0.0.weight": (144, 64, 1, 3, 3),
        "layer2.0.conv1.0.0.weight": (230, 64, 1, 3, 3),
        # The second convolution of a block keeps the first one's number between space and time.
        "layer2.0.conv2.0.0.weight": (230, 128, 1, 3, 3),
        "layer2.1.conv1.0.0.weight": (288, 128, 1, 3, 3),
        "layer4.0.downsample.0.weight": (512, 256, 1, 1, 1),
        "fc.weight": (400, 512),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    strides = {name: conv.stride for name, conv in model.named_modules() if isinstance(conv, nn.Conv3d)}
    assert strides["stem.0"] == (1, 2, 2)
    assert (strides["layer2.0.conv1.0.0"], strides["layer2.0.conv1.0.3"]) == ((1, 2, 2), (2, 1, 1))
    assert strides["layer2.0.downsample.0"] == (2, 2, 2)
    assert {stride for name, stride in strides.items() if ".1.conv" in name or "conv2" in name} == {(1, 1, 1)}


SMALL = {
    "depthwise": lambda: models.video_resnet_small(4, classes=5, clip=(4, 8, 8)),
    "space_time": lambda: models.video_resnet_small(4, classes=5, convolution="space_time", clip=(4, 8, 8)),
    "mobilenet": lambda: models.mobilenet_v2_3d(0.1, classes=5),
    "csn": lambda: models.csn50(classes=5),
}


@pytest.mark.parametrize("name", ["depthwise", "space_time"])
def test_it_exports_for_any_batch_and_takes_autocast(name: str) -> None:
    torch.manual_seed(0)
    model = SMALL[name]().eval()
    x = models.example(model, batch=2)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=2)},))
    more = torch.cat([x, x.flip(0), x])
    with torch.no_grad():
        exact = model(more)
        torch.testing.assert_close(exported.module()(more), exact)
        with torch.autocast("cpu", torch.bfloat16):
            y = model(more)
    assert float((y.float() - exact).norm() / exact.norm()) < 0.1


@pytest.mark.parametrize("name", ["depthwise", "space_time"])
def test_its_batch_norms_fold_away(name: str) -> None:
    torch.manual_seed(0)
    model = SMALL[name]()
    x = models.example(model, batch=4)
    model(x)  # so that the running statistics are not those that change nothing
    folded = snn.fold_batch_norm(model.eval())
    assert not any(isinstance(layer, nn.BatchNorm3d) for layer in folded.modules())
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("clock")
def test_the_standard_network_shrinks_to_separable_convolutions() -> None:
    torch.manual_seed(0)
    model = models.video_resnet_small(4, classes=5, convolution="standard", clip=(4, 8, 8)).eval()
    x = models.example(model, batch=4)
    assert any(site.spec.kernel == (3, 3, 3) for site in graph.trace(model, x).sites)
    shrunk = shrink(model, x, x, Budget(macs=0.6), options=ShrinkOptions(distill=None, progress=False))
    assert cost.count(shrunk.model, x).total.macs <= 0.6 * cost.count(model, x).total.macs
    assert any(isinstance(layer, snn.FactorizedConv) for layer in shrunk.model.modules())


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: SMALL["depthwise"]()(torch.zeros(1, 8, 8, 8)), r"shape \(1, 8, 8, 8\); expected \(n, 1, d, h, w\)"),
        (lambda: SMALL["depthwise"]()(torch.zeros(1, 3, 8, 8, 8)), r"expected \(n, 1, d, h, w\)"),
        (lambda: SMALL["depthwise"]()(torch.zeros(1, 1, 3, 8, 8)), "clips of 3×8×8 .* at least 4×4×4"),
        (lambda: SMALL["mobilenet"]()(torch.zeros(1, 3, 8, 64, 64)), "clips of 8×64×64 .* at least 16×32×32"),
        (
            lambda: models.video_resnet_small(4, convolution="tucker"),
            r"convolution \(='tucker'\); expected one of depth",
        ),
        (lambda: models.csn50(interaction="none"), r"interaction \(='none'\)"),
        (lambda: models.r2plus1d_18(classes=0), r"classes \(=0\)"),
    ],
)
def test_sizes_and_inputs_that_do_not_fit_are_named(make: object, complaint: str) -> None:
    with torch.device("meta"), pytest.raises(SpecError, match=complaint):
        make()


def test_it_learns_motions_that_only_the_order_of_the_frames_tells_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    sys.modules.pop("video", None)
    import video

    lesson = video.learn(clips=400, epochs=5, test_clips=200)
    assert max(lesson.baselines.values()) < 0.3
    assert lesson.accuracy > 0.7
