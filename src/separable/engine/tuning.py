"""The fastest of several kernels for the same work. In: candidates, best guess first. Out: the one measured fastest.

Decisions are kept on disk beside the machine code, keyed by the work, the processor, the threads and this package, so
that a machine measures each layer once. Without measuring, the first candidate is taken.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from separable import __version__
from separable.cost.clock import compare
from separable.errors import FileError
from separable.files import written_whole
from separable.kernels import convolution
from separable.kernels.catalogue import Kernel, name_of, source_of
from separable.kernels.convolution import Convolution
from separable.kernels.depthwise import Depthwise
from separable.kernels.isa import Isa
from separable.kernels.jit import Library, cache_folder, object_code

CANDIDATES = 4
CLEARLY = 0.98  # of the time of the first: a smaller gain may be noise
SLACK = 64  # floats, to align the scratch memory


class Tuner:
    """Chooses kernels for one instruction set and number of threads."""

    def __init__(self, isa: Isa, threads: int, *, is_measuring: bool = True) -> None:
        self.isa, self.threads, self.is_measuring = isa, threads, is_measuring
        self._scratch: dict[int, NDArray[np.float32]] = {}

    def __call__(self, kernels: Sequence[Kernel]) -> Kernel:
        """One of ``kernels``: the fastest when measuring, else the first."""
        if len(kernels) == 1 or not self.is_measuring:
            return kernels[0]
        shortlist = kernels[:CANDIDATES]
        path = self._path(shortlist)
        names = [name_of(kernel) for kernel in shortlist]
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(path.read_text(encoding="utf-8"))["fastest"]
            if kept in names:
                return shortlist[names.index(kept)]
        seconds = self.measure(shortlist)
        best = min(range(len(shortlist)), key=seconds.__getitem__)
        best = best if seconds[best] < CLEARLY * seconds[0] else 0
        _keep(path, {"fastest": names[best], "seconds": dict(zip(names, seconds, strict=True))})
        return shortlist[best]

    def measure(self, kernels: Sequence[Kernel]) -> list[float]:
        """Seconds of each kernel on one thread: the least of several rounds, taken in turns."""
        library = Library([object_code(source_of(kernel, self.isa), self.isa) for kernel in kernels], self.isa)
        signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 3)
        entries = [signature(library.address(name_of(kernel))) for kernel in kernels]
        arguments = [self._arguments(kernel) for kernel in kernels]

        def whole(i: int) -> Callable[[], None]:
            address = arguments[i][0].ctypes.data
            return lambda: entries[i](address, 0, 1, 0)

        timings = compare({str(i): whole(i) for i in range(len(kernels))}, min_s=0.0, max_s=0.0).timings
        return [timings[str(i)].min_s for i in range(len(kernels))]

    def _arguments(self, kernel: Kernel) -> tuple[NDArray[np.uint64], list[NDArray[np.int32]]]:
        """Addresses for a kernel's call, and the tables among them, which live as long as they are held."""
        if not isinstance(kernel, Convolution | Depthwise):
            raise TypeError(f"{kernel} has nothing to choose")
        channels = kernel.padded_channels(self.isa)
        sizes = {
            convolution.SOURCE: kernel.source.floats,
            convolution.WEIGHTS: channels * kernel.spec.weights // kernel.spec.c_out,
            convolution.BIAS: channels,
            convolution.TARGET: kernel.target.floats,
            convolution.RESIDUAL: kernel.residual.floats if kernel.residual else 1,
        }
        addresses, tables = np.zeros(8, np.uint64), []
        for place, size in sizes.items():
            if place not in self._scratch or self._scratch[place].size < size + SLACK:
                self._scratch[place] = np.full(size + SLACK, 0.01, np.float32)
            addresses[place] = -(-self._scratch[place].ctypes.data // 64) * 64
        if isinstance(kernel, Convolution) and not kernel.is_rowwise:
            for place, table in enumerate(kernel.offsets(), start=convolution.SOURCE_TABLE):
                addresses[place] = table.ctypes.data
                tables.append(table)
        return addresses, tables

    def _path(self, kernels: Sequence[Kernel]) -> Path:
        work = [repr(kernel) for kernel in kernels]
        key = json.dumps([work, self.isa.key, self.threads, __version__])
        return cache_folder().parent / "tuning" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def _keep(path: Path, entry: dict[str, object]) -> None:
    """A cache that cannot be written was warned of where the machine code was not kept."""
    with contextlib.suppress(OSError, FileError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as whole:
            whole.write_text(json.dumps(entry), encoding="utf-8")
