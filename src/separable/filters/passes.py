"""One fused pair of passes over an array in memory. In: arrays, 1-D kernels of two axes. Out: the array, filtered.

A ``Plan`` holds all that does not depend on where the arrays lie: machine code, tables, the division into strips and
runs of rows, the threads' memory. It is made once for a shape and a kernel.
"""

from __future__ import annotations

import functools
import math
import mmap
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from separable.filters.borders import Border
from separable.kernels.filter_pixels import NOWHERE
from separable.kernels.filter_rows import LONGEST_DIRECT, Rows, step_of
from separable.kernels.filter_taps import DENSE, LINE, LONGEST_UNROLLED, ROWS, SPARSE, Columns
from separable.kernels.filter_types import group_of
from separable.kernels.filtering import TERM, WORDS, Filtering, entries
from separable.kernels.isa import Isa
from separable.kernels.pool import APART, shared_pool

# Two thirds of a megabyte of rings: measured, wide strips pay for what does not fit the second-level cache.
RING_BYTES = 704 * 1024
NARROWEST, WIDEST = 256, 8192  # floats of a strip
TURNED = 128  # floats of a row that are turned on their side at a time: with their sums they fill half the first cache
HUGE = 2 * 1024 * 1024
FLOATS = {"float": "float32", "double": "float64"}
SOURCE, TARGET = WORDS.index("source"), WORDS.index("target")


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A 1-D kernel: the weights that are not 0, in the type that is computed in, and where they stand.

    ``offsets`` count from the first of them; that one stands at ``-before`` from the output.
    """

    weights: bytes
    offsets: tuple[int, ...]
    before: int

    @property
    def after(self) -> int:
        """How far the last weight stands behind the output."""
        return self.offsets[-1] - self.before

    def taps(self, longest: int) -> tuple[int, ...] | str:
        """How the machine code knows it."""
        if self.offsets[-1] < longest:
            return self.offsets
        return DENSE if len(self.offsets) == self.offsets[-1] + 1 else SPARSE


@dataclass(frozen=True, kw_only=True)
class Reach:
    """An axis: ``size`` results, of which number 0 is pixel ``-first``; pixels ``first`` to ``last`` − 1 are there."""

    size: int
    first: int
    last: int

    def table(self, before: int, after: int, border: Border) -> NDArray[np.int64]:
        """For places −before to size + after − 1 the pixel, counted from result 0; NOWHERE where there is none."""
        pixels = border.pixels(-before - self.first, self.size + after - self.first, self.last - self.first)
        return np.where(pixels < 0, NOWHERE, pixels + self.first)


@dataclass(frozen=True, kw_only=True)
class Place:
    """How an array lies in memory: planes, rows and pixels of ``channels`` neighbours, and bytes between them."""

    dtype: str
    planes: tuple[int, ...]
    plane_strides: tuple[int, ...]
    row: int
    pixel: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a plan depends on. ``terms`` are pairs of kernels, down the columns and along the rows.

    ``streams``: the result is larger than the caches, and may be written past them.
    """

    work: str
    source: Place
    target: Place
    terms: tuple[tuple[Kernel, Kernel], ...]
    rows: Reach
    columns: Reach
    channels: int
    border: Border
    threads: int
    streams: bool = False


class Plan:
    """A job ready to run on arrays at any address. Callers in several threads take turns."""

    def __init__(self, job: Job, isa: Isa) -> None:
        self.job, self.isa = job, isa
        self.item = 4 if job.work == "float" else 8
        self.group = group_of(job.work, isa)
        self._held: list[NDArray[np.generic]] = []
        self._measure()
        self._cut()
        self._link()
        words = np.zeros((job.threads, len(WORDS)), np.int64)
        for name, value in (self._tables() | self._memory()).items():
            words[:, WORDS.index(name)] = value
        self._words = tuple(words)  # of each thread
        self._steps = np.array([(self._entries.driver, own.ctypes.data, 1, 0) for own in words], np.uint64)
        self._phase = np.array([APART, 1, self._steps.ctypes.data, 0, len(self._units), 0], np.int64)
        self._program = self._phase.ctypes.data

    def run(self, source: int, target: int) -> None:
        """Filters the array whose pixel under result 0 lies at ``source`` into the one at ``target``."""
        pool = shared_pool(self.job.threads, self.isa)
        with pool.turn:
            for words in self._words:
                words[SOURCE], words[TARGET] = source, target
            pool.run_in_turn(self._program, 1)

    def _measure(self) -> None:
        """How far the kernels reach, and how much of everything is done at a time."""
        job = self.job
        self.above = max(0, *(column.before for column, _ in job.terms))
        self.below = max(0, *(column.after for column, _ in job.terms))
        self.left = max(0, *(row.before for _, row in job.terms))
        self.right = max(0, *(row.after for _, row in job.terms))
        self.column_taps = [column.taps(LONGEST_UNROLLED) for column, _ in job.terms]
        self.row_taps = [row.taps(LONGEST_DIRECT) for _, row in job.terms]
        is_turned = any(isinstance(taps, str) for taps in self.row_taps)
        self.at_once = self.group if is_turned else 1
        self.window = self.above + self.below
        # Narrow pixels are not: four rows at a time are less work, and there is less to write.
        self.streams = (
            job.streams
            and isinstance(self.column_taps[-1], tuple)
            and job.target.dtype == FLOATS[job.work]
            and job.target.row % LINE == 0
        )
        is_short = self.window <= LONGEST_UNROLLED and not is_turned
        # Results that go past the caches are summed a row at a time: what four of them need fits the second level.
        self.block = (4 if self.streams else 8) if is_short else 2 * self.group
        beyond = 0 if self.streams and len(job.terms) == 1 else ROWS
        self.ring_rows = self.window + self.block + self.at_once + beyond

    def _cut(self) -> None:
        """The image in strips of columns and runs of rows: enough for all threads, few rows read twice."""
        job = self.job
        planes, width, c = math.prod(job.target.planes), job.columns.size, job.channels
        widest = RING_BYTES // (len(job.terms) * self.ring_rows * self.item)
        widest = min(max(widest, NARROWEST, 2 * (self.left + self.right) * c), WIDEST)
        strips = max(1, -(-width * c // widest))
        wanted = -(-4 * job.threads // max(1, planes * strips))
        run = max(-(-job.rows.size // wanted), 8 * self.window, 32)
        runs = -(-job.rows.size // run)
        if planes * strips * runs < 2 * job.threads:
            strips = max(strips, min(-(-2 * job.threads // (planes * runs)), width * c // (4 * self.group)))
        self.part = _up(max(TURNED // c, self.group), self.group)
        self.strip = _up(-(-width // strips), self.part if self.at_once > 1 else step_of(job.work, self.isa))
        run = _up(-(-job.rows.size // runs), self.block)
        offsets = [_offsets(place.planes, place.plane_strides) for place in (job.source, job.target)]
        units = [
            (source, target, y, min(y + run, job.rows.size), x, min(x + self.strip, width))
            for source, target in zip(*offsets, strict=True)
            for y in range(0, job.rows.size, run)
            for x in range(0, width, self.strip)
        ]
        self._units = np.array(units, np.int64).reshape(-1, 6)

    def _link(self) -> None:
        job = self.job
        rows = tuple(
            Rows(work=job.work, taps=taps, channels=1 if isinstance(taps, str) else job.channels)
            for taps in self.row_taps
        )
        kinds = [FLOATS[job.work]] * (len(job.terms) - 1) + [job.target.dtype]
        columns = tuple(
            Columns(work=job.work, taps=taps, pixel=kind, adds=t > 0, streams=self.streams and t == len(job.terms) - 1)
            for t, (taps, kind) in enumerate(zip(self.column_taps, kinds, strict=True))
        )
        self.filtering = Filtering(work=job.work, source=job.source.dtype, rows=rows, columns=columns)
        self._entries = entries(self.filtering, self.isa)

    def _tables(self) -> dict[str, int | NDArray[np.int64]]:
        """Which row lies where, in the image and in the ring, and which column."""
        job = self.job
        rows = job.rows.table(self.above, self.below, job.border)
        columns = job.columns.table(self.left, self.right, job.border)
        places = np.arange(-self.above, job.rows.size + self.below)
        first, last = -self.above, job.rows.size + self.below
        if _stays_near(job.rows, rows, self.above, self.below):
            # Every row outside is one that the ring holds anyway: only those of the image are read.
            first, last, places = job.rows.first, job.rows.last, rows
        self.ring_row = _apart((self.strip * job.channels + 2 * self.group) * self.item)
        slots = np.zeros(len(places) + self.block + self.group, np.int64)
        slots[: len(places)] = (places - first) % self.ring_rows * self.ring_row
        read = rows[first + self.above : last + self.above] if places is not rows else np.arange(first, last)
        table = np.where(read == NOWHERE, NOWHERE, read * job.source.row)
        value = np.array([job.border.value], FLOATS[job.work])
        return {
            "unit_table": self._keep(self._units),
            "target_row": job.target.row, "target_item": np.dtype(job.target.dtype).itemsize,
            "load": self._entries.load,
            "is_straight": self.at_once == 1 and job.source.dtype == FLOATS[job.work],
            "row_table": self._keep(table), "first_row": first, "last_row": last,
            "above": self.above, "below": self.below, "slot_table": self._keep(slots),
            "ring_rows": self.ring_rows, "ring_row": self.ring_row, "block": self.block, "at_once": self.at_once,
            "left": self.left, "right": self.right, "channels": job.channels,
            "first_column": job.columns.first, "last_column": job.columns.last,
            "column_table": self._keep(columns) + 8 * self.left, "constant": self._keep(value),
        }  # fmt: skip

    def _memory(self) -> dict[str, int | NDArray[np.int64]]:
        """Each thread's memory: slots, rows as read, a ring a term, the rows on their side, sums of several terms."""
        job, item, group = self.job, self.item, self.group
        width = self.strip * job.channels
        beside = (self.left + self.right) * job.channels
        buffer_row = _apart((width + beside + 8 * group) * item)
        sizes = {
            "slots": 8 * self.at_once,
            "buffers": buffer_row * self.at_once,
            "rings": len(job.terms) * self.ring_rows * self.ring_row,
            "partial": (self.block + 4) * self.ring_row,
            "spare": (width + 8 * group) * item,
            "aside": 6 * 8,
        }
        read = _up(self.part * job.channels + beside, group)
        columns = self.part + self.left + self.right + group
        if self.at_once > 1:
            sizes |= {
                "columns": 8 * columns,
                "turned": columns * job.channels * group * item,
                "summed": self.part * job.channels * group * item,
            }
        places, used = {}, 0
        for name, size in sizes.items():
            places[name] = used
            used = _up(used + size, LINE)
        stride = used + LINE
        memory = _on_large_pages(stride * job.threads)
        start = self._keep(memory)
        if self.at_once > 1:
            column = job.channels * group * item
            for thread in range(job.threads):
                at = start + thread * stride
                words = [
                    self.part,
                    job.channels,
                    read,
                    *(at + places[name] for name in ("columns", "turned", "summed")),
                ]
                _write(memory, at + places["aside"], np.array(words, np.int64))
                _write(memory, at + places["columns"], np.arange(columns, dtype=np.int64) * column)
        return {
            "terms": len(job.terms),
            "term_table": self._keep(self._terms(places["rings"])),
            "memory": start + stride * np.arange(job.threads),
            "buffers": places["buffers"],
            "buffer_row": buffer_row,
            "aside": places["aside"],
            "partial": places["partial"],
            "partial_row": self.ring_row,
            "spare": places["spare"],
        }

    def _terms(self, rings: int) -> NDArray[np.int64]:
        dtype = FLOATS[self.job.work]
        table = np.zeros((len(self.job.terms), len(TERM)), np.int64)
        for t, (column, row) in enumerate(self.job.terms):
            weights = [self._keep(np.frombuffer(kernel.weights, dtype).copy()) for kernel in (row, column)]
            where = [self._keep(np.array(kernel.offsets, np.int64)) for kernel in (row, column)]
            table[t] = (
                self._entries.rows[t], self._entries.columns[t],
                weights[0], len(row.offsets), where[0], (self.left - row.before) * self.job.channels,
                weights[1], len(column.offsets), where[1], self.above - column.before,
                rings + t * self.ring_rows * self.ring_row,
            )  # fmt: skip
        return table

    def _keep(self, array: NDArray[np.generic]) -> int:
        """The address of an array that lives as long as the plan."""
        self._held.append(array)
        return array.ctypes.data


@functools.lru_cache(maxsize=64)
def plan(job: Job, isa: Isa) -> Plan:
    """The plan of a job; the last ones are kept."""
    return Plan(job, isa)


def kernel_of(weights: NDArray[np.generic], centre: int, work: str) -> Kernel:
    """``weights`` with number ``centre`` at the output, rounded to the type that is computed in.

    What the type could only hold as a subnormal number counts as 0: it is slow, and 10³⁸ times smaller than 1.
    """
    rounded = np.asarray(weights).astype(FLOATS[work])
    kept = np.flatnonzero(np.abs(rounded) >= np.finfo(rounded.dtype).tiny)
    if not kept.size:
        kept, rounded = np.array([centre]), np.zeros_like(rounded)
    offsets = tuple((kept - kept[0]).tolist())
    return Kernel(weights=rounded[kept].tobytes(), offsets=offsets, before=centre - int(kept[0]))


def is_zero(kernel: Kernel) -> bool:
    """Whether there is no weight but 0."""
    return not any(kernel.weights)


def _stays_near(reach: Reach, rows: NDArray[np.int64], above: int, below: int) -> bool:
    """Whether each row outside stands for one that lies under the kernel anyway, for every result that needs it."""
    ahead, behind = rows[: above + reach.first] if reach.first > -above else rows[:0], rows[above + reach.last :]
    if (ahead == NOWHERE).any() or (behind == NOWHERE).any():
        return False
    return bool((ahead <= below).all() and (behind >= reach.size - 1 - above).all())


def _offsets(planes: tuple[int, ...], strides: tuple[int, ...]) -> list[int]:
    total = np.zeros(1, np.int64)
    for size, stride in zip(planes, strides, strict=True):
        total = np.add.outer(total, np.arange(size, dtype=np.int64) * stride).ravel()
    return [int(offset) for offset in total]


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def _on_large_pages(size: int) -> NDArray[np.uint8]:
    """Zeros, on a large page where the system gives one: each row of a ring would else be a page of its own."""
    region = mmap.mmap(-1, _up(size, HUGE) + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        region.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(region, np.uint8)
    start = -whole.ctypes.data % HUGE
    return whole[start : start + size]


def _apart(size: int) -> int:
    """An odd number of cache lines: rows so far apart do not fall on the same lines of a cache."""
    return (-(-size // LINE) | 1) * LINE


def _write(memory: NDArray[np.uint8], address: int, values: NDArray[np.int64]) -> None:
    start = address - memory.ctypes.data
    memory[start : start + values.nbytes].view(np.int64)[:] = values
