"""Teaches a network how a shape moves. In: options. Out: its accuracy beside that of what sees no motion.

python examples/video.py    under two minutes on one core
"""

from __future__ import annotations

import click
import numpy as np
import torch
from lessons import Lesson, Split, accuracy, logistic_regression, macs, majority, taught
from torch import Tensor

from separable import models

MOTIONS = ("left", "right", "up", "down", "clockwise", "anticlockwise", "grows", "shrinks")
FRAMES, SIZE = 8, 16


def clip(motion: str, generator: np.random.Generator) -> np.ndarray:
    """A disc, square or diamond that moves so, in noise: float32 (1, FRAMES, SIZE, SIZE).

    The same frames in the opposite order are the opposite motion: only their order tells the two apart.
    """
    time = np.linspace(-1, 1, FRAMES)
    centre = generator.uniform(6, SIZE - 6, size=2)
    radius = np.full(FRAMES, generator.uniform(1.8, 3))
    across = along = np.zeros(FRAMES)
    reach = generator.uniform(2.5, 5)
    if motion in ("left", "right"):
        across = reach * time * (1 if motion == "right" else -1)
    elif motion in ("up", "down"):
        along = reach * time * (1 if motion == "down" else -1)
    elif motion in ("grows", "shrinks"):
        radius = radius + generator.uniform(0.9, 1.6) * time * (1 if motion == "grows" else -1)
    else:
        turn = np.pi * generator.uniform(0.6, 1) * time * (1 if motion == "clockwise" else -1)
        angle = generator.uniform(0, 2 * np.pi) + turn
        across, along = 0.8 * reach * np.cos(angle), 0.8 * reach * np.sin(angle)
    row, column = np.mgrid[:SIZE, :SIZE]
    down = np.abs(row - (centre[0] + along)[:, None, None])
    right = np.abs(column - (centre[1] + across)[:, None, None])
    distance = (np.hypot(down, right), np.maximum(down, right), (down + right) * 0.8)[generator.integers(3)]
    shape = np.clip(radius[:, None, None] - distance + 0.5, 0, 1)
    noise = generator.normal(size=shape.shape) * generator.uniform(0.1, 0.4)
    return (2 * generator.uniform(0.6, 1.4) * shape * generator.choice((-1, 1)) + noise).astype(np.float32)[None]


def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """``count`` clips (count, 1, FRAMES, SIZE, SIZE) and their labels (count,), the same for the same seed."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(len(MOTIONS), size=count)
    clips = np.stack([clip(MOTIONS[label], generator) for label in labels])
    return torch.from_numpy(clips), torch.from_numpy(labels)


def learn(
    *,
    clips: int = 2000,
    test_clips: int = 1000,
    epochs: int = 6,
    width: int = 8,
    convolution: str = "depthwise",
    seed: int = 0,
) -> Lesson:
    """Train on clips, and examine on others."""
    (inputs, labels), (test_inputs, test_labels) = draw(clips, seed), draw(test_clips, seed + 1_000_000)
    split = Split(inputs=inputs, labels=labels, test_inputs=test_inputs, test_labels=test_labels)
    torch.manual_seed(seed)
    model, standard = (
        models.video_resnet_small(width, classes=len(MOTIONS), convolution=kind, clip=(FRAMES, SIZE, SIZE))
        for kind in (convolution, "standard")
    )
    trained = taught(model, split, epochs=epochs, seed=seed)
    return Lesson(
        model=trained,
        network=type(trained).__name__,
        accuracy=accuracy(trained, test_inputs, test_labels),
        baselines={
            "one motion for all": majority(split),
            "logistic regression on the mean frame": logistic_regression(inputs.mean(2), test_inputs.mean(2), split),
            "logistic regression on the last frame": logistic_regression(
                inputs[:, :, -1], test_inputs[:, :, -1], split
            ),
        },
        macs=macs(model, inputs),
        standard_macs=macs(standard, inputs),
    )


@click.command(help=__doc__.splitlines()[0])
@click.option("--clips", default=2000, show_default=True, help="How many clips to learn from.")
@click.option("--epochs", default=6, show_default=True)
@click.option("--width", default=8, show_default=True, help="Channels in the first stage.")
@click.option("--convolution", type=click.Choice(["depthwise", "space_time"]), default="depthwise", show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(clips: int, epochs: int, width: int, convolution: str, seed: int) -> None:
    click.echo(learn(clips=clips, epochs=epochs, width=width, convolution=convolution, seed=seed))


if __name__ == "__main__":
    main()
