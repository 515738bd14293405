"""Teaches a network to box shapes. In: options. Out: its average precision beside a baseline's, a picture.

python examples/detection.py --picture boxes.png
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from scenes import SHAPES, Scenes, draw
from scipy import ndimage
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from separable import count, models
from separable.models import DefaultBoxes, Detections, SSDLite
from separable.tune import BoxLoss, BoxScore, TrainOptions, average_precision, pad_boxes, train

SHOWN = 0.4  # Boxes of at least that score are drawn.


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesson:
    """A trained network, its score on scenes that it never saw, the baseline's on the same, and the MACs it saves."""

    model: SSDLite
    scenes: Scenes
    score: BoxScore
    baseline: BoxScore
    macs: int
    dense_macs: int

    def __str__(self) -> str:
        rows = {"boxes around coloured patches": self.baseline, "SSDLite": self.score}
        table = "\n".join(f"{name:<40} {score}" for name, score in rows.items())
        saved = f"{self.macs / 1e6:.1f} M MACs an image, {self.dense_macs / 1e6:.1f} M with dense heads"
        return f"on scenes that were never seen:\n{table}\n{saved} (counted)"


def network(shapes: int, *, separable: bool = True) -> SSDLite:
    """SSDLite on MobileNetV2's first eleven blocks, with the maps at strides 8 and 16."""
    blocks = models.blocks_of(models.mobilenet_v2())[:11]
    boxes = DefaultBoxes(scales=(0.22, 0.42), ratios=(2.0,))
    return models.ssdlite(blocks, shapes + 1, strides=(8, 16), extras=(), boxes=boxes, separable=separable)


def learn(*, shapes: int = len(SHAPES), scenes: int = 1000, epochs: int = 8, size: int = 64, seed: int = 0) -> Lesson:
    """Train on drawn scenes, and examine on 100 others."""
    known, unseen = (draw(n, size=size, shapes=shapes, seed=seed + i) for i, n in enumerate((scenes, 100)))
    torch.manual_seed(seed)
    model = network(shapes)
    pairs = TensorDataset(known.images, pad_boxes(known.objects))
    loader = DataLoader(pairs, batch_size=8, shuffle=True, drop_last=True)
    loss = BoxLoss(model.default_boxes((size, size)))
    model = train(model, loader, loss, TrainOptions(epochs=epochs, learning_rate=5e-3, clip=10.0, seed=seed)).model
    x = unseen.images[:1]
    return Lesson(
        model=model,
        scenes=unseen,
        score=average_precision(found(model, unseen.images), unseen.objects),
        baseline=average_precision(around_patches(known, unseen.images), unseen.objects),
        macs=count(model, x).total.macs,
        dense_macs=count(network(shapes, separable=False), x).total.macs,
    )


@torch.inference_mode()
def found(model: SSDLite, images: Tensor) -> list[Detections]:
    """What the network sees in each image."""
    return [each for part in images.split(50) for each in model.decode(model(part), tuple(images.shape[2:]))]


def around_patches(known: Scenes, images: Tensor) -> list[Detections]:
    """A box around each connected patch of strong colour, called by the most frequent shape; larger ones first.

    How strong a colour has to be is what suits the first hundred known scenes best.
    """
    label = Counter(int(label) for _, labels in known.objects for label in labels).most_common(1)[0][0]

    def suits(least: float) -> float:
        return average_precision(_patches(known.images[:100], least, label), known.objects[:100]).at_half

    return _patches(images, max((0.1, 0.2, 0.3, 0.4, 0.5), key=suits), label)


def draw_picture(lesson: Lesson, path: Path) -> None:
    """Eight scenes with the boxes that were found: their class and score; true boxes are dotted."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(12, 6.4), layout="tight")
    for index, each in enumerate(found(lesson.model, lesson.scenes.images[:8])):
        axes = figure.add_subplot(2, 4, index + 1, xticks=[], yticks=[])
        axes.imshow((lesson.scenes.images[index].movedim(0, 2) / 2 + 0.5).numpy(), extent=(0, 64, 64, 0))
        for x1, y1, x2, y2 in lesson.scenes.objects[index][0].tolist():
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="black", linestyle=":"))
        best = each.above(SHOWN)
        for (x1, y1, x2, y2), score, label in zip(best.boxes.tolist(), best.scores, best.labels, strict=True):
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="white"))
            axes.text(x1 + 1, y1 - 1, f"{SHAPES[label - 1]} {score:.0%}", color="white", fontsize=8)
    figure.savefig(path, dpi=100)


def _patches(images: Tensor, least: float, label: int) -> list[Detections]:
    strength = images.amax(1) - images.amin(1)
    each = []
    for strong in ndimage.uniform_filter(strength.numpy(), (0, 3, 3)) > 2 * least:
        places = ndimage.find_objects(ndimage.label(strong)[0])
        boxes = torch.tensor([[x.start, y.start, x.stop, y.stop] for y, x in places]).reshape(-1, 4).float()
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        each.append(Detections(boxes=boxes, scores=areas / strong.size, labels=torch.full((len(boxes),), label)))
    return each


@click.command(help=__doc__.splitlines()[0])
@click.option("--shapes", type=click.IntRange(1, len(SHAPES)), default=len(SHAPES), show_default=True)
@click.option("--scenes", default=1000, show_default=True, help="How many to learn from.")
@click.option("--epochs", default=8, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--picture", type=click.Path(path_type=Path), help="Draw scenes and boxes here (needs matplotlib).")
def main(shapes: int, scenes: int, epochs: int, seed: int, picture: Path | None) -> None:
    lesson = learn(shapes=shapes, scenes=scenes, epochs=epochs, seed=seed)
    click.echo(lesson)
    if picture:
        draw_picture(lesson, picture)


if __name__ == "__main__":
    main()
