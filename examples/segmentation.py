"""Teaches a network which pixels belong to which shape. In: options. Out: its mean IoU beside a baseline's, a picture.

python examples/segmentation.py --picture masks.png
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import torch
from scenes import SHAPES, Scenes, draw
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from separable import count, models
from separable.tune import MaskScore, TrainOptions, confusion, mask_loss, mean_iou, train


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesson:
    """A trained network, its score on scenes that it never saw, the baselines' on the same, and the MACs it saves."""

    model: nn.Module
    scenes: Scenes
    score: MaskScore
    baselines: dict[str, MaskScore]
    macs: int
    dense_macs: int

    def __str__(self) -> str:
        rows = {**self.baselines, "DeepLabV3+": self.score}
        table = "\n".join(f"{name:<40} {score}" for name, score in rows.items())
        saved = f"{self.macs / 1e6:.1f} M MACs an image, {self.dense_macs / 1e6:.1f} M with a dense head"
        return f"on scenes that were never seen:\n{table}\n{saved} (counted)"


def network(shapes: int, *, separable: bool = True) -> nn.Module:
    """DeepLabV3+ on MobileNetV2's first seven blocks, up to stride 8."""
    blocks = models.blocks_of(models.mobilenet_v2())[:7]
    options = {"output_stride": 8, "width": 64, "rates": (1, 2, 3), "separable": separable}
    return models.deeplabv3plus(blocks, shapes + 1, **options)


def learn(*, shapes: int = len(SHAPES), scenes: int = 1000, epochs: int = 8, size: int = 64, seed: int = 0) -> Lesson:
    """Train on drawn scenes, and examine on 100 others."""
    known, unseen = (draw(n, size=size, shapes=shapes, seed=seed + i) for i, n in enumerate((scenes, 100)))
    torch.manual_seed(seed)
    # Most pixels are background, and easily told.
    weights = torch.tensor([0.3] + [1.0] * shapes)
    loader = DataLoader(TensorDataset(known.images, known.masks), batch_size=8, shuffle=True, drop_last=True)
    options = TrainOptions(epochs=epochs, learning_rate=5e-3, seed=seed)
    model = train(network(shapes), loader, partial(mask_loss, weights=weights), options).model
    score = partial(scored, truth=unseen.masks, classes=shapes + 1)
    x = unseen.images[:1]
    return Lesson(
        model=model,
        scenes=unseen,
        score=score(masks(model, unseen.images)),
        baselines={
            "background everywhere": score(torch.zeros_like(unseen.masks)),
            "most frequent class of each colour": score(by_colour(known, unseen.images)),
        },
        macs=count(model, x).total.macs,
        dense_macs=count(network(shapes, separable=False), x).total.macs,
    )


@torch.inference_mode()
def masks(model: nn.Module, images: Tensor) -> Tensor:
    """The class (n, h, w) of each pixel."""
    return torch.cat([model(part).argmax(1) for part in images.split(50)])


def scored(predicted: Tensor, truth: Tensor, classes: int) -> MaskScore:
    """Mean IoU of the predicted masks."""
    return mean_iou(confusion(predicted, truth, classes))


def by_colour(known: Scenes, images: Tensor, levels: int = 8) -> Tensor:
    """Masks that give each of 512 colours the class that it most often has in the ``known`` scenes."""
    classes = int(known.masks.max()) + 1
    pairs = _colours(known.images, levels) * classes + known.masks
    table = torch.bincount(pairs.flatten(), minlength=levels**3 * classes)
    return table.reshape(-1, classes).argmax(1)[_colours(images, levels)]


def draw_picture(lesson: Lesson, path: Path) -> None:
    """Eight scenes: image, predicted mask, true mask."""
    from matplotlib.figure import Figure

    scenes = lesson.scenes
    predicted = masks(lesson.model, scenes.images[:8])
    rows = {"scene": scenes.images.movedim(1, 3) / 2 + 0.5, "predicted": predicted, "true": scenes.masks}
    figure = Figure(figsize=(12, 4.8), layout="tight")
    for row, (name, pictures) in enumerate(rows.items()):
        for column in range(8):
            axes = figure.add_subplot(3, 8, row * 8 + column + 1, xticks=[], yticks=[])
            axes.imshow(pictures[column], vmin=0, vmax=len(SHAPES), interpolation="nearest")
            if not column:
                axes.set_ylabel(name)
    figure.savefig(path, dpi=100)


def _colours(images: Tensor, levels: int) -> Tensor:
    red, green, blue = ((images + 1) / 2 * (levels - 1)).round().long().unbind(1)
    return (red * levels + green) * levels + blue


@click.command(help=__doc__.splitlines()[0])
@click.option("--shapes", type=click.IntRange(1, len(SHAPES)), default=len(SHAPES), show_default=True)
@click.option("--scenes", default=1000, show_default=True, help="How many to learn from.")
@click.option("--epochs", default=8, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--picture", type=click.Path(path_type=Path), help="Draw scenes and masks here (needs matplotlib).")
def main(shapes: int, scenes: int, epochs: int, seed: int, picture: Path | None) -> None:
    lesson = learn(shapes=shapes, scenes=scenes, epochs=epochs, seed=seed)
    click.echo(lesson)
    if picture:
        draw_picture(lesson, picture)


if __name__ == "__main__":
    main()
