"""Where a program's time goes. In: a program and inputs. Out: seconds of every step, and its share of the peak."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from separable.cost.clock import compare
from separable.cost.machine import this_machine
from separable.cost.table import draw_table
from separable.engine.program import Array, Program
from separable.kernels.catalogue import Kernel
from separable.kernels.chain import Chain
from separable.kernels.layout import ITEM
from separable.kernels.peak import peak_loop
from separable.kernels.pool import TOGETHER, shared_pool
from separable.runtime.native import NativeNetwork
from separable.runtime.schedule import Step

REPEATS = 10


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """One step for one image, measured by itself with its data warm: the least of several samples.

    A sample is ``REPEATS`` runs behind each other in one native call, so that the call and the waking of the threads,
    some five microseconds, do not count. ``macs`` are counted from the shape: some kernels need fewer, and may pass
    the peak.
    """

    name: str
    what: str
    macs: int
    seconds: float
    bytes: int = 0  # of the maps and weights that it reads and writes


@dataclass(frozen=True, kw_only=True)
class LayerTimes:
    """All steps of a program's native parts that do not touch the caller's tensors.

    ``peak`` is the measured rate of multiply-accumulates in registers, ``bandwidth`` that of bytes from memory.
    """

    layers: tuple[LayerTime, ...]
    peak: float
    threads: int
    bandwidth: float | None = None

    @property
    def seconds(self) -> float:
        """The sum over all steps."""
        return sum(layer.seconds for layer in self.layers)

    @property
    def share(self) -> float:
        """Multiply-accumulates a second over the peak, all steps together."""
        return sum(layer.macs for layer in self.layers) / self.seconds / self.peak

    def bound(self, layer: LayerTime) -> str:
        """What would take longest if nothing else did: ``"arithmetic"``, or ``"memory"`` with no byte in a cache."""
        if not self.bandwidth:
            return ""
        return "arithmetic" if layer.macs / self.peak >= layer.bytes / self.bandwidth else "memory"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        layers = [{**vars(layer), "bound": self.bound(layer)} for layer in self.layers]
        return {"layers": layers, "peak": self.peak, "bandwidth": self.bandwidth, "threads": self.threads}

    def __str__(self) -> str:
        rows = [
            [
                layer.name,
                layer.what,
                f"{layer.seconds * 1e6:.0f}",
                f"{100 * layer.macs / layer.seconds / self.peak:.0f}" if layer.macs else "",
                self.bound(layer),
            ]
            for layer in self.layers
        ]
        rows.append(["all", "", f"{self.seconds * 1e6:.0f}", f"{100 * self.share:.0f}", ""])
        threads = f"{self.threads} thread" + "s" * (self.threads > 1)
        title = f"Measured for one image, {threads}; peak {self.peak / 1e9:.4g} G multiply-accumulates/s."
        if any(layer.what.startswith(("strassen", "winograd")) for layer in self.layers):
            title += " Strassen and Winograd kernels multiply less than the layer counts, and may pass it."
        return draw_table(["step", "kernel", ">µs", ">% of peak", "bound"], rows, title=title)


def layer_times(program: Program, *inputs: Array) -> LayerTimes:
    """Times each step by itself, and the peak in the same run."""
    program(*inputs)  # fills the maps with numbers that occur
    forward = program.prepare(*inputs)
    run, macs = peak_loop(program.isa, program.threads)
    peak = macs / compare({"peak": run}, min_s=0.05, max_s=0.1).timings["peak"].min_s
    layers = [layer for native in forward.natives.values() for layer in _layers(native)]
    return LayerTimes(layers=tuple(layers), peak=peak, threads=program.threads, bandwidth=this_machine().bytes_per_s)


def inner_steps(program: Program, *inputs: Array) -> Callable[[], Any]:
    """One forward without the steps that only bring the caller's tensors in and out.

    The whole forward where a part of it is left to PyTorch, or where nothing else is there.
    """
    program(*inputs)
    forward = program.prepare(*inputs)
    phases = [phase for native in forward.natives.values() for phase in _inner_phases(native)]
    if forward.lowered.calls or not phases:
        return lambda: program(*inputs)
    pool, table = shared_pool(program.threads, program.isa), np.array(phases, np.int64)
    return lambda: pool.run(table.ctypes.data, len(table))


def _inner_phases(native: NativeNetwork) -> list[tuple[int, ...]]:
    inner = [i for i, step in enumerate(native.schedule.steps) if not _is_outside(step)]
    return [(TOGETHER, 1, native.step_address(i), 0, native.batch, 0) for i in inner]


def _is_outside(step: Step) -> bool:
    return any(place.is_outside for place in step.maps.values())


def _layers(native: NativeNetwork) -> list[LayerTime]:
    pool, found = shared_pool(native.threads, native.isa), []
    for i, step in enumerate(native.schedule.steps):
        phases = np.array([[TOGETHER, 1, native.step_address(i), 0, 1, 0]] * REPEATS, np.int64)

        def run(phases: NDArray[np.int64] = phases) -> None:
            pool.run(phases.ctypes.data, len(phases))

        if _is_outside(step):
            continue  # it reads or writes the caller's tensors, and cannot run without them
        seconds = compare({"step": run}, min_s=0.0, max_s=0.0).timings["step"].min_s / REPEATS
        moved = sum(native.schedule.slots[place.map].layout.floats * ITEM for place in step.maps.values())
        moved += sum(array.nbytes for array in step.constants.values())
        what = _kernel(step.kernel)
        found.append(LayerTime(name=step.name, what=what, macs=step.macs, seconds=seconds, bytes=moved))
    return found


def _kernel(kernel: Kernel) -> str:
    spec = str(kernel) if isinstance(kernel, Chain) else getattr(kernel, "spec", None)
    return f"{type(kernel).__name__.lower()} {spec or ''}".strip()
