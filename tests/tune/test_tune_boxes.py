"""What a detector is trained on and judged by, worked by hand and in slow loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from separable.errors import DataError
from separable.models import Detections
from separable.models.boxes import encode, iou
from separable.tune import BoxLoss, average_precision, pad_boxes
from separable.tune.boxes import match

DEFAULTS = torch.tensor([[0.0, 0, 10, 10], [10.0, 0, 20, 10], [20.0, 0, 30, 10], [0.0, 0, 20, 20]])


def truth(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor([rows], dtype=torch.float32)


def test_boxes_of_several_images_become_one_tensor() -> None:
    boxes = torch.tensor([[1.0, 2, 3, 4], [5.0, 6, 7, 8]])
    padded = pad_boxes([(boxes, torch.tensor([3, 1])), (boxes[:0], torch.tensor([], dtype=torch.long))])
    assert padded.tolist() == [[[1, 2, 3, 4, 3], [5, 6, 7, 8, 1]], [[0] * 5, [0] * 5]]


@pytest.mark.parametrize(
    ("box", "label", "said"),
    [
        ([3.0, 0, 3, 4], 1, r"\[3.0, 0.0, 3.0, 4.0\], label 1"),
        ([0.0, 0, 3, 4], 0, "label 0"),
    ],
)
def test_a_box_without_area_or_label_is_refused(box: list[float], label: int, said: str) -> None:
    with pytest.raises(DataError, match=said):
        pad_boxes([(torch.tensor([box]), torch.tensor([label]))])


def test_default_boxes_stand_for_what_they_overlap_by_half() -> None:
    # 10×10 at 2: overlaps the first by 8 of 12, the second by 2 of 18, the last by 10·10 of 400.
    boxes, labels = match(truth((2, 0, 12, 10, 7)), DEFAULTS)
    assert labels.tolist() == [[7, 0, 0, 0]]
    assert boxes[0, 0].tolist() == [2, 0, 12, 10]


def test_every_true_box_has_the_default_box_that_overlaps_it_most() -> None:
    # A small one, which overlaps the third default box by 4 of 100 only.
    assert match(truth((21, 1, 23, 3, 2)), DEFAULTS)[1].tolist() == [[0, 0, 2, 0]]
    # The second true box overlaps the first default box by 9 of 10, and the small one still has it.
    _, labels = match(truth((0, 0, 10, 9, 5), (4, 4, 5, 5, 6)), DEFAULTS)
    assert labels[0, 0] == 5


def test_rows_that_fill_up_match_nothing() -> None:
    assert match(truth((0, 0, 0, 0, 0), (0, 0, 0, 0, 0)), DEFAULTS)[1].tolist() == [[0, 0, 0, 0]]


def slow_loss(offsets: Tensor, logits: Tensor, true: Tensor) -> float:
    total, objects = 0.0, 0
    for o, z, rows in zip(offsets, logits, true, strict=True):
        boxes, labels = match(rows[None], DEFAULTS)
        log_p = torch.log_softmax(z.double(), dim=1)
        costs = []
        for a, label in enumerate(labels[0].tolist()):
            if label:
                objects += 1
                total -= float(log_p[a, label])
                for d in (o[a] - encode(boxes[0, a], DEFAULTS[a])).tolist():
                    total += d * d / 2 if abs(d) < 1 else abs(d) - 0.5
            else:
                costs.append(-float(log_p[a, 0]))
        total += sum(sorted(costs, reverse=True)[: 2 * (len(labels[0]) - len(costs))])
    return total / max(1, objects)


def test_the_loss_is_that_of_a_slow_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    offsets, logits = torch.randn(3, 4, 4, generator=generator), torch.randn(3, 4, 3, generator=generator)
    true = torch.zeros(3, 2, 5)
    true[0, 0] = torch.tensor([2.0, 0, 12, 10, 1])
    true[1] = torch.tensor([[0.0, 0, 19, 20, 2], [21, 1, 29, 9, 1]])
    loss = BoxLoss(DEFAULTS, negatives=2)((offsets, logits), true)
    assert loss.item() == pytest.approx(slow_loss(offsets, logits, true), rel=1e-5)


def test_a_perfect_answer_costs_nothing() -> None:
    true = truth((2, 0, 12, 10, 1))
    boxes, labels = match(true, DEFAULTS)
    offsets = torch.zeros(1, 4, 4)
    offsets[0, 0] = encode(boxes[0, 0], DEFAULTS[0])
    logits = 50.0 * torch.nn.functional.one_hot(labels, 2)
    assert BoxLoss(DEFAULTS)((offsets, logits), true).item() == pytest.approx(0, abs=1e-6)


def test_images_without_objects_cost_nothing_and_break_nothing() -> None:
    offsets, logits = torch.zeros(2, 4, 4, requires_grad=True), torch.zeros(2, 4, 3)
    for true in (torch.zeros(2, 0, 5), torch.zeros(2, 3, 5)):
        loss = BoxLoss(DEFAULTS)((offsets, logits), true)
        loss.backward()
        assert loss.item() == 0.0
    assert offsets.grad is not None
    assert bool(offsets.grad.isfinite().all())


def test_answers_and_boxes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match=r"expected \(n, 4, 4\) and \(n, most, 5\)"):
        BoxLoss(DEFAULTS)((torch.zeros(1, 3, 4), torch.zeros(1, 3, 2)), torch.zeros(1, 1, 5))


def detections(*rows: tuple[float, ...]) -> Detections:
    """Rows of x1, y1, x2, y2, score, label."""
    table = torch.tensor(rows).reshape(-1, 6)
    return Detections(boxes=table[:, :4], scores=table[:, 4], labels=table[:, 5].long())


def objects(*rows: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    table = torch.tensor(rows).reshape(-1, 5)
    return table[:, :4], table[:, 4].long()


def test_boxes_all_right_score_one_and_none_score_zero() -> None:
    true = [objects((0, 0, 10, 10, 1)), objects((5, 5, 9, 9, 2), (0, 0, 4, 4, 1))]
    right = [detections((0, 0, 10, 10, 0.9, 1)), detections((5, 5, 9, 9, 0.4, 2), (0, 0, 4, 4, 0.7, 1))]
    assert average_precision(right, true).mean == 1.0
    assert average_precision([detections(), detections()], true).mean == 0.0


def test_the_precision_is_the_one_worked_by_hand() -> None:
    # Two objects; from the best score down: right, wrong, right. Precision 1 up to recall 1/2, that is at 51 of the 101
    # recalls, and 2/3 at the other 50.
    true = [objects((0, 0, 10, 10, 1), (20, 20, 30, 30, 1))]
    found = [detections((0, 0, 10, 10, 0.9, 1), (50, 50, 60, 60, 0.8, 1), (20, 20, 30, 30, 0.7, 1))]
    score = average_precision(found, true)
    assert score.mean == score.at_half == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_an_overlap_counts_up_to_its_own_threshold() -> None:
    # 10×10 against 10×7.2: an overlap of 0.72, right at 0.5, 0.55, 0.6, 0.65 and 0.7, wrong at the five above.
    score = average_precision([detections((0, 0, 10, 7.2, 0.9, 1))], [objects((0, 0, 10, 10, 1))])
    assert (score.at_half, score.mean) == (1.0, 0.5)


def test_a_second_box_on_an_object_is_wrong_but_costs_nothing_behind_all_that_is_right() -> None:
    true = [objects((0, 0, 10, 10, 1), (20, 0, 30, 10, 1))]
    twice = [detections((0, 0, 10, 10, 0.9, 1), (20, 0, 30, 10, 0.8, 1), (0, 0, 10, 10, 0.7, 1))]
    assert average_precision(twice, true).mean == 1.0
    between = [detections((0, 0, 10, 10, 0.9, 1), (0, 0, 10, 10, 0.8, 1), (20, 0, 30, 10, 0.7, 1))]
    assert average_precision(between, true).mean == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_classes_count_alike_and_those_without_objects_not_at_all() -> None:
    true = [objects((0, 0, 10, 10, 1), (20, 0, 30, 10, 4))]
    found = [detections((0, 0, 10, 10, 0.9, 1), (0, 0, 10, 10, 0.9, 2), (20, 0, 30, 10, 0.5, 1))]
    score = average_precision(found, true)
    assert score.classes == {1: 1.0, 4: 0.0}
    assert (score.mean, score.at_half) == (0.5, 0.5)
    assert str(score) == "AP 50.0%, at IoU 0.5 50.0% (class 1: 100.0%, class 4: 0.0%)"


def test_a_box_of_another_image_is_no_help() -> None:
    true = [objects((0, 0, 10, 10, 1)), objects()]
    assert average_precision([detections(), detections((0, 0, 10, 10, 0.9, 1))], true).mean == 0.0


def slow_average_precision(found: list[Detections], true: list[tuple[Tensor, Tensor]], least: float) -> float:
    rows = []
    for image, each in enumerate(found):
        taken: set[int] = set()
        for i in each.scores.argsort(descending=True, stable=True).tolist():
            overlaps = iou(each.boxes[i : i + 1].double(), true[image][0].double())[0].tolist()
            free = [(o, j) for j, o in enumerate(overlaps) if j not in taken and o >= least]
            if free:
                taken.add(max(free, key=lambda pair: (pair[0], -pair[1]))[1])
            rows.append((float(each.scores[i]), bool(free)))
    rows.sort(key=lambda row: -row[0])
    wanted = sum(len(boxes) for boxes, _ in true)
    total = 0.0
    for percent in range(101):
        best = right = 0.0
        for rank, (_, is_right) in enumerate(rows, start=1):
            right += is_right
            if 100 * right >= percent * wanted:
                best = max(best, right / rank)
        total += best
    return total / 101


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_the_score_is_that_of_a_slow_loop(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def boxes(count: int) -> Tensor:
        corner = torch.rand(count, 2, generator=generator) * 12
        return torch.cat([corner, corner + 4 + torch.rand(count, 2, generator=generator) * 6], dim=1)

    true = [(boxes(n), torch.ones(n, dtype=torch.long)) for n in (3, 1, 4)]
    found = [
        Detections(boxes=boxes(n), scores=torch.rand(n, generator=generator), labels=torch.ones(n, dtype=torch.long))
        for n in (6, 0, 9)
    ]
    score = average_precision(found, true)
    slow = [slow_average_precision(found, true, 0.5 + 0.05 * step) for step in range(10)]
    assert score.at_half == pytest.approx(slow[0])
    assert score.mean == pytest.approx(math.fsum(slow) / 10)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(DataError, match="2 and 1 images"):
        average_precision([detections(), detections()], [objects()])
    with pytest.raises(DataError, match="no true boxes"):
        average_precision([detections()], [objects()])
