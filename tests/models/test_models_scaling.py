"""Compound scaling against powers worked by hand, and networks of other sizes than the published ones."""

import pytest
import torch

from separable import models
from separable.errors import SpecError


def test_one_number_scales_depth_width_and_resolution_together() -> None:
    scaling = models.compound_scaling(2)
    assert (scaling.depth, scaling.width) == (pytest.approx(1.44), pytest.approx(1.21))
    assert scaling.resolution == 296  # 224 · 1.15² = 296.24
    assert models.compound_scaling(0) == models.Scaling()


def test_a_persons_own_coefficients_are_taken() -> None:
    scaling = models.compound_scaling(1, depth=2, width=1.5, resolution=1.25, baseline=64)
    assert scaling == models.Scaling(depth=2, width=1.5, resolution=80)
    assert (scaling.channels(32), scaling.repeats(3)) == (48, 6)
    assert str(scaling) == "width ×1.5, depth ×2, 80×80 images"


def test_channels_round_to_eight_and_repeats_round_up() -> None:
    assert models.SCALINGS["efficientnet_b2"].channels(32) == 32  # 35.2
    assert models.SCALINGS["efficientnet_b2"].channels(320) == 352
    assert models.SCALINGS["efficientnet_b1"].repeats(3) == 4  # 3.3


def test_a_network_of_ones_own_scaling_has_that_size() -> None:
    with torch.device("meta"):
        model = models.efficientnet(models.Scaling(width=0.25, depth=0.5, resolution=64), classes=5)
        assert model(models.example(model).to("meta")).shape == (1, 5)
    assert [len(stage) for stage in list(model.features)[1:-1]] == [1, 1, 1, 2, 2, 2, 1]


def test_stochastic_depth_grows_in_even_steps_from_none() -> None:
    with torch.device("meta"):
        model = models.efficientnet_b0()
    drops = [block.stochastic_depth.p for stage in list(model.features)[1:-1] for block in stage]
    assert drops == pytest.approx([0.2 * index / 16 for index in range(16)])


@pytest.mark.parametrize("options", [{"width": 0}, {"depth": -1}, {"resolution": 0}, {"width": float("nan")}])
def test_a_scaling_that_makes_no_network_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="Scaling: got"):
        models.Scaling(**options)


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        ((1, 3, 24, 64), r"images of 24×64; expected at least 32×32"),
        ((3, 64, 64), r"shape \(3, 64, 64\); expected \(n, 3, h, w\)"),
        ((1, 1, 64, 64), r"shape \(1, 1, 64, 64\); expected \(n, 3, h, w\)"),
    ],
)
@pytest.mark.parametrize("name", ["mobilenet_v3_small_minimalistic", "ghostnet", "mnasnet", "xception"])
def test_images_that_do_not_fit_are_refused_in_one_sentence(name: str, shape: tuple[int, ...], complaint: str) -> None:
    with torch.device("meta"):
        model = models.build(name)
        with pytest.raises(SpecError, match=complaint):
            model(torch.empty(shape))


def test_an_unknown_rule_for_the_width_is_refused() -> None:
    with pytest.raises(SpecError, match=r"rule \(='keras'\); expected one of torchvision, tf"):
        models.mobilenet_v3_small(rule="keras")
