"""Pointwise layers with an eighth fewer multiplications. In: shapes. Out: JSON and a table, losses included.

The best kernels of both ways by the cost model are measured in turns, as when a layer is tuned: on one thread, with
their data warm. A round's time of a way is that of its fastest kernel. Run from the repository:

    python bench/strassen.py
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
from places import of_this_processor

from separable.cost.clock import measure
from separable.kernels.epilogue import Activation
from separable.kernels.isa import Isa, host
from separable.kernels.layout import panels
from separable.kernels.peak import peak_loop
from separable.runtime.products import dense, with_fewer_multiplications
from separable.runtime.tiles import convolutions
from separable.runtime.tuning import CANDIDATES, Tuner
from separable.spec import ConvSpec

LAYERS = (  # channels in and out, pixels along a side
    *((128, 128, 56), (128, 256, 28), (256, 256, 28), (256, 512, 14), (512, 512, 14), (512, 1024, 7), (1024, 1024, 7)),
    *((384, 96, 14), (96, 576, 14), (576, 96, 14), (160, 960, 7), (960, 160, 7), (960, 320, 7), (320, 1280, 7)),
    *((64, 256, 56), (256, 64, 56), (512, 128, 28), (1024, 256, 14), (256, 1024, 14), (2048, 512, 7), (512, 2048, 7)),
    *((16, 96, 112), (96, 24, 56), (24, 144, 56), (144, 24, 56), (32, 192, 28), (192, 32, 28), (64, 384, 14)),
    *((336, 112, 21), (208, 416, 19), (480, 480, 9), (768, 768, 16), (1536, 384, 12)),
)
HEAD = (
    "# Pointwise layers by Strassen's way\n\n"
    "Microseconds of the fastest kernel of each way on one thread of {cpu}, medians of {rounds} rounds; of peak: what "
    "the other kernels reach of it, the fastest of all rounds; share: Strassen's time over the other's, the median of "
    "all rounds. Seven eighths is the least possible. In a network: whether the cost model has it measured, and it is "
    "then taken, its weights counted as coming from memory.\n\n"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=of_this_processor("strassen"))
    options = parser.parse_args()
    isa = host()
    results = [measured(ConvSpec(c, o, 1, (size, size)), isa, options.rounds) for c, o, size in LAYERS]
    facts = {"cpu": llvm.get_host_cpu_name(), "rounds": options.rounds}
    options.out.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n", encoding="utf-8")
    options.out.with_suffix(".md").write_text(HEAD.format(**facts) + table(results), encoding="utf-8")


def measured(spec: ConvSpec, isa: Isa, rounds: int) -> dict[str, Any]:
    """Seconds of both ways in every round."""
    maps = (*(panels(c, size, isa.lanes) for c, size in ((spec.c_in, spec.size), (spec.c_out, spec.size_out))), None)
    given = (spec, maps, Activation(kind="relu"), isa, 1)
    plain, fewer = convolutions(*given)[:CANDIDATES], with_fewer_multiplications(*given)[:CANDIDATES]
    tuner, seconds = Tuner(isa, 1), []
    run_peak, macs = peak_loop(isa, 1)
    for _ in range(rounds):
        times = tuner.measure([*plain, *fewer])
        seconds.append((min(times[: len(plain)]), min(times[len(plain) :], default=math.nan)))
    peak_s = measure(run_peak, min_s=0.1, max_s=0.1).min_s / macs * spec.macs
    ways = [(kernel,) for kernel in dense(*given)]
    is_offered = any(kernel in fewer for (kernel,) in ways[:CANDIDATES])
    verdict = "not offered" if fewer else "halves of the channels fill no vectors"
    if is_offered:
        verdict = "taken" if tuner(ways)[0] in fewer else "left"
    result = {
        "layer": str(spec),
        "verdict": verdict,
        "plain": [a for a, _ in seconds],
        "strassen": [b for _, b in seconds] if fewer else [],
        "peak_s": peak_s,
    }
    print(row(result), flush=True)
    return result


def row(result: dict[str, Any]) -> str:
    """One line of the table."""
    plain, strassen = result["plain"], result["strassen"]
    first = f"| {result['layer']} | {1e6 * statistics.median(plain):.0f} | {100 * result['peak_s'] / min(plain):.0f} % "
    if not strassen:
        return f"{first}| | | {result['verdict']} |"
    share = statistics.median(b / a for a, b in zip(plain, strassen, strict=True))
    return f"{first}| {1e6 * statistics.median(strassen):.0f} | {share:.3f} | {result['verdict']} |"


def table(results: list[dict[str, Any]]) -> str:
    """A line a layer."""
    head = "| layer | other kernels | of peak | Strassen | share | in a network |\n|---|---|---|---|---|---|\n"
    return head + "\n".join(map(row, results)) + "\n"


if __name__ == "__main__":
    main()
