"""The processor's ceiling. In: an instruction set. Out: a function that does nothing but multiply-adds in registers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from separable.kernels.convolution import SIGNATURE
from separable.kernels.ir import Function, Module, Value, constant
from separable.kernels.isa import Isa
from separable.kernels.jit import Library, object_code
from separable.kernels.pool import PHASE_WORDS, TOGETHER, shared_pool

CHAINS = 12  # independent sums: more than latency × units (4 × 2) of any core since Haswell
TURNS = 100_000


def peak_loop(isa: Isa, threads: int) -> tuple[Callable[[], None], int]:
    """A call that keeps ``threads`` cores at their peak, and the multiply-accumulates that it does."""
    module = Module()
    module.function("peak", SIGNATURE, lambda f, p: _write(f, p, isa))
    library = Library([object_code(module.text, isa)], isa)
    sink = np.zeros(CHAINS * isa.lanes * threads + 16, np.float32)
    step = np.array([library.address("peak"), sink.ctypes.data, threads, 0], np.uint64)
    phase = np.array([TOGETHER, 1, step.ctypes.data, 0, 1, 0], np.int64)
    held = (library, sink, step, phase)
    pool = shared_pool(threads, isa)

    def run() -> None:
        pool.run(held[-1].ctypes.data, len(phase) // PHASE_WORDS)

    return run, CHAINS * isa.lanes * TURNS * threads


def _write(f: Function, parameters: list[Value], isa: Isa) -> None:
    out, thread, _, _ = parameters
    place = f.at(out, f.mul(thread, 4 * CHAINS * isa.lanes))
    half = f.splat(f.load("float", place), isa.lanes)

    def turn(_: Value, sums: list[Value]) -> list[Value]:
        return [f.fma(x, half, half) for x in sums]

    sums = f.loop(0, TURNS, turn, carried=[constant(float(i), isa.lanes) for i in range(CHAINS)])
    for i, x in enumerate(sums):
        f.store(f.float("fmul", x, constant(0.0, isa.lanes)), place, i * 4 * isa.lanes)
