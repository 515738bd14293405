"""In: runs on a clock that the test turns. Out: that samples, statistics and verdicts are what arithmetic says."""

import gc
import json
import math
import random
import statistics
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from separable.cost import Comparison, Timing, clock, compare, measure, today
from separable.errors import SeparableError


class Clock:
    """A clock that only moves when a run takes its time."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def run(self, durations: Iterator[float]) -> Callable[[], None]:
        def take() -> None:
            self.now_s += next(durations)

        return take


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> Clock:
    turned = Clock()
    monkeypatch.setattr(clock, "perf_counter", turned)
    return turned


def always(seconds: float) -> Iterator[float]:
    while True:
        yield seconds


def noisy(seconds: float, spread: float, seed: int) -> Iterator[float]:
    generator = random.Random(seed)
    while True:
        yield seconds * math.exp(generator.gauss(0, spread))


def timing(*samples: float) -> Timing:
    return Timing(samples=samples, threads=1, versions={"torch": "2"})


def pair(a: list[float], b: list[float]) -> Comparison:
    return Comparison(timings={"a": timing(*a), "b": timing(*b)})


def test_median_fastest_and_spread_are_those_of_the_samples() -> None:
    taken = timing(5.0, 1.0, 4.0, 2.0, 3.0)
    assert (taken.median_s, taken.min_s, taken.spread_s) == (3.0, 1.0, 2.0)
    assert (timing(7.0).median_s, timing(7.0).spread_s) == (7.0, 0.0)


def test_a_steady_run_is_sampled_for_the_shortest_time_and_all_samples_are_kept(hand: Clock) -> None:
    taken = measure(hand.run(always(0.25)), min_s=1.0, max_s=100.0)
    assert taken.samples == (0.25,) * 8
    assert taken.threads > 0
    assert taken.versions.keys() == {"separable", "torch", "python"}


def test_the_warm_up_is_no_sample(hand: Clock) -> None:
    def cools() -> Iterator[float]:
        yield from (64.0, 8.0, 1.0)
        yield from always(1.0)

    assert set(measure(hand.run(cools())).samples) == {1.0}


def test_a_noisy_run_is_sampled_until_its_median_is_precise(hand: Clock) -> None:
    taken = measure(hand.run(noisy(0.01, 0.03, seed=1)), min_s=0.1, max_s=1e6)
    low, high = clock.median_interval(taken.samples)
    assert 0.1 < sum(taken.samples) < 1e3
    assert high - low <= 0.01 * taken.median_s
    assert len(taken.samples) > 8


def test_a_run_that_stays_noisy_stops_at_the_longest_time(hand: Clock) -> None:
    taken = measure(hand.run(noisy(1.0, 2.0, seed=2)), min_s=1.0, max_s=50.0)
    assert 50.0 <= sum(taken.samples) < 500.0


def test_a_slow_run_still_gets_the_fewest_samples_that_can_tell_anything(hand: Clock) -> None:
    assert len(measure(hand.run(always(1000.0)), max_s=1.0).samples) == 8


def test_a_short_run_is_repeated_within_a_sample_and_told_one_by_one(hand: Clock) -> None:
    calls = []

    def short() -> None:
        calls.append(None)
        hand.now_s += 2.0**-20

    taken = measure(short, min_s=0.05)
    assert set(taken.samples) == {2.0**-20}
    assert (len(calls) - 2) / len(taken.samples) == math.ceil(1e-3 * 2**20)


def test_runs_take_turns_and_each_round_starts_with_the_next(hand: Clock) -> None:
    order: list[str] = []

    def run(name: str) -> Callable[[], None]:
        def take() -> None:
            order.append(name)
            hand.now_s += 1.0

        return take

    compared = compare({name: run(name) for name in "abc"}, min_s=1.0)
    rounds = ["".join(order[start : start + 3]) for start in range(6, len(order), 3)]
    assert order[:6] == list("aabbcc")
    assert rounds == ["abc", "bca", "cab", "abc", "bca", "cab", "abc", "bca"]
    assert {len(timing.samples) for timing in compared.timings.values()} == {8}


def test_what_is_faster_in_every_round_is_faster_although_the_spreads_overlap() -> None:
    drift = [1.0, 3.0, 0.5, 2.0, 4.0, 1.5, 0.7, 2.5, 3.5, 0.9]
    compared = pair(drift, [0.9 * time for time in drift])
    assert compared.timings["a"].spread_s > abs(compared.timings["a"].median_s - compared.timings["b"].median_s)
    assert compared.ratio("b", "a") == pytest.approx(0.9)
    assert compared.verdict("b", "a") == "faster"
    assert compared.verdict("a", "b") == "slower"


def test_a_difference_that_the_spread_hides_is_unclear(hand: Clock) -> None:
    runs = {"a": hand.run(noisy(1.0, 1.0, seed=3)), "b": hand.run(noisy(1.02, 1.0, seed=4))}
    compared = compare(runs, min_s=10.0, max_s=100.0)
    assert compared.verdict("b", "a") == compared.verdict("a", "b") == "unclear"


def test_a_clear_difference_shows_through_noise(hand: Clock) -> None:
    runs = {"a": hand.run(noisy(1.0, 0.2, seed=5)), "b": hand.run(noisy(0.7, 0.2, seed=6))}
    compared = compare(runs, min_s=10.0, max_s=200.0)
    assert compared.verdict("b", "a") == "faster"
    assert compared.ratio("b", "a") == pytest.approx(0.7, rel=0.1)


def test_too_few_rounds_are_unclear_however_large_the_difference() -> None:
    compared = pair([1.0] * 7, [100.0] * 7)
    assert compared.interval("b", "a") == (0.0, math.inf)
    assert compared.verdict("b", "a") == "unclear"


def test_a_difference_within_the_margin_is_unclear_however_steady() -> None:
    compared = pair([1.0] * 100, [1.015] * 100)
    assert compared.verdict("b", "a") == "unclear"
    assert compared.verdict("b", "a", margin=0.01) == "slower"


def test_the_interval_misses_the_median_as_rarely_as_it_says() -> None:
    # Uniform noise around 1: of 2,000 intervals at most 1 % may miss; 3.5 standard deviations of grace.
    generator = random.Random(7)
    missed = 0
    for _ in range(2000):
        low, high = clock.median_interval([generator.uniform(0.5, 1.5) for _ in range(25)])
        missed += not low <= 1.0 <= high
    assert missed <= 20 + 3.5 * math.sqrt(20)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 300))
def test_the_interval_is_the_narrowest_that_the_sign_test_allows(n: int) -> None:
    def misses_low(k: int) -> float:
        return sum(math.comb(n, i) for i in range(k)) / 2**n

    low, _ = clock.median_interval([float(i) for i in range(1, n + 1)])
    k = int(low)
    assert misses_low(k) <= 0.005 < misses_low(k + 1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=20))
def test_timings_and_comparisons_survive_json(samples: list[float]) -> None:
    compared = pair(samples, samples)
    assert Comparison.from_json(json.loads(json.dumps(compared.to_json()))) == compared
    assert min(samples) <= compared.timings["a"].median_s == statistics.median(samples)


@pytest.mark.parametrize("samples", [[], [math.nan], [math.inf], [-1.0], ["x"], None])
def test_what_is_no_timing_is_not_read_as_one(samples: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        Timing.from_json({"samples": samples, "threads": 1, "versions": {}})


def test_a_comparison_prints_its_verdicts() -> None:
    text = str(pair([0.002] * 8, [0.001] * 8))
    assert text.splitlines()[0] == "Measured in turns, 8 rounds."
    assert text.splitlines()[-1].split() == ["b", "1", "0", "0.500", "0.500", "to", "0.500", "faster"]


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(SeparableError, match="at least one thing to run"):
        compare({})


@pytest.mark.parametrize("was_enabled", [True, False])
def test_garbage_collection_waits_for_the_end_also_after_an_error(was_enabled: bool) -> None:
    seen = []

    def fails() -> None:
        seen.append(gc.isenabled())
        raise ZeroDivisionError

    if not was_enabled:
        gc.disable()
    try:
        with pytest.raises(ZeroDivisionError):
            measure(fails)
        assert seen == [False]
        assert gc.isenabled() == was_enabled
    finally:
        gc.enable()


def test_the_real_clock_orders_a_long_and_a_short_run() -> None:
    compared = compare({"long": lambda: sum(range(40_000)), "short": lambda: sum(range(100))}, min_s=0.02, max_s=0.2)
    assert compared.verdict("short", "long") == "faster"


def test_today_is_a_date() -> None:
    assert date.fromisoformat(today()).isoformat() == today()


def test_only_this_file_reads_a_clock() -> None:
    package = Path(clock.__file__).parent.parent
    reads = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if any(word in path.read_text(encoding="utf-8") for word in ("import time", "from time ", "import datetime"))
    ]
    assert reads == ["cost/clock.py"]
