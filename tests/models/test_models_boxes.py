"""Boxes against hand-worked numbers and slow loops: overlaps, offsets, default boxes, non-maximum suppression."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from separable.errors import SpecError
from separable.models.boxes import DefaultBoxes, decode, encode, iou, nms


def boxes_at_random(*shape: int, seed: int = 0, size: float = 50.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator) * size
    return torch.cat([corner, corner + 1 + torch.rand(*shape, 2, generator=generator) * 20], dim=-1)


def slow_iou(a: list[float], b: list[float]) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(w, 0) * max(h, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def slow_nms(boxes: list[list[float]], scores: list[float], overlap: float) -> list[bool]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(slow_iou(boxes[i], boxes[j]) <= overlap for j in kept):
            kept.append(i)
    return [i in kept for i in range(len(boxes))]


def test_overlaps_are_those_of_a_slow_loop() -> None:
    a, b = boxes_at_random(3, 5).double(), boxes_at_random(3, 7, seed=1).double()
    slow = [[[slow_iou(x, y) for y in b[n].tolist()] for x in a[n].tolist()] for n in range(3)]
    torch.testing.assert_close(iou(a, b), torch.tensor(slow, dtype=torch.float64))


def test_boxes_that_touch_or_are_empty_overlap_by_nothing() -> None:
    boxes = torch.tensor([[0.0, 0, 1, 1], [1.0, 0, 2, 1], [3.0, 3, 3, 3]])
    assert torch.equal(iou(boxes, boxes), torch.diag(torch.tensor([1.0, 1.0, 0.0])))


def test_an_offset_is_the_one_worked_by_hand() -> None:
    # The centre moves from (5, 10) to (7, 10), 0.2 of the width; the width doubles, the height halves.
    default, box = torch.tensor([0.0, 0.0, 10.0, 20.0]), torch.tensor([-3.0, 5.0, 17.0, 15.0])
    expected = torch.tensor([10 * 0.2, 0.0, 5 * math.log(2), -5 * math.log(2)])
    torch.testing.assert_close(encode(box, default), expected)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_decoding_undoes_encoding(seed: int) -> None:
    boxes, defaults = boxes_at_random(9, seed=seed).double(), boxes_at_random(9, seed=seed + 1).double()
    torch.testing.assert_close(decode(encode(boxes, defaults), defaults), boxes)


def test_a_size_cannot_overflow() -> None:
    box = decode(torch.tensor([0.0, 0.0, 1e9, -1e9]), torch.tensor([0.0, 0.0, 2.0, 2.0]))
    torch.testing.assert_close(box, torch.tensor([1 - 62.5, 1.0, 1 + 62.5, 1.0]))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), overlap=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]), count=st.integers(0, 40))
def test_suppression_is_that_of_a_slow_loop(seed: int, overlap: float, count: int) -> None:
    boxes = boxes_at_random(count, seed=seed)
    # Few different scores, so that some are equal: then the first box counts as better.
    scores = torch.randint(5, (count,), generator=torch.Generator().manual_seed(seed)) / 5
    assert nms(boxes, scores, overlap).tolist() == slow_nms(boxes.tolist(), scores.tolist(), overlap)


def test_suppression_goes_down_a_chain() -> None:
    # Each overlaps the next by 8 of 12 and the one after by 6 of 14: 1 goes, so 2 stays, so 3 goes …
    left = torch.arange(20.0) * 2
    boxes = torch.stack([left, torch.zeros(20), left + 10, torch.ones(20)], dim=1)
    kept = nms(boxes, -torch.arange(20.0), 0.5)
    assert kept.tolist() == [True, False] * 10


def test_sets_of_boxes_do_not_see_each_other() -> None:
    boxes, scores = boxes_at_random(2, 3, 30), torch.rand(2, 3, 30, generator=torch.Generator().manual_seed(0))
    kept = nms(boxes, scores, 0.3)
    alone = [[nms(boxes[i, j], scores[i, j], 0.3).tolist() for j in range(3)] for i in range(2)]
    assert kept.tolist() == alone


def test_default_boxes_go_by_map_row_column_and_shape() -> None:
    boxes = DefaultBoxes(scales=(0.2, 0.4), ratios=(2,)).on([(2, 3), (1, 1)])
    assert boxes.shape == ((6 + 1) * 4, 4)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    torch.testing.assert_close(centres[4 * 4], torch.tensor([0.5, 0.75]))  # The second row's second column.
    sides = (boxes[:, 2:] - boxes[:, :2])[:4]
    wide, high = 0.2 * math.sqrt(2), 0.2 / math.sqrt(2)
    square = math.sqrt(0.2 * 0.4)
    torch.testing.assert_close(sides, torch.tensor([[0.2, 0.2], [square, square], [wide, high], [high, wide]]))
    torch.testing.assert_close(boxes[24], torch.tensor([0.3, 0.3, 0.7, 0.7]))
    assert torch.equal(boxes[25, 2:] - boxes[25, :2] <= 1, torch.tensor([True, True]))


def test_no_default_box_is_larger_than_the_image() -> None:
    boxes = DefaultBoxes(scales=(0.9, 0.9), ratios=(3,)).on([(1, 1)])
    assert float((boxes[:, 2:] - boxes[:, :2]).max()) == 1.0


@pytest.mark.parametrize(
    "options", [{"scales": (0.5, 0.2)}, {"scales": (0, 1)}, {"scales": (0.2, 1.5)}, {"ratios": (1,)}]
)
def test_sizes_that_make_no_default_boxes_are_refused(options: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(SpecError, match="DefaultBoxes"):
        DefaultBoxes(**options)
