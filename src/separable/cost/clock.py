"""In: things to run. Out: how long they take, with every sample, and which is faster, or that it is unclear.

The only file that reads a clock.
"""

from __future__ import annotations

import functools
import gc
import itertools
import math
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

from separable import __version__
from separable.cost.table import draw_table
from separable.errors import SeparableError

Run = Callable[[], object]

# A sample is one run, or as many as last this long: reading the clock takes about 0.1 µs, a ten-thousandth of it.
SHORTEST_SAMPLE_S = 1e-3
# Samples are enough when the interval of the median is this narrow, relative to the median.
PRECISION = 0.01
# With fewer no interval with 99 % confidence exists, however clear the difference: 2 · 0.5⁷ > 1 %.
MIN_SAMPLES = 8
# Two copies of one layer differ for good by where their memory happens to lie. Of 270 pairs of copies, timed on two
# busy cores, 96 % were within this margin.
MARGIN = 0.02


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Measured seconds of one run, every sample in the order taken, with the threads and versions of the time."""

    samples: tuple[float, ...]
    threads: int
    versions: Mapping[str, str]

    @property
    def median_s(self) -> float:
        """The middle sample."""
        return statistics.median(self.samples)

    @property
    def min_s(self) -> float:
        """The fastest sample."""
        return min(self.samples)

    @property
    def spread_s(self) -> float:
        """Interquartile range: the middle half of the samples lies within it; 0 for a single sample."""
        if len(self.samples) == 1:
            return 0.0
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return high - low

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers; ``Timing.from_json`` gives the value back."""
        return {"samples": list(self.samples), "threads": self.threads, "versions": dict(self.versions)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Timing:
        """The value that ``to_json`` wrote; KeyError, TypeError or ValueError for anything else."""
        samples = tuple(float(sample) for sample in values["samples"])
        if not samples or not all(math.isfinite(sample) and sample >= 0 for sample in samples):
            raise ValueError("a timing needs samples, in seconds")
        versions = {str(name): str(version) for name, version in values["versions"].items()}
        return cls(samples=samples, threads=int(values["threads"]), versions=versions)

    def __str__(self) -> str:
        return (
            f"measured {self.median_s * 1e3:.4g} ms (spread {self.spread_s * 1e3:.2g} ms, fastest "
            f"{self.min_s * 1e3:.4g} ms, {len(self.samples)} samples, {self.threads} threads)"
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Several things measured in turns: sample i of each was taken in round i, so they are compared pair by pair."""

    timings: Mapping[str, Timing]

    def ratio(self, name: str, reference: str) -> float:
        """Median over the rounds of the time of ``name`` divided by the time of ``reference`` in the same round."""
        return statistics.median(self._ratios(name, reference))

    def interval(self, name: str, reference: str) -> tuple[float, float]:
        """Where the true median ratio lies with 99 % confidence; (0, inf) when there are too few rounds.

        The interval runs between two of the sorted ratios, chosen by the sign test: it assumes nothing about how the
        times are distributed, only that rounds do not influence each other.
        """
        return median_interval(self._ratios(name, reference))

    def verdict(self, name: str, reference: str, margin: float = MARGIN) -> str:
        """``"faster"`` or ``"slower"`` than ``reference`` by more than ``margin`` for sure, or ``"unclear"``."""
        low, high = self.interval(name, reference)
        return "faster" if high < 1 - margin else "slower" if low > 1 + margin else "unclear"

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``Comparison.from_json`` gives the value back."""
        return {"timings": {name: timing.to_json() for name, timing in self.timings.items()}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Comparison:
        """The value that ``to_json`` wrote."""
        return cls(timings={name: Timing.from_json(timing) for name, timing in values["timings"].items()})

    def __str__(self) -> str:
        reference = next(iter(self.timings))
        rows = []
        for name, timing in self.timings.items():
            low, high = self.interval(name, reference)
            against = [f"{self.ratio(name, reference):.3f}", f"{low:.3f} to {high:.3f}", self.verdict(name, reference)]
            row = [name, f"{timing.median_s * 1e3:.4g}", f"{timing.spread_s * 1e3:.2g}"]
            rows.append([*row, *(["1", "", ""] if name == reference else against)])
        columns = ["", ">median ms", ">spread ms", f">× {reference}", ">99 % between", "verdict"]
        rounds = len(self.timings[reference].samples)
        return draw_table(columns, rows, title=f"Measured in turns, {rounds} rounds.")

    def _ratios(self, name: str, reference: str) -> list[float]:
        pairs = zip(self.timings[name].samples, self.timings[reference].samples, strict=True)
        return [ours / theirs for ours, theirs in pairs]


def measure(run: Run, *, min_s: float = 0.2, max_s: float = 2.0) -> Timing:
    """How long ``run`` takes, after a warm-up. What it starts elsewhere, as on a GPU, it must also wait for.

    Samples are taken for at least ``min_s`` seconds, until the median is known to 1 % or ``max_s`` is over, and never
    fewer than 8.
    """
    return compare({"run": run}, min_s=min_s, max_s=max_s).timings["run"]


def compare(runs: Mapping[str, Run], *, min_s: float = 0.5, max_s: float = 10.0) -> Comparison:
    """How long each of ``runs`` takes, in turns: one sample of each a round, each round starting with the next one.

    What the machine does meanwhile (heat, other programs) then falls on all of them alike. Rounds are made for at least
    ``min_s`` seconds in all, until every median and every ratio to the first is known to 1 % or ``max_s`` is over, and
    never fewer than 8. That more rounds are made until the numbers are *precise*, not until a difference shows, keeps
    the verdict honest.
    """
    import torch

    samples, threads, versions = sample(runs, min_s=min_s, max_s=max_s), torch.get_num_threads(), this_software()
    return Comparison(
        timings={name: Timing(samples=tuple(s), threads=threads, versions=versions) for name, s in samples.items()}
    )


def sample(runs: Mapping[str, Run], *, min_s: float, max_s: float) -> dict[str, list[float]]:
    """The seconds that ``compare`` compares, and no more: without PyTorch, which a saved program does not import."""
    names = list(runs)
    if not names:
        raise SeparableError("compare", given="nothing", expected="at least one thing to run")
    samples: dict[str, list[float]] = {name: [] for name in names}
    with _no_garbage_collection():
        repeats = {name: _warm_up(runs[name]) for name in names}
        spent = 0.0
        for rounds in itertools.count():
            # Looking costs time too, so only now and then.
            if rounds and rounds % MIN_SAMPLES == 0 and spent >= min_s and (spent >= max_s or _are_precise(samples)):
                break
            start = rounds % len(names)
            for name in (*names[start:], *names[:start]):
                elapsed = _elapsed(runs[name], repeats[name])
                samples[name].append(elapsed / repeats[name])
                spent += elapsed
    return samples


def this_software() -> dict[str, str]:
    """The versions that a timing depends on."""
    import torch

    return {"separable": __version__, "torch": torch.__version__, "python": platform.python_version()}


def today() -> str:
    """The date, as year-month-day, in UTC."""
    return datetime.now(UTC).date().isoformat()


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median that ``values`` are drawn around lies with 99 % confidence, by the sign test.

    The k-th smallest and k-th largest value, with the largest k for which fewer than k of n fair coins show heads with
    a probability of at most 0.5 %. With too few values it is (0, inf).

    >>> median_interval([5.0, 3.0, 8.0, 1.0, 2.0, 7.0, 6.0, 4.0])
    (1.0, 8.0)
    >>> median_interval([1.0, 2.0, 3.0])
    (0.0, inf)
    """
    k, ordered = _sign_test_rank(len(values)), sorted(values)
    return (ordered[k - 1], ordered[-k]) if k else (0.0, math.inf)


@functools.cache
def _sign_test_rank(n: int) -> int:
    """The largest k for which fewer than k of n fair coins show heads in at most one case of 200."""
    k, ways, cases = 0, 1, 1
    while 200 * cases <= 2**n:
        k += 1
        ways = ways * (n - k + 1) // k
        cases += ways
    return k


def _are_precise(samples: Mapping[str, list[float]]) -> bool:
    first = next(iter(samples.values()))
    for times in samples.values():
        ratios = [ours / theirs for ours, theirs in zip(times, first, strict=True)]
        for values in (times, ratios):
            low, high = median_interval(values)
            if high - low > PRECISION * statistics.median(values):
                return False
    return True


def _warm_up(run: Run) -> int:
    """Runs until two runs in a row take about as long; how many runs make one sample."""
    before, now = math.inf, _elapsed(run, 1)
    for _ in range(MIN_SAMPLES):
        if now > 0.9 * before:
            break
        before, now = now, _elapsed(run, 1)
    return max(1, math.ceil(SHORTEST_SAMPLE_S / max(now, 1e-9)))


def _elapsed(run: Run, repeats: int) -> float:
    start = perf_counter()
    for _ in range(repeats):
        run()
    return perf_counter() - start


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection would fall on whichever run is on by chance."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
