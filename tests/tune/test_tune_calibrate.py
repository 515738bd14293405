"""What calibrate promises. In: a trained network and its rewritten form. Out: one that is closer, and never farther."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tune_networks import digits, error, rewritten, trained

from separable.errors import ModelError
from separable.factor.fit import Moments, response_error
from separable.nn.factorized import FactorizedConv
from separable.tune import Batches, calibrate, read_batches
from separable.tune.batch_norm import re_estimate_


def batches(count: int = 200, size: int = 50) -> Batches:
    images = digits()[0]
    return read_batches(images[:count], images[:1], batch_size=size)


@pytest.mark.parametrize("family", ["spatial", "depthwise", "channel"])
def test_the_model_comes_closer_on_images_that_nobody_saw(family: str) -> None:
    original, unseen = trained(), digits()[0][1200:]
    model = rewritten(original, family=family)
    found = calibrate(original, model, batches())
    assert error(original, found.model, unseen) < 0.5 * error(original, model, unseen)
    assert [layer.name for layer in found.layers] == ["middle", "last"]
    assert all(layer.error_after <= layer.error_before for layer in found.layers)
    assert found.output_error_after < found.output_error_before
    assert found.samples == 200
    assert "middle" in str(found)


def test_the_errors_of_the_output_are_those_of_the_models() -> None:
    original, model, images = trained(), rewritten(trained()), digits()[0][:200]
    found = calibrate(original, model, batches())
    assert found.output_error_before == pytest.approx(error(original, model, images), rel=1e-4)
    assert found.output_error_after == pytest.approx(error(original, found.model, images), rel=1e-4)


def test_a_layer_is_fitted_on_what_the_fitted_layers_before_it_feed_in() -> None:
    original, images = trained(has_norms=False), digits()[0][:200]
    found = calibrate(original, rewritten(original), batches())
    last = found.model.get_submodule("last")
    assert isinstance(last, FactorizedConv)
    fed: list[Tensor] = []
    wanted: list[Tensor] = []
    last.register_forward_pre_hook(lambda _, args: fed.append(args[0].clone()))
    again = copy.deepcopy(original)
    again.last.register_forward_hook(lambda _, __, y: wanted.append(y.clone()))
    with torch.no_grad():
        found.model(images)
        again(images)
    moments = Moments(last.spec, positions=None)
    moments.update_(fed[0], wanted[0])
    assert response_error(last.factors().dense(), moments) == pytest.approx(found.layers[1].error_after, rel=1e-3)


def test_the_given_models_stay_as_they_were() -> None:
    original, model = copy.deepcopy(trained()).train(), rewritten(trained()).train()
    before = [copy.deepcopy(each.state_dict()) for each in (original, model)]
    found = calibrate(original, model, batches()).model
    for each, weights in zip((original, model), before, strict=True):
        assert all(torch.equal(weights[name], tensor) for name, tensor in each.state_dict().items())
    for each in (original, model, found):
        assert all(module.training for module in each.modules())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in each.modules())
        assert all(weight.requires_grad for weight in each.parameters())


def test_the_same_data_give_the_same_weights() -> None:
    first, second = (calibrate(trained(), rewritten(trained()), batches()).model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_model_that_is_right_already_is_left_alone() -> None:
    original = trained()
    found = calibrate(original, copy.deepcopy(original), batches())
    assert (found.kept, found.output_error_before, found.output_error_after) == ("nothing", 0.0, 0.0)
    assert found.layers == ()
    exact = calibrate(original, rewritten(original, share=1.0), batches())
    assert exact.output_error_after < 1e-9


def test_what_makes_the_output_worse_is_not_kept() -> None:
    # One image, eight times: statistics of it alone are far from those of the digits, and so are fits to it.
    images = digits()[0]
    twin = images[:1].expand(8, -1, -1, -1)
    original = trained()
    found = calibrate(original, copy.deepcopy(original), read_batches(twin, images[:1]))
    assert found.kept == "nothing"
    assert error(original, found.model, images) == 0.0


class Backwards(nn.Module):
    """Two convolutions that are called in the other order than they are listed in, one of them twice, at two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(16, 16, 3, padding=1)
        self.middle = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.first = nn.Conv2d(1, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = F.relu(self.middle(x), inplace=True).sum((2, 3))
        z = F.relu(self.middle(F.avg_pool2d(x, 2)), inplace=True).sum((2, 3))
        return y + z + self.never(x) if x.sum() == torch.inf else y + z

    def never(self, x: Tensor) -> Tensor:
        return self.last(x).sum((2, 3))


def backwards() -> Backwards:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Backwards().eval()


def test_layers_are_fitted_in_the_order_of_the_calls_each_over_all_its_calls() -> None:
    original = backwards()
    found = calibrate(original, rewritten(original), batches())
    assert [layer.name for layer in found.layers] == ["middle"]
    assert found.not_run == ("last",)
    assert "not run: last" in str(found)
    moments = Moments(found.model.get_submodule("middle").spec, positions=None)
    with torch.no_grad():
        x = original.first(digits()[0][:200])
        for each in (x, F.avg_pool2d(x, 2)):
            moments.update_(each, original.middle(each))
    weight = found.model.get_submodule("middle").factors().dense()
    assert response_error(weight, moments) == pytest.approx(found.layers[0].error_after, rel=1e-3)


class Counted(nn.Module):
    """Counts the forwards that reach it, over all its copies; and catches every error that it can."""

    runs = 0

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        try:
            logits: Tensor = self.model(x)
        except Exception:
            logits = x
        type(self).runs += 1
        return logits


def test_a_forward_is_left_as_soon_as_the_layer_was_reached() -> None:
    Counted.runs = 0
    original = trained(has_norms=False)
    calibrate(Counted(original), Counted(rewritten(original)), batches(count=100, size=50))
    # One to see the order; then, for nothing and for the fitted layers, two models on two batches.
    assert Counted.runs == 1 + 2 * 2 * 2


def test_at_most_so_many_samples_are_used() -> None:
    assert calibrate(trained(), rewritten(trained()), batches(), samples=60).samples == 60


def test_progress_is_told_layer_by_layer() -> None:
    seen: list[tuple[int, int]] = []
    calibrate(trained(), rewritten(trained()), batches(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_an_original_that_is_another_network_is_refused() -> None:
    with pytest.raises(ModelError, match="with a module 'middle'"):
        calibrate(nn.Flatten(), rewritten(trained()), batches())


def test_an_original_that_calls_a_layer_another_number_of_times_is_refused() -> None:
    class Once(Backwards):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.middle(self.first(x))).sum((2, 3))

    once = Once().eval()
    with pytest.raises(ModelError, match="middle: got 2 calls; expected 1 in each forward"):
        calibrate(once, rewritten(backwards()), batches())


def test_batch_norms_get_the_average_statistics_of_the_full_batches_and_nothing_else_trains() -> None:
    images = digits()[0][:100]
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1, momentum=0.3))
    re_estimate_(model, read_batches(images, images[:1], batch_size=30))
    parts = [images[start:stop].double() for start, stop in pairwise([0, 30, 60, 90])]
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.running_mean.item() == pytest.approx(sum(p.mean().item() for p in parts) / 3, rel=1e-5)
    assert norm.running_var.item() == pytest.approx(sum(p.var().item() for p in parts) / 3, rel=1e-5)
    assert norm.momentum == 0.3
    assert all(module.training for module in model.modules())


def test_no_statistics_are_taken_of_a_single_sample() -> None:
    norm = nn.BatchNorm2d(1)
    re_estimate_(norm, batches(count=1))
    assert norm.running_mean is not None
    assert norm.running_mean.item() == 0.0
