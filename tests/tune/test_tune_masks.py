"""The loss and the score of masks, worked by hand."""

import math

import pytest
import torch

from separable.errors import DataError
from separable.tune import confusion, mask_loss, mean_iou


def test_the_loss_is_the_mean_over_the_pixels_that_count() -> None:
    # Two classes, logits 0 and log 3: probabilities of a quarter and three quarters. The last pixel is left out.
    logits = torch.tensor([0.0, math.log(3)]).reshape(1, 2, 1, 1).expand(1, 2, 1, 3)
    masks = torch.tensor([[[1, 0, 255]]])
    assert mask_loss(logits, masks).item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)
    weighted = mask_loss(logits, masks, weights=torch.tensor([3.0, 1.0])).item()
    assert weighted == pytest.approx((math.log(4 / 3) + 3 * math.log(4)) / 4)


def test_the_loss_of_half_precision_is_worked_out_in_float32() -> None:
    logits = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    loss = mask_loss(logits, torch.ones(1, 4, 4, dtype=torch.long))
    assert loss.dtype == torch.float32
    assert loss == mask_loss(logits.float(), torch.ones(1, 4, 4, dtype=torch.long))


@pytest.mark.parametrize(
    ("shape", "value", "said"),
    [
        ((1, 4, 5), 0, r"got logits \(1, 2, 4, 4\) and masks \(1, 4, 5\)"),
        ((1, 4, 4), 2, "got classes 2 to 2; expected 0 to 1, or 255"),
        ((1, 4, 4), 255, "no pixel that counts"),
    ],
)
def test_masks_that_do_not_fit_are_refused(shape: tuple[int, ...], value: int, said: str) -> None:
    with pytest.raises(DataError, match=said):
        mask_loss(torch.zeros(1, 2, 4, 4), torch.full(shape, value))


def test_pixels_are_counted_by_true_and_predicted_class() -> None:
    truth = torch.tensor([[0, 0, 1], [2, 255, 2]])
    predicted = torch.tensor([[0, 1, 1], [2, 0, 0]])
    assert confusion(predicted, truth, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]


def test_the_score_is_the_one_worked_by_hand() -> None:
    score = mean_iou(torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]))
    # Class 0: 1 of 3 pixels in either; class 1: 1 of 2; class 2: 1 of 2; class 3 is nowhere.
    assert score.classes == (1 / 3, 1 / 2, 1 / 2, None)
    assert score.mean == pytest.approx(4 / 9)
    assert score.accuracy == pytest.approx(3 / 5)


def test_tables_of_several_batches_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    truth, predicted = (torch.randint(4, (6, 5, 5), generator=generator) for _ in range(2))
    parts = [confusion(p, t, 4) for p, t in zip(predicted.split(4), truth.split(4), strict=True)]
    assert torch.equal(sum(parts), confusion(predicted, truth, 4))


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(DataError, match="one shape"):
        confusion(torch.zeros(2, 2), torch.zeros(2, 3), 2)
    with pytest.raises(DataError, match="got classes 0 to 7; expected 0 to 2"):
        confusion(torch.tensor([7]), torch.tensor([0]), 3)
    with pytest.raises(DataError, match="no pixels"):
        mean_iou(torch.zeros(3, 3, dtype=torch.long))
