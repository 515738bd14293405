"""The examples of masks and boxes, test-sized: learning for real on drawn scenes, against what must be beaten."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(autouse=True)
def _examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    for name in ("scenes", "segmentation", "detection"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_the_same_seed_draws_the_same_scenes_and_another_others() -> None:
    import scenes

    first, same, other = (scenes.draw(3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.images, same.images)
    assert not torch.equal(first.images, other.images)
    assert torch.equal(scenes.draw(2, seed=0).images, first.images[:2])


def test_boxes_lie_tightly_around_the_pixels_of_their_class() -> None:
    import scenes

    drawn = scenes.draw(20, size=48)
    assert drawn.images.shape == (20, 3, 48, 48)
    assert float(drawn.images.abs().max()) <= 1
    boxes_seen = 0
    for mask, (boxes, labels) in zip(drawn.masks, drawn.objects, strict=True):
        for (x1, y1, x2, y2), label in zip(boxes.int().tolist(), labels.tolist(), strict=True):
            inside = mask[y1:y2, x1:x2] == label
            assert all(bool(side.any()) for side in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
            boxes_seen += 1
    assert boxes_seen > 40


def test_a_network_learns_masks_far_beyond_colours() -> None:
    import segmentation

    lesson = segmentation.learn(shapes=2, scenes=400, epochs=5)
    assert lesson.score.mean > max(score.mean for score in lesson.baselines.values()) + 0.15
    assert lesson.macs < 0.4 * lesson.dense_macs


def test_a_network_learns_boxes_far_beyond_coloured_patches(tmp_path: Path) -> None:
    import detection

    lesson = detection.learn(shapes=2, scenes=400, epochs=5)
    assert lesson.score.at_half > lesson.baseline.at_half + 0.3
    detection.draw_picture(lesson, tmp_path / "boxes.png")
    assert (tmp_path / "boxes.png").stat().st_size > 10_000
