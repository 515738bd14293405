"""Ours beside others, without training. In: a trained network. Out: bench/results/shrink_<network>.json and .md.

python bench/shrink.py digits        at 1/2 and 1/3 of the MACs, some fifteen minutes on two cores
python bench/shrink.py characters

Whoever uses data gets the same 200 unlabelled images, drawn anew for each seed. Error and accuracy are those on images
that neither training nor calibration saw. Times are measured in turns, on the models of the first seed.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import peers
import torch
from characters import characters_vgg, draw
from torch import Tensor, nn
from train import accuracy

from separable.cost import compare as compare_times
from separable.cost import count, this_machine, this_software
from separable.graph import compare, trace
from separable.models.digits import digits_data, digits_resnet
from separable.plan import Prices, choose_plan, price, rewrite
from separable.spec import Budget
from separable.tune import Batches, calibrate, read_batches
from separable.tune.batch_norm import batch_norms, re_estimate_

RESULTS = Path(__file__).parent / "results"
SHARES = (Fraction(1, 2), Fraction(1, 3))
SAMPLES = 200
SCORED = 50
LATENCY_BATCHES = (1, 16)
THREADS = 2
Seeds = tuple[int, ...]
GREEDY, OURS = "spatial SVD, AIMET's ranks", "separable"


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A trained network, images to calibrate on (no labels), and images and labels that it never saw."""

    name: str
    model: nn.Module
    pool: Tensor
    test_images: Tensor
    test_labels: Tensor

    @property
    def example(self) -> Tensor:
        """One image."""
        return self.test_images[:1]

    def calibration(self, seed: int) -> Batches:
        """The images that every method gets for this seed."""
        order = torch.randperm(len(self.pool), generator=torch.Generator().manual_seed(seed))
        return read_batches(self.pool[order[:SAMPLES]], self.example)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method on one network at one budget; errors and accuracies one a seed, or one where no data is used.

    ``data`` says what the method used the calibration images for. ``latency`` holds, by batch size, the time as a share
    of the original's: the median of the rounds, and where it lies with 99 % confidence.
    """

    network: str
    share: str
    method: str
    data: str
    macs: float
    parameters: float
    errors: tuple[float, ...]
    accuracies: tuple[float, ...]
    latency: dict[str, tuple[float, float, float]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Attempt:
    """What one method made at one budget: a model for each seed, or a single one where no data is used.

    ``data`` says what the method used the calibration images for.
    """

    method: str
    data: str
    models: tuple[nn.Module, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--seeds", type=int, default=2, help="how many draws of the calibration images")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    # tensorly asks for more singular vectors than there are, says so, and fills up at random.
    warnings.filterwarnings("ignore", message="Trying to compute SVD with n_eigenvecs", category=UserWarning)
    network = NETWORKS[arguments.network]()
    seeds = tuple(range(arguments.seeds))
    content = {
        "samples": SAMPLES,
        "seeds": seeds,
        "threads": THREADS,
        "machine": asdict(this_machine()),
        "versions": {**this_software(), "tensorly-torch": version("tensorly-torch"), "tensorly": version("tensorly")},
        "original": original(network),
        "rows": [asdict(row) for share in SHARES for row in measured(network, share, seeds)],
    }
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"shrink_{arguments.network}"
    file.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    file.with_suffix(".md").write_text(page(content), encoding="utf-8")


def digits() -> Network:
    """The ResNet that ships with the package."""
    data = digits_data()
    return Network(
        name="digits ResNet",
        model=digits_resnet(trained=True),
        pool=torch.cat([data.calibration_images, data.train_images]),
        test_images=data.test_images,
        test_labels=data.test_labels,
    )


def characters() -> Network:
    """The VGG-like network on drawn characters."""
    images, labels = draw(1_000, seed=2)
    pool, _ = draw(600, seed=3)
    return Network(name="characters VGG", model=characters_vgg(), pool=pool, test_images=images, test_labels=labels)


def original(network: Network) -> dict[str, object]:
    """What is being shrunk."""
    cost = count(network.model, network.example).total
    right = accuracy(network.model, network.test_images, network.test_labels)
    return {"network": network.name, "macs": cost.macs, "parameters": cost.parameters, "accuracy": right}


def measured(network: Network, share: Fraction, seeds: Seeds) -> Iterator[Row]:
    """Every method at one budget."""
    attempts = [*peer_attempts(network, share, seeds), *our_attempts(network, share, seeds)]
    times = latencies(network, attempts)
    total = count(network.model, network.example).total
    for attempt, latency in zip(attempts, times, strict=True):
        costs = [count(model, network.example).total for model in attempt.models]
        if max(cost.macs for cost in costs) > share * total.macs:
            raise SystemExit(f"{attempt.method} needs more than {share} of the MACs of {network.name}: {costs}")
        yield Row(
            network=network.name,
            share=str(share),
            method=attempt.method,
            data=attempt.data,
            macs=costs[0].macs / total.macs,
            parameters=costs[0].parameters / total.parameters,
            errors=tuple(
                compare(network.model, model, list(network.test_images.split(100))).error for model in attempt.models
            ),
            accuracies=tuple(accuracy(m, network.test_images, network.test_labels) for m in attempt.models),
            latency=latency,
        )


def peer_attempts(network: Network, share: Fraction, seeds: Seeds) -> Iterator[Attempt]:
    """The others, each as it is published, and again with the batch norms re-estimated on the calibration images."""
    model, example, part = network.model, network.example, float(share)
    plain = {
        "spatial SVD, one ratio": peers.uniform_spatial_svd(model, example, part),
        "tensorly-torch CP": peers.tensorly_torch(model, example, part, "cp"),
        "tensorly-torch Tucker": peers.tensorly_torch(model, example, part, "tucker"),
    }
    by_seed = {name: (rewritten,) * len(seeds) for name, rewritten in plain.items()}
    yield from (Attempt(method=name, data="none", models=(rewritten,)) for name, rewritten in plain.items())
    greedy = tuple(peers.greedy_spatial_svd(model, example, part, svd_scores(network, seed)) for seed in seeds)
    yield Attempt(method=GREEDY, data="ranks", models=greedy)
    if batch_norms(model):
        for name, rewritten in {**by_seed, GREEDY: greedy}.items():
            used = "ranks, batch norms" if name == GREEDY else "batch norms"
            yield Attempt(method=name, data=used, models=tuple(map(partial(renormed, network), rewritten, seeds)))


def our_attempts(network: Network, share: Fraction, seeds: Seeds) -> Iterator[Attempt]:
    """Ours from the weights alone, and with the calibration images; the planner is free to choose any family."""
    budget = Budget(macs=float(share))
    alone = rewrite(network.model, choose_plan(prices(network, None), budget))
    yield Attempt(method=OURS, data="none", models=(alone,))
    plans = [choose_plan(prices(network, seed), budget) for seed in seeds]
    fitted = [
        calibrate(network.model, rewrite(network.model, plan), network.calibration(seed), progress=False).model
        for seed, plan in zip(seeds, plans, strict=True)
    ]
    yield Attempt(
        method=OURS, data="ranks, fit, batch norms" if batch_norms(alone) else "ranks, fit", models=tuple(fitted)
    )


@cache
def prices(network: Network, seed: int | None) -> Prices:
    """What every candidate costs; its error on the seed's calibration images, or that of the weights alone."""
    sites = trace(network.model, network.example)
    data = None if seed is None else network.calibration(seed)
    return price(network.model, sites, example=network.example, data=data)


@cache
def svd_scores(network: Network, seed: int) -> peers.Scores:
    """What AIMET's search decides by: the output's error, which is finer than an accuracy and needs no labels.

    Nine times the number of layers it is taken, on a part of the images.
    """
    images = network.calibration(seed).limited(SCORED)
    return peers.svd_scores(network.model, lambda model: -compare(network.model, model, images).error)


def renormed(network: Network, model: nn.Module, seed: int) -> nn.Module:
    """The model with the statistics of its batch norms taken on the seed's calibration images."""
    model = copy.deepcopy(model)
    re_estimate_(model, network.calibration(seed))
    return model


def latencies(network: Network, attempts: list[Attempt]) -> list[dict[str, tuple[float, float, float]]]:
    """The time of each attempt's first model as a share of the original's, by batch size."""
    models = [network.model, *(attempt.models[0] for attempt in attempts)]
    found: list[dict[str, tuple[float, float, float]]] = [{} for _ in attempts]
    with torch.inference_mode():
        for size in LATENCY_BATCHES:
            images = network.test_images[:size]
            comparison = compare_times({str(i): partial(model, images) for i, model in enumerate(models)}, max_s=30)
            for i, latency in enumerate(found, start=1):
                latency[str(size)] = (comparison.ratio(str(i), "0"), *comparison.interval(str(i), "0"))
    return found


def page(content: dict[str, Any]) -> str:
    """The results as Markdown."""
    machine, versions = content["machine"], content["versions"]
    software = ", ".join(f"{name} {number}" for name, number in versions.items())
    lines = [
        "# Half and a third of the MACs, without training",
        "",
        f"Made by `bench/shrink.py` on {machine['name']}, {content['threads']} threads; {software}.",
        "",
        f"Whoever uses data gets the same {SAMPLES} unlabelled images; draws of them: {len(content['seeds'])}. Where "
        "there are several: the median (smallest to largest). MACs and parameters are counted, as shares of the "
        "original's. The error is the relative squared error of the output and, like the accuracy, that on images that "
        "neither training nor calibration saw. Latency is measured in turns in eager PyTorch, as a share of the "
        "original's, with 99 % confidence.",
    ]
    for share in map(str, SHARES):
        rows = [row for row in content["rows"] if row["share"] == share]
        lines += ["", *section(content["original"], share, rows)]
    return "\n".join(lines) + "\n"


def section(network: dict[str, Any], share: str, rows: list[dict[str, Any]]) -> list[str]:
    """One table, best error first."""
    sizes = [f"latency, batch {size}" for size in LATENCY_BATCHES]
    columns = ["method", "data used for", "MACs", "parameters", "output error", "accuracy", *sizes]
    rows = sorted(rows, key=lambda row: statistics.median(row["errors"]))
    return [
        f"## {network['network']}, {share} of {network['macs']:,} MACs",
        "",
        f"The original: {network['accuracy']:.2%} accuracy, {network['parameters']:,} parameters.",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
        *(f"| {' | '.join(cells(row))} |" for row in rows),
    ]


def cells(row: dict[str, Any]) -> list[str]:
    """One row of a table."""
    error, accuracies = spread(row["errors"], "{:.3g}"), spread(row["accuracies"], "{:.2%}")
    latency = ["{:.2f} ({:.2f} to {:.2f})".format(*row["latency"][str(size)]) for size in LATENCY_BATCHES]
    method = f"**{row['method']}**" if row["method"] == OURS else row["method"]
    return [method, row["data"], f"{row['macs']:.3f}", f"{row['parameters']:.3f}", error, accuracies, *latency]


def spread(values: Sequence[float], form: str) -> str:
    """Median, and smallest to largest where there are several."""
    middle = form.format(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({form.format(min(values))} to {form.format(max(values))})"


NETWORKS = {"digits": digits, "characters": characters}


if __name__ == "__main__":
    main()
