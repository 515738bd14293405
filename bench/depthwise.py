"""Depthwise layers beside what memory allows. In: shapes. Out: JSON and a table, as shares of the processor's peak.

Beside each layer runs a loop over the same memory that multiplies nothing: it reads as much as the input and writes as
much as the output. One thread, in turns, each sample many runs in one native call. From the repository:

    python bench/depthwise.py
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from places import of_this_processor

from separable.cost.clock import compare
from separable.kernels.catalogue import name_of, source_of
from separable.kernels.chain import packed_floats
from separable.kernels.convolution import BIAS, SIGNATURE, SOURCE, TARGET, WEIGHTS
from separable.kernels.epilogue import Activation
from separable.kernels.ir import Function, Module, Value, vector
from separable.kernels.isa import Isa, host
from separable.kernels.jit import Library, object_code
from separable.kernels.layout import panels
from separable.kernels.peak import peak_loop
from separable.kernels.pool import TOGETHER, shared_pool
from separable.runtime.tiles import depthwise
from separable.spec import ConvSpec

LAYERS = (  # channels, pixels along a side, stride
    *((256, 14, 1), (384, 14, 1), (512, 14, 1), (576, 14, 1), (960, 7, 1), (256, 28, 1)),
    *((256, 14, 2), (512, 14, 2), (576, 14, 2), (1024, 7, 2), (128, 28, 2), (256, 28, 2)),
)
REPEATS, SECONDS = 50, 1.0
UNROLLED = 4
LARGE = 2**22  # floats: for so many NumPy asks for large pages, and a cache then holds as much as it can
HEAD = (
    "# Depthwise 3×3 layers beside what memory allows\n\n"
    "Percent of the peak of one thread of {cpu}, {peak:.1f} G multiply-adds a second: the layer's own, and what it "
    "would have if it took as long as a loop that only reads its input and writes as much output. Medians (minima).\n\n"
    "| layer | input, KB | depthwise | reading and writing |\n|---|---|---|---|\n"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=of_this_processor("depthwise"))
    options = parser.parse_args()
    isa = host()
    results = [measured(ConvSpec(c, c, 3, (n, n), padding=1, groups=c, stride=s), isa) for c, n, s in LAYERS]
    peak = max(result["macs"] / result["peak_s"] for result in results)
    facts = {"cpu": llvm.get_host_cpu_name(), "peak": peak}
    options.out.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n", encoding="utf-8")
    head = HEAD.format(cpu=facts["cpu"], peak=peak / 1e9)
    options.out.with_suffix(".md").write_text(head + "\n".join(map(row, results)) + "\n", encoding="utf-8")


def measured(spec: ConvSpec, isa: Isa) -> dict[str, Any]:
    """Seconds of the layer's fastest kernel, of the loop, and of as many multiply-adds in registers."""
    source, target = panels(spec.c_in, spec.size, isa.lanes, spec.padding), panels(spec.c_out, spec.size_out, isa.lanes)
    kernels = depthwise(spec, (source, target, None), Activation(kind="relu"), isa, 1)
    floats = spec.c_in * spec.size[0] * spec.size[1]
    loop = reading(floats, floats // (spec.c_out * target.pixels), isa)
    library = Library([object_code(text, isa) for text in (loop, *(source_of(kernel, isa) for kernel in kernels))], isa)
    arguments, _memory = arranged([source.floats, target.floats, *packed_floats(kernels[0], isa)])
    names = ["reading", *map(name_of, kernels)]
    runs = {name: repeated(library.address(name), arguments, isa) for name in names}
    runs["peak"], macs = peak_loop(isa, 1)
    found = {name: timing.samples for name, timing in compare(runs, min_s=SECONDS, max_s=SECONDS).timings.items()}
    best = min(names[1:], key=lambda name: min(found[name]))
    peak_s = [s * spec.macs / macs for s in found["peak"]]
    result = {"layer": str(spec), "macs": spec.macs, "bytes": 4 * floats, "peak_s": min(peak_s)}
    for name, samples in (("depthwise", found[best]), ("reading", found["reading"])):
        shares = [p * REPEATS / s for p, s in zip(peak_s, samples, strict=True)]
        result[name] = {"median": statistics.median(shares), "minima": min(peak_s) * REPEATS / min(samples)}
    print(row(result), flush=True)
    return result


def arranged(sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Arguments for a call: source, target, weights and bias behind each other, and the memory that they lie in."""
    memory, arguments = np.full(LARGE, 0.01, np.float32), np.zeros(8, np.uint64)
    start = -(-memory.ctypes.data // 4096) * 4096
    for place, size in zip((SOURCE, TARGET, WEIGHTS, BIAS), sizes, strict=True):
        arguments[place], start = start, start + -(-4 * size // 64) * 64
    return arguments, memory


def repeated(entry: int, arguments: np.ndarray, isa: Isa) -> Callable[[], None]:
    """``REPEATS`` calls of a kernel by the pool of one thread."""
    step = np.array([entry, arguments.ctypes.data, 1, 0], np.uint64)
    phases = np.array([[TOGETHER, 1, step.ctypes.data, 0, 1, 0]] * REPEATS, np.int64)
    held, pool = (step, phases, arguments), shared_pool(1, isa)
    return lambda: pool.run(held[1].ctypes.data, len(held[1]))


def reading(floats: int, each: int, isa: Isa) -> str:
    """A function ``reading`` that reads so many floats and writes the sum of ``each`` vectors."""
    module, lines = Module(), 4 * isa.lanes

    def write(f: Function, parameters: list[Value]) -> None:
        source, target = (f.load("ptr", parameters[0], 8 * place) for place in (SOURCE, TARGET))

        def turn(i: Value, _: list[Value]) -> list[Value]:
            start, out = f.at(source, f.mul(i, lines * each * UNROLLED)), f.at(target, f.mul(i, lines * UNROLLED))
            for k in range(UNROLLED):
                total, *others = [f.load(vector(isa.lanes), start, lines * (k * each + n)) for n in range(each)]
                for other in others:
                    total = f.float("fadd", total, other)
                f.store(total, out, lines * k)
            return []

        f.loop(0, floats // (isa.lanes * each * UNROLLED), turn)

    module.function("reading", SIGNATURE, write)
    return module.text


def row(result: dict[str, Any]) -> str:
    """One line of the table."""
    shares = [f"{100 * result[n]['median']:.0f} ({100 * result[n]['minima']:.0f})" for n in ("depthwise", "reading")]
    return f"| {result['layer']} | {result['bytes'] / 1024:.0f} | {' | '.join(shares)} |"


if __name__ == "__main__":
    main()
