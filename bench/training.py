"""What each ingredient of training is worth. In: seeds. Out: bench/results/training.json and .md.

python bench/training.py        some three minutes of one core

A small separable network learns scikit-learn's digits with all ingredients, and with all but one, from several seeds. A
seed gives the first weights and the order of the data, the same with and without an ingredient, so that runs are
compared pair by pair. Accuracy is that on the digits that it did not learn from.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from train import accuracy

from separable.cost import count, this_software
from separable.files import written_whole
from separable.nn import InvertedResidual2d, initialize_
from separable.nn.conv_norm import ConvNorm
from separable.tune import TrainOptions, read_batches, train

RESULTS = Path(__file__).parent / "results"
ALL = "all of them"
TRAIN, BATCH = 500, 25
RECIPE = TrainOptions(epochs=6, learning_rate=1e-2, label_smoothing=0.1, average_decay=0.95)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to train: the options, whether blocks are initialised, and what else is different meanwhile."""

    options: TrainOptions = RECIPE
    is_initialised: bool = True
    meanwhile: Callable[[], AbstractContextManager[Any]] = nullcontext


def decay_everything() -> AbstractContextManager[Any]:
    """Inside the block no weight is spared from weight decay."""

    def groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        return [{"params": list(model.parameters()), "weight_decay": weight_decay}]

    return mock.patch("separable.tune.optimizer.parameter_groups", groups)


CASES = {
    ALL: Case(),
    "initialisation by block (PyTorch's own instead)": Case(is_initialised=False),
    "no decay on depthwise, norms, biases (decay on all instead)": Case(meanwhile=decay_everything),
    "warm-up": Case(options=replace(RECIPE, warm_up=0.0)),
    "cosine schedule (constant instead)": Case(options=replace(RECIPE, schedule="constant")),
    "label smoothing": Case(options=replace(RECIPE, label_smoothing=0.0)),
    "average of the weights": Case(options=replace(RECIPE, average_decay=0.0)),
    "statistics taken anew": Case(options=replace(RECIPE, re_estimate=False)),
    "float32 (bfloat16 instead)": Case(options=replace(RECIPE, precision="bfloat16")),
}


def network() -> nn.Module:
    """A stem, four inverted residuals and a classifier, for images of 8×8; weights as PyTorch draws them."""
    blocks: list[nn.Module] = [ConvNorm(2, 1, 12, 3, activation=nn.ReLU6)]
    for c_in, c_out, stride in ((12, 16, 2), (16, 16, 1), (16, 24, 2), (24, 24, 1)):
        blocks.append(InvertedResidual2d(c_in, c_out, stride=stride, hidden=3 * c_in))
    head = [ConvNorm(2, 24, 64, activation=nn.ReLU6), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*blocks, *head, nn.Linear(64, 10))


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (n, 1, 8, 8) and labels to learn from, and all others to judge by; always the same."""
    scans, numbers = load_digits(return_X_y=True)
    images = torch.from_numpy(scans).float().reshape(-1, 1, 8, 8) / 6 - 0.8
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], torch.from_numpy(numbers)[order]
    return images[:TRAIN], labels[:TRAIN], images[TRAIN:], labels[TRAIN:]


def run(case: Case, seed: int, data: Sequence[Tensor]) -> float:
    """The share of the test images that a network trained in this way gets right."""
    images, labels, test_images, test_labels = data
    torch.manual_seed(seed)
    model = network()
    if case.is_initialised:
        initialize_(model, generator=torch.Generator().manual_seed(seed))
    batches = read_batches((images, labels), images[:1], batch_size=BATCH)
    with case.meanwhile():
        trained = train(model, batches, options=replace(case.options, seed=seed), progress=False)
    return accuracy(trained.model, test_images, test_labels)


def rows(found: dict[str, list[float]]) -> list[dict[str, Any]]:
    """For each case its accuracies, and what leaving the ingredient out costs, seed by seed."""
    gains = {name: [a - b for a, b in zip(found[ALL], values, strict=True)] for name, values in found.items()}
    return [{"name": name, "accuracy": values, "worth": gains[name]} for name, values in found.items()]


def as_text(facts: dict[str, Any]) -> str:
    """The facts as a table in Markdown."""
    own = facts["rows"][0]["accuracy"]
    seeds = len(own)
    head = (
        f"A network of {facts['parameters']:,} parameters and {facts['macs']:,} MACs (counted) learns scikit-learn's "
        f"digits from {TRAIN} of them, in {RECIPE.epochs} epochs of AdamW, {RECIPE.epochs * TRAIN // BATCH} steps. "
        f"Accuracy is that on the other {facts['tested']:,}, for {seeds} seeds: the mean, the least and the most. "
        "Worth is what the recipe loses without the ingredient, in points of accuracy, compared seed by seed; it "
        "helps, or harms, where all seeds agree and the mean is more than the recipe's own accuracy varies between "
        "seeds. The run is short of steps, so that whatever makes it learn more slowly loses here.\n\n"
    )
    lines = ["| left out | accuracy % | from | to | worth (points) | from | to | |", "|" + "---|" * 8]
    for row in facts["rows"]:
        cells = [row["name"] if row["name"] != ALL else "nothing", *_spread(row["accuracy"])]
        worth = row["worth"]
        is_clear = abs(statistics.fmean(worth)) > max(own) - min(own)
        verdict = "helps" if is_clear and min(worth) > 0 else "harms" if is_clear and max(worth) < 0 else "unclear"
        cells += ["", "", "", ""] if row["name"] == ALL else [*_spread(worth), verdict]
        lines.append(f"| {' | '.join(cells)} |")
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return head + "\n".join(lines) + f"\n\n{versions}. One thread.\n"


def _spread(shares: Sequence[float]) -> list[str]:
    return [f"{100 * value:.1f}" for value in (statistics.fmean(shares), min(shares), max(shares))]


def write(path: Path, text: str) -> None:
    """All of the text, or nothing."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "training.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = digits()
    found: dict[str, list[float]] = {name: [] for name in CASES}
    cost = count(network(), data[0][:1]).total
    # Seed by seed, so that a run that is cut short has compared all ingredients.
    for seed in range(arguments.seeds):
        for name, case in CASES.items():
            found[name].append(run(case, seed, data))
            print(f"seed {seed}, without {name}: {found[name][-1]:.1%}", flush=True)
        facts = {"rows": rows(found), "macs": cost.macs, "parameters": cost.parameters, "tested": len(data[3])}
        facts["versions"] = this_software()
        write(arguments.out, json.dumps(facts, indent=1) + "\n")
        write(arguments.out.with_suffix(".md"), as_text(facts))


if __name__ == "__main__":
    main()
