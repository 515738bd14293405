"""The fastest of several ways to do the same work. In: candidates, best guess first. Out: the one measured fastest.

A way is one kernel, or several that run after each other.

Times are kept on disk beside the machine code, keyed by the work, the processor, the threads and this package, so that
a machine measures each layer once. Without measuring, the first candidate is taken.
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
from separable.cost.clock import sample
from separable.errors import FileError
from separable.files import written_whole
from separable.kernels import convolution
from separable.kernels.catalogue import Kernel, name_of, source_of
from separable.kernels.chain import ARGUMENTS, OF_A_LINK, Chain, Weighted, packed_floats, pixel_tables
from separable.kernels.isa import Isa
from separable.kernels.jit import Library, cache_folder, object_code
from separable.kernels.layout import ITEM
from separable.kernels.products import Products
from separable.runtime.tiles import imbalance, shares

CANDIDATES = 4
CLEARLY = 0.98  # of the time of the first: a smaller gain may be noise
MEETING = 8e-6  # seconds of each thread at a step's end: waiting for the others, and writing what they have read
WEIGHT = 25e-12  # seconds a byte of weights: they are warm when measured, and come from memory in a network
CHAINED_S = 0.1  # of samples of a chain and its links: a wrong choice there costs more than a wrong tile
SLACK = 64  # floats, to align the scratch memory


class Tuner:
    """Chooses ways for one instruction set and number of threads."""

    def __init__(self, isa: Isa, threads: int, *, is_measuring: bool = True) -> None:
        self.isa, self.threads, self.is_measuring = isa, threads, is_measuring
        self._scratch: dict[int, NDArray[np.float32]] = {}

    def __call__(self, ways: Sequence[tuple[Kernel, ...]]) -> tuple[Kernel, ...]:
        """One of ``ways``: the fastest when measuring, else the first."""
        if len(ways) == 1 or not self.is_measuring:
            return ways[0]
        shortlist = ways[:CANDIDATES]
        meeting = MEETING * self.threads if self.threads > 1 else 0.0
        warm = self._seconds(shortlist)
        seconds = [
            sum(
                warm[kernel] * imbalance(kernel, self.threads) + meeting + WEIGHT * _weight_bytes(kernel, self.isa)
                for kernel in kernels
            )
            for kernels in shortlist
        ]
        best = min(range(len(shortlist)), key=seconds.__getitem__)
        return shortlist[best if seconds[best] < CLEARLY * seconds[0] else 0]

    def _seconds(self, ways: Sequence[tuple[Kernel, ...]]) -> dict[Kernel, float]:
        """Of each kernel on one thread: from the disk, else measured and kept."""
        path, kernels = self._path(ways), list(dict.fromkeys(kernel for way in ways for kernel in way))
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(path.read_text(encoding="utf-8"))["seconds"]
            return {kernel: float(kept[name_of(kernel)]) for kernel in kernels}
        seconds = self.measure(kernels)
        _keep(path, {"seconds": {name_of(kernel): s for kernel, s in zip(kernels, seconds, strict=True)}})
        return dict(zip(kernels, seconds, strict=True))

    def measure(self, kernels: Sequence[Kernel]) -> list[float]:
        """Seconds of each kernel on one thread: the least of several rounds, taken in turns."""
        library = Library([object_code(source_of(kernel, self.isa), self.isa) for kernel in kernels], self.isa)
        signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 3)
        entries = [signature(library.address(name_of(kernel))) for kernel in kernels]
        for kernel in kernels:
            self._make_room(kernel)
        arguments = [self._arguments(kernel) for kernel in kernels]

        def whole(i: int) -> Callable[[], None]:
            # What two shares compute twice, and what a share leaves in the cache, is to be seen.
            is_shared = isinstance(kernels[i], Chain | Products)
            address, count = arguments[i][0].ctypes.data, shares(kernels[i], self.threads) if is_shared else 1

            def run() -> None:
                for share in range(count):
                    entries[i](address, share, count, 0)

            return run

        seconds = CHAINED_S if any(isinstance(kernel, Chain) for kernel in kernels) else 0.0
        samples = sample({str(i): whole(i) for i in range(len(kernels))}, min_s=seconds, max_s=seconds)
        return [min(samples[str(i)]) for i in range(len(kernels))]

    def _make_room(self, kernel: Kernel) -> None:
        """Scratch memory that is large enough for every argument."""
        for place, size in _sizes(kernel, self.isa).items():
            if place not in self._scratch or self._scratch[place].size < size + SLACK:
                self._scratch[place] = np.full(size + SLACK, 0.01, np.float32)

    def _arguments(self, kernel: Kernel) -> tuple[NDArray[np.uint64], dict[int, NDArray[np.int32]]]:
        """Addresses for a kernel's call, and the tables among them, which live as long as they are held."""
        addresses, tables = np.zeros(ARGUMENTS, np.uint64), pixel_tables(kernel)
        for place in _sizes(kernel, self.isa):
            addresses[place] = -(-self._scratch[place].ctypes.data // 64) * 64
        for place, table in tables.items():
            addresses[place] = table.ctypes.data
        return addresses, tables

    def _path(self, ways: Sequence[tuple[Kernel, ...]]) -> Path:
        work = [repr(kernels) for kernels in ways]
        key = json.dumps([work, self.isa.key, self.threads, __version__])
        return cache_folder().parent / "tuning" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def _sizes(kernel: Kernel, isa: Isa) -> dict[int, int]:
    """Floats of each argument that is a map or weights."""
    links = kernel.links if isinstance(kernel, Chain) else (kernel,)
    sizes = {convolution.SOURCE: links[0].source.floats, convolution.TARGET: links[-1].target.floats}
    for i, link in enumerate(links):
        if not isinstance(link, Weighted):
            raise TypeError(f"{kernel} has nothing to choose")
        at = OF_A_LINK * i
        sizes[at + convolution.WEIGHTS], sizes[at + convolution.BIAS] = packed_floats(link, isa)
        if link.residual:
            sizes[at + convolution.RESIDUAL] = link.residual.floats
    return sizes


def _weight_bytes(kernel: Kernel, isa: Isa) -> int:
    links = kernel.links if isinstance(kernel, Chain) else (kernel,)
    return ITEM * sum(packed_floats(link, isa)[0] for link in links if isinstance(link, Weighted))


def _keep(path: Path, entry: dict[str, object]) -> None:
    """A cache that cannot be written was warned of where the machine code was not kept."""
    with contextlib.suppress(OSError, FileError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as whole:
            whole.write_text(json.dumps(entry), encoding="utf-8")
