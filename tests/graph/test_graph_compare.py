"""What separable.graph.compare promises: the error is relative and squared, and the models stay as they were."""

import math

import pytest
import torch
from torch import Tensor, nn

from separable.errors import ModelError
from separable.graph import compare


class Affine(nn.Module):
    def __init__(self, scale: float, shift: float = 0.0) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def test_halving_every_output_loses_a_quarter_of_the_energy() -> None:
    agreement = compare(Affine(1.0), Affine(0.5), torch.tensor([[3.0, 4.0]]))
    assert agreement.error == pytest.approx(0.25)
    assert agreement.max_abs == 2.0
    assert agreement.same_top1 == 1.0


def test_the_error_is_taken_over_all_inputs_together() -> None:
    inputs = [torch.full((1, 1), 1.0), torch.full((1, 1), 3.0)]
    assert compare(Affine(1.0), Affine(1.0, 1.0), inputs).error == pytest.approx(2 / 10)


def test_same_top1_is_the_share_of_samples_with_the_same_first_class() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 3.0]])
    other = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        other.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    assert compare(Affine(1.0), other, x).same_top1 == 0.5


def test_outputs_that_are_no_classes_have_no_top1() -> None:
    assert compare(Affine(1.0), Affine(1.0), torch.ones(2, 3, 4)).same_top1 is None


class Several(nn.Module):
    def forward(self, x: Tensor, *, y: Tensor) -> dict[str, object]:
        return {"sum": x + y, "parts": (x, [y]), "count": torch.tensor(2)}


def test_nested_outputs_and_named_arguments_are_compared_tensor_by_tensor() -> None:
    agreement = compare(Several(), Several(), {"x": torch.ones(1, 2), "y": torch.ones(1, 2)})
    assert (agreement.error, agreement.max_abs) == (0.0, 0.0)


def test_an_original_that_answers_zero_has_no_error_or_all_of_it() -> None:
    x = torch.ones(1, 2)
    assert compare(Affine(0.0), Affine(0.0), x).error == 0.0
    assert compare(Affine(0.0), Affine(1.0), x).error == 1.0


def test_both_models_compute_as_in_evaluation_and_are_back_in_their_modes() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3)).train()
    model[0].eval()
    assert compare(model, model, torch.randn(4, 3)).error == 0.0
    assert [module.training for module in model.modules()] == [True, False, True]
    assert int(model[1].num_batches_tracked) == 0


def test_a_model_that_changes_its_input_is_refused_because_the_other_would_read_another_one() -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sub_(0.5)

    with pytest.raises(ModelError, match="changes its input"):
        compare(InPlace(), InPlace(), torch.ones(1, 2))
    with pytest.raises(ModelError, match="changes its input"):
        compare(InPlace(), InPlace(), {"x": torch.ones(1, 2)})


def test_outputs_that_do_not_compare_are_refused() -> None:
    x = torch.ones(1, 2)
    with pytest.raises(ModelError, match="outputs"):
        compare(Affine(1.0), nn.Linear(2, 3), x)
    with pytest.raises(ModelError, match="second model that are NaN"):
        compare(Affine(1.0), Affine(math.nan), x)
