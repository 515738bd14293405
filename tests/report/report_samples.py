"""Made-up facts for the report's tests. In: how many layers and what they are called. Out: facts that hang together."""

import random
from dataclasses import replace
from typing import Any

from separable.report import Distillation, Facts, Latency, Layer, Machine, Metric, Network, Option, Skipped
from separable.spec import Budget

FAMILIES = (
    ("keep", ()),
    ("spatial", (24,)),
    ("spatial", (48,)),
    ("depthwise", (3,)),
    ("channel", (32,)),
    ("tucker", (16, 24)),
)
HOSTILE = "<img src=x onerror=\"document.title='owned'\"></script><script>document.title='owned'</script>"
WHY = {
    "keep": "Every alternative measured slower than the original.",
    "spatial": "The cheapest alternative whose error fits: a vertical pass, then a horizontal one.",
    "depthwise": "Three depthwise filters a channel hold almost all of the response.",
    "channel": "The outputs lie close to a small subspace.",
    "tucker": "Few input and output directions carry the energy.",
}


def layer(name: str, *, seed: int, family: int = 1) -> Layer:
    """A 3×3 convolution with every alternative priced; ``family`` is the index of the one that was chosen."""
    dice = random.Random(seed)
    channels, size = 2 ** dice.randint(4, 9), 2 ** dice.randint(3, 6)
    macs, parameters = 9 * channels**2 * size**2, 9 * channels**2
    options = []
    for rank, (word, numbers) in enumerate(FAMILIES):
        gain = 1.0 if word == "keep" else dice.uniform(1.2, 6)
        kept = 1.0 if word == "keep" else dice.uniform(0.25, 0.95)
        options.append(
            Option(
                family=word, rank=numbers, macs=int(macs / gain), parameters=int(parameters / gain),
                predicted_s=macs / 5e10 / gain**0.8, measured_s=macs / 4e10 / (gain * kept),
                error=0.0 if word == "keep" else dice.uniform(0.001, 0.06) / rank,
            )
        )  # fmt: skip
    is_kept = family == 0
    return Layer(
        name=name, spec=f"{channels}→{channels} 3×3 on {size}×{size}", before=options[0], after=options[family],
        why=WHY[FAMILIES[family][0]], options=tuple(options), sensitivity=dice.uniform(0.2, 4),
        fit_error_before=None if is_kept else dice.uniform(0.02, 0.4),
        fit_error_after=None if is_kept else dice.uniform(0.0005, 0.02),
    )  # fmt: skip


def some_facts(layers: int = 16, names: tuple[str, ...] = ()) -> Facts:
    """A network of this many layers, rewritten; ``names`` replaces the names of the first ones."""
    dice = random.Random(7)
    called = [*names, *(f"layer{1 + i // 4}.{i % 4 // 2}.conv{1 + i % 2}" for i in range(len(names), layers))]
    made = tuple(layer(name, seed=i, family=dice.choice((0, 1, 1, 2, 3, 4, 5))) for i, name in enumerate(called))
    before, after = _network([item.before for item in made], dice), _network([item.after for item in made], dice)
    return Facts(
        model="ResNet on digits", input="float32[1, 1, 32, 32]", batch=1, threads=2, engine="eager", before=before,
        after=after, layers=made, verdict="faster", output_error=0.0123, planned_error=0.0301, same_top1=0.993,
        machine=Machine(
            name="AMD EPYC 9R14", cores=2, instruction_sets=("avx2", "fma", "avx512"), fma_per_s=1.1e11,
            bytes_per_s=2.4e10,
        ),
        metrics=(Metric(name="Accuracy on held-out digits", before=0.9844, after=0.9811),),
        skipped=(
            Skipped(name="stem.depthwise", reason="depthwise: already separable"),
            Skipped(name="head.up", reason="transposed convolution"),
        ),
        unknown=("aten::_fft_r2c",), budget=Budget(latency=0.65), inputs=200,
        distillation=Distillation(
            steps=tuple(range(1, 301)), losses=tuple(0.8 / step**0.6 + dice.uniform(0, 0.02) for step in range(1, 301))
        ),
        notes=("Batch-norm statistics were estimated again on the calibration inputs.",),
        versions={"separable": "0.1.0", "torch": "2.13.0", "python": "3.11.2"}, date="2026-01-12", seed=0,
    )  # fmt: skip


def bare_facts() -> Facts:
    """As little as a report can know: no time, no data, no layer, nothing optional."""
    network = Network(macs=1000, parameters=10, weight_bytes=40)
    return Facts(
        model="tiny", input="float32[1, 3, 8, 8]", batch=1, threads=1, engine="eager", before=network, after=network,
        machine=Machine(name="unknown processor", cores=1),
    )  # fmt: skip


def unmeasured(facts: Facts) -> Facts:
    """The same facts without any measured or predicted time."""

    def strip(option: Option) -> Option:
        return replace(option, measured_s=None, predicted_s=None)

    layers = tuple(
        replace(item, before=strip(item.before), after=strip(item.after), options=tuple(map(strip, item.options)))
        for item in facts.layers
    )
    still: dict[str, Any] = {"predicted_s": None, "measured": None}
    return replace(
        facts, layers=layers, before=replace(facts.before, **still), after=replace(facts.after, **still), verdict=None
    )


def _network(options: list[Option], dice: random.Random) -> Network:
    total = sum(option.measured_s or 0 for option in options) + 1e-4
    samples = tuple(total * dice.lognormvariate(0, 0.03) for _ in range(41))
    return Network(
        macs=sum(option.macs for option in options), parameters=sum(option.parameters for option in options),
        weight_bytes=4 * sum(option.parameters for option in options),
        predicted_s=sum(option.predicted_s or 0 for option in options),
        measured=Latency(median_s=sorted(samples)[20], spread_s=0.03 * total, samples_s=samples),
    )  # fmt: skip
