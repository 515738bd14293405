"""Trains the two networks that the demo and the benchmark shrink. In: a name. Out: half-precision weights on disk.

python bench/train.py digits       the network that ships with the package, some five minutes on one core
python bench/train.py characters   the benchmark's, some seven minutes
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from characters import WEIGHTS, draw, vgg_small
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor, nn

from separable.files import written_whole
from separable.models import digits
from separable.nn import fold_batch_norm

BATCH = 32
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to train, on what, for how long, what to do with the trained network, and where its weights go."""

    model: Callable[[], nn.Module]
    data: Callable[[], tuple[Tensor, Tensor, Tensor, Tensor]]
    epochs: int
    rate: float
    augment: Callable[[Tensor], Tensor]
    finish: Callable[[nn.Module], nn.Module]
    path: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    recipe = RECIPES[arguments.name]
    # The order of a sum depends on the number of threads, and the weights with it.
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    images, labels, test_images, test_labels = recipe.data()
    model = recipe.finish(train(recipe, images, labels))
    stored = halved(model.state_dict())
    model.load_state_dict(stored)
    with written_whole(recipe.path) as path:
        save_file(stored, path)
    print(f"{accuracy(model, test_images, test_labels):.2%} of {len(test_labels)} held-out images right: {recipe.path}")


def train(recipe: Recipe, images: Tensor, labels: Tensor) -> nn.Module:
    """The model after ``epochs`` rounds of AdamW with one cycle of the rate, images augmented anew each time."""
    model = recipe.model().to(memory_format=torch.channels_last).train()
    steps = recipe.epochs * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps)
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(images))[: len(images) // BATCH * BATCH]
        for chosen in track(order.split(BATCH), f"epoch {epoch + 1} of {recipe.epochs}"):
            loss = F.cross_entropy(model(recipe.augment(images[chosen])), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def bent(images: Tensor) -> Tensor:
    """Images (n, 1, h, w), each turned by about 7 degrees, scaled by 0.85 to 1.15, moved by up to two pixels of 32."""
    n = len(images)
    angle, scale = torch.randn(n) * 0.12, torch.empty(n).uniform_(0.85, 1.15)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    move = torch.empty(2, n).uniform_(-0.125, 0.125)
    affine = torch.stack([cosine, -sine, move[0], sine, cosine, move[1]], dim=1).reshape(n, 2, 3)
    # grid_sample fills with zeros, which must mean paper.
    paper = images.amin()
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images - paper, grid, align_corners=False) + paper


def halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in half precision; biases and batch norms, which are small and sensitive, and counters as they are."""
    return {name: (t.half() if t.ndim > 1 else t).contiguous() for name, t in state.items()}


@torch.inference_mode()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the images for which the largest output is the label's."""
    right = [(model(x).argmax(1) == y).sum() for x, y in zip(images.split(100), labels.split(100), strict=True)]
    return float(sum(right)) / len(labels)


def _digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    data = digits.digits_data()
    return data.train_images, data.train_labels, data.test_images, data.test_labels


def _as_it_is(value: T) -> T:
    return value


RECIPES = {
    "digits": Recipe(
        model=digits.digits_resnet,
        data=_digits,
        epochs=12,
        rate=3e-3,
        augment=bent,
        finish=_as_it_is,
        path=digits.WEIGHTS,
    ),
    # Drawing is cheaper than training: every image is seen once.
    "characters": Recipe(
        model=vgg_small,
        data=lambda: (*draw(24_000, seed=1), *draw(2_000, seed=2)),
        epochs=1,
        rate=3e-3,
        augment=_as_it_is,
        finish=fold_batch_norm,
        path=WEIGHTS,
    ),
}


if __name__ == "__main__":
    main()
