"""Where a program's time goes. In: a program and inputs. Out: seconds of every step, and its share of the peak."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from separable.cost.clock import compare
from separable.cost.table import draw_table
from separable.engine.native import NativeNetwork
from separable.engine.program import Array, Program
from separable.kernels.catalogue import Kernel
from separable.kernels.peak import peak_loop
from separable.kernels.pool import PHASE_WORDS, TOGETHER, shared_pool


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """One step for one image, measured by itself with its data warm: the least of several samples."""

    name: str
    what: str
    macs: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class LayerTimes:
    """All steps of a program's native parts; ``peak`` is the measured rate of multiply-accumulates in registers."""

    layers: tuple[LayerTime, ...]
    peak: float
    threads: int

    @property
    def seconds(self) -> float:
        """The sum over all steps."""
        return sum(layer.seconds for layer in self.layers)

    @property
    def share(self) -> float:
        """Multiply-accumulates a second over the peak, all steps together."""
        return sum(layer.macs for layer in self.layers) / self.seconds / self.peak

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"layers": [vars(layer) for layer in self.layers], "peak": self.peak, "threads": self.threads}

    def __str__(self) -> str:
        rows = [
            [
                layer.name,
                layer.what,
                f"{layer.seconds * 1e6:.0f}",
                f"{100 * layer.macs / layer.seconds / self.peak:.0f}" if layer.macs else "",
            ]
            for layer in self.layers
        ]
        rows.append(["all", "", f"{self.seconds * 1e6:.0f}", f"{100 * self.share:.0f}"])
        title = f"Measured, {self.threads} threads; peak {self.peak / 1e9:.4g} G multiply-accumulates/s."
        return draw_table(["step", "kernel", ">µs", ">% of peak"], rows, title=title)


def layer_times(program: Program, *inputs: Array) -> LayerTimes:
    """Times each step by itself, and the peak in the same run."""
    program(*inputs)  # fills the maps with numbers that occur
    forward = program.prepare(*inputs)
    run, macs = peak_loop(program.isa, program.threads)
    peak = macs / compare({"peak": run}, min_s=0.05, max_s=0.1).timings["peak"].min_s
    layers = [layer for native in forward.natives.values() for layer in _layers(native)]
    return LayerTimes(layers=tuple(layers), peak=peak, threads=program.threads)


def _layers(native: NativeNetwork) -> list[LayerTime]:
    pool, found = shared_pool(native.threads, native.isa), []
    for i, step in enumerate(native.schedule.steps):
        phase = np.array([TOGETHER, 1, native.step_address(i), 0, 1, 0], np.int64)

        def run(phase: NDArray[np.int64] = phase) -> None:
            pool.run(phase.ctypes.data, len(phase) // PHASE_WORDS)

        if any(place.is_outside for place in step.maps.values()):
            continue  # it reads or writes the caller's tensors, and cannot run without them
        seconds = compare({"step": run}, min_s=0.0, max_s=0.0).timings["step"].min_s
        found.append(LayerTime(name=step.name, what=_kernel(step.kernel), macs=step.macs, seconds=seconds))
    return found


def _kernel(kernel: Kernel) -> str:
    spec = getattr(kernel, "spec", None)
    return f"{type(kernel).__name__.lower()} {spec or ''}".strip()
