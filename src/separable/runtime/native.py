"""A network in memory, ready to run. In: a schedule, a batch size. Out: a native call from addresses to addresses.

A batch is done image by image. When there are at least as many images as threads, each thread does whole images in
memory of its own, without meeting the others; the images left over, and a single one, are done by all threads together.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Mapping, Sequence

import numpy as np

from separable.kernels.catalogue import name_of, source_of
from separable.kernels.chain import ARGUMENTS
from separable.kernels.isa import Isa
from separable.kernels.jit import Library, object_code
from separable.kernels.layout import ITEM
from separable.kernels.pool import APART, PHASE_WORDS, STEP_WORDS, TOGETHER, shared_pool
from separable.runtime.arrange import arrange
from separable.runtime.network import Network
from separable.runtime.schedule import Choose, Packed, schedule
from separable.runtime.tiles import is_by_rows, shares

HUGE = 2 * 1024 * 1024


class NativeNetwork:
    """One network compiled for one batch size. Safe to call from several threads: they take turns."""

    def __init__(
        self,
        network: Network,
        shapes: Mapping[str, tuple[int, ...]],
        isa: Isa,
        threads: int,
        choose: Choose,
        last: frozenset[str] = frozenset(),
    ) -> None:
        self.network, self.isa, self.threads = network, isa, threads
        self.given = tuple((name, name in last) for name in network.inputs)
        self.made = tuple((name, shapes[name]) for name in network.outputs)
        self.batch = self.made[0][1][0]
        self.schedule = schedule(arrange(network, isa.lanes), isa, threads, choose, last)
        self._compile()
        self._remember()
        self._link()

    @property
    def bytes(self) -> int:
        """Weights and maps, for all threads."""
        return int(self._constants.size + self._maps.size)

    def __call__(self, addresses: Sequence[int]) -> None:
        """Reads what is ``given`` and writes what is ``made`` at these addresses: float32, dense, batch first.

        The weights have driven all else out of the caches when a call ends, so each line of Python around it costs
        microseconds: those that stand here and on the way here are few.
        """
        pool, (phases, count) = shared_pool(self.threads, self.isa), self._program
        with pool.turn:
            for place, position in self._outside:
                self._addresses[place] = addresses[position]
            if count:  # an empty batch has none
                pool.run_in_turn(phases, count)

    def step_address(self, step: int) -> int:
        """Where one step stands in the program of the threads together."""
        return int(self._steps[0, step].ctypes.data)

    def _compile(self) -> None:
        kernels = {name_of(step.kernel): step.kernel for step in self.schedule.steps}
        objects = [object_code(source_of(kernel, self.isa), self.isa) for kernel in kernels.values()]
        self._library = Library(objects, self.isa)
        self._entries = {name: self._library.address(name) for name in kernels}

    def _remember(self) -> None:
        """Constants behind each other, and as many sets of maps as there are threads that work apart."""
        self.copies = self.threads if self.batch >= self.threads else 1
        arrays = {id(array): array for step in self.schedule.steps for array in step.constants.values()}
        size = sum(_rounded(array.nbytes) for array in arrays.values())
        memory = _memory(size + self.copies * _rounded(self.schedule.bytes))
        self._constants, self._maps = memory[:size], memory[size:]
        self._places: dict[int, int] = {}
        used = 0
        for key, array in arrays.items():
            room = self._constants[used : used + array.nbytes]
            if isinstance(array, Packed):
                array.put(room.view(np.float32))
            else:
                room[:] = np.ascontiguousarray(array).view(np.uint8).ravel()
            self._places[key] = self._constants.ctypes.data + used
            used += _rounded(array.nbytes)
        for copy in range(self.copies):
            for slot in self.schedule.slots.values():
                if slot.fill:
                    start = copy * _rounded(self.schedule.bytes) + slot.offset
                    self._maps[start : start + slot.layout.floats * ITEM].view(np.float32)[:] = slot.fill

    def _link(self) -> None:
        """The table of arguments of every step, and the phases of a forward."""
        steps = self.schedule.steps
        self._arguments = np.zeros((self.copies, len(steps), ARGUMENTS), np.uint64)
        self._steps = np.zeros((self.copies, len(steps), STEP_WORDS), np.uint64)
        self._addresses = self._arguments.reshape(-1).data  # a number goes in without NumPy
        self._outside: list[tuple[int, int]] = []
        names = [name for name, _ in (*self.given, *self.made)]
        is_down = False
        for s, step in enumerate(steps):
            # Rows that were written last are still near: each layer begins with those that the one before ended with.
            is_down = is_by_rows(step.kernel) and not is_down
            for position, array in step.constants.items():
                self._arguments[:, s, position] = self._places[id(array)]
            for copy in range(self.copies):
                maps = self._maps.ctypes.data + copy * _rounded(self.schedule.bytes)
                entry, given = self._entries[name_of(step.kernel)], self._arguments[copy, s].ctypes.data
                self._steps[copy, s] = entry, given, shares(step.kernel, self.threads), is_down
                for position, where in step.maps.items():
                    if where.is_outside:
                        flat = (copy * len(steps) + s) * ARGUMENTS + position
                        self._outside.append((flat, names.index(where.map)))
                    else:
                        self._arguments[copy, s, position] = maps + self.schedule.slots[where.map].offset + where.offset
        whole = self.batch - self.batch % self.threads if self.copies > 1 else 0
        phases = [(APART, 0, whole), (TOGETHER, whole, self.batch - whole)]
        self._phases = np.array(
            [(mode, len(steps), self._steps.ctypes.data, first, images, 0) for mode, first, images in phases if images],
            np.int64,
        ).reshape(-1, PHASE_WORDS)
        self._program = (self._phases.ctypes.data, len(self._phases))


def _memory(size: int) -> np.ndarray:
    """Zeros on large pages where the system gives them: a network's weights outgrow the reach of the small ones.

    Private: a forked child writes into pages of its own, and Linux gives large pages to private memory only. The end
    that fills no large page lies on small ones, so that no more is resident than was asked for.
    """
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(size, np.uint8)
    region = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = np.frombuffer(region, np.uint8)
    start, large = -whole.ctypes.data % HUGE, size - size % HUGE
    with contextlib.suppress(OSError):  # a system without large pages knows neither advice
        region.madvise(mmap.MADV_NOHUGEPAGE)
        if large:
            region.madvise(mmap.MADV_HUGEPAGE, start, large)
    return whole[start : start + size]


def _rounded(size: int) -> int:
    return -(-size // 64) * 64
