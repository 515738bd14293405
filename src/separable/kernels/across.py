"""What sees all channels of a pixel at once. In: layouts. Out: IR.

A few pixels at a time are read several times over all panels: what is read again lies in the first-level cache. Where
a row is no whole number of tiles two threads may write a pixel, and write the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from separable.errors import SpecError
from separable.kernels.convolution import BIAS, SIGNATURE, SOURCE, TARGET, WEIGHTS
from separable.kernels.epilogue import exponential, logarithm
from separable.kernels.ir import Function, Index, Module, Value, constant, vector
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM, Layout

COLUMNS = 4
REDUCED = ("max", "mean")
Lanewise = Callable[[Value, Value], Value]


@dataclass(frozen=True, kw_only=True)
class Normalise:
    """(x − mean) / √(variance + ``eps``) · scale + shift; these two have zeros up to the end of the last panel."""

    source: Layout
    target: Layout
    eps: float


@dataclass(frozen=True, kw_only=True)
class Softmax:
    """e^x over the sum of all channels' e^x, each less the greatest x; the logarithm of that if ``is_log``."""

    source: Layout
    target: Layout
    is_log: bool = False


@dataclass(frozen=True, kw_only=True)
class Reduce:
    """A map of one channel: the greatest (``"max"``) or the ``"mean"`` of all."""

    kind: str
    source: Layout
    target: Layout

    def __post_init__(self) -> None:
        if self.kind not in REDUCED:
            raise SpecError("Reduce.kind", given=repr(self.kind), expected=f"one of {list(REDUCED)}")


def write(module: Module, name: str, kernel: Normalise | Softmax | Reduce, isa: Isa) -> None:
    """The function ``name(arguments, thread, threads, image)``; scale and shift stand where weights and bias do."""
    module.function(name, SIGNATURE, lambda f, p: _Emitter(f, p, kernel, isa.lanes).write())


class _Emitter:
    def __init__(self, f: Function, parameters: list[Value], kernel: Normalise | Softmax | Reduce, lanes: int) -> None:
        self.f, self.kernel, self.lanes = f, kernel, lanes
        self.arguments, self.thread, self.threads, _ = parameters
        self.whole, self.rest = divmod(kernel.source.channels, lanes)

    def write(self) -> None:
        f, source, target = self.f, self.kernel.source, self.kernel.target
        reads = f.at(f.load("ptr", self.arguments, 8 * SOURCE), source.offset())
        writes = f.at(f.load("ptr", self.arguments, 8 * TARGET), target.offset())
        tiles = -(-source.width // COLUMNS)
        count = source.height * tiles
        first, last = (f.div(f.mul(f.add(self.thread, i), count), self.threads) for i in (0, 1))
        self.columns = min(COLUMNS, source.width)

        def tile(i: Value, _: list[Value]) -> list[Value]:
            y, x = f.div(i, tiles), f.mul(f.rem(i, tiles), COLUMNS)
            if source.width % COLUMNS:
                x = f.least(x, source.width - self.columns)  # the last one goes back and does some pixels again
            self.at, self.out = (
                f.at(start, f.add(f.mul(y, ITEM * m.row), f.mul(x, ITEM * m.pixel)))
                for start, m in ((reads, source), (writes, target))
            )
            match self.kernel:
                case Normalise() as norm:
                    self._normalise(norm)
                case Softmax(is_log=is_log):
                    self._softmax(is_log=is_log)
                case Reduce() as reduction:
                    self._reduce(reduction)
            return []

        f.loop(first, last, tile)

    def _normalise(self, kernel: Normalise) -> None:
        """For the mean, for the variance about it, and to be written: in that order no digits cancel."""
        f, lanes = self.f, self.lanes
        count = constant(1 / kernel.source.channels)
        means = [f.splat(f.float("fmul", total, count), lanes) for total in self._sums(lambda v, _: v)]

        def squared(v: Value, c: int) -> Value:
            v = f.float("fsub", v, means[c])
            return f.float("fmul", v, v)

        factors = []
        for total in self._sums(squared):
            variance = f.float("fmul", total, count)
            root = f.sqrt(f.float("fadd", variance, constant(kernel.eps)))
            factors.append(f.splat(f.float("fdiv", constant(1.0), root), lanes))
        tables = [f.load("ptr", self.arguments, 8 * i) for i in (WEIGHTS, BIAS)]

        def finish(panel: Index, channels: int) -> None:
            scale, shift = (f.load(vector(lanes), start, f.mul(panel, ITEM * lanes)) for start in tables)
            for c, v in enumerate(self._pixels(panel)):
                v = f.float("fmul", f.float("fsub", v, means[c]), factors[c])
                self._put(trimmed(f, f.fma(v, scale, shift), channels), panel, c)

        self._each(finish)

    def _softmax(self, *, is_log: bool) -> None:
        f, lanes = self.f, self.lanes
        greatest = [f.splat(most, lanes) for most in self._over(lambda v, _: v, f.greater, float("-inf"))]

        def power(v: Value, c: int) -> Value:
            return exponential(f, f.float("fsub", v, greatest[c]))

        totals = self._sums(power)
        parts = [logarithm(f, total) if is_log else f.float("fdiv", constant(1.0), total) for total in totals]
        factors = [f.splat(part, lanes) for part in parts]

        def finish(panel: Index, channels: int) -> None:
            for c, v in enumerate(self._pixels(panel)):
                if is_log:
                    y = f.float("fsub", f.float("fsub", v, greatest[c]), factors[c])
                else:
                    y = f.float("fmul", power(v, c), factors[c])
                self._put(trimmed(f, y, channels), panel, c)

        self._each(finish)

    def _reduce(self, kernel: Reduce) -> None:
        f = self.f
        if kernel.kind == "max":
            found = self._over(lambda v, _: v, f.maximum, float("-inf"))
        else:
            count = constant(1 / kernel.source.channels)
            found = [f.float("fmul", total, count) for total in self._sums(lambda v, _: v)]
        for c, value in enumerate(found):
            self._put(trimmed(f, f.splat(value, self.lanes), 1), 0, c)

    def _sums(self, value: Callable[[Value, int], Value]) -> list[Value]:
        return self._over(value, lambda a, b: self.f.float("fadd", a, b), 0.0)

    def _over(self, value: Callable[[Value, int], Value], join: Lanewise, none: float) -> list[Value]:
        """The values of all channels of each pixel, joined to one scalar; ``none`` changes nothing."""
        f, lanes = self.f, self.lanes

        def one(panel: Index, totals: list[Value], channels: int) -> list[Value]:
            found = [trimmed(f, value(v, c), channels, none) for c, v in enumerate(self._pixels(panel))]
            return [join(total, v) for total, v in zip(totals, found, strict=True)]

        totals = [constant(none, lanes)] * self.columns
        totals = f.loop(0, self.whole, lambda p, t: one(p, t, lanes), carried=totals)
        totals = one(self.whole, totals, self.rest) if self.rest else totals
        return [self._across(total, join) for total in totals]

    def _across(self, value: Value, join: Lanewise) -> Value:
        """All lanes joined, in halves."""
        f, n = self.f, self.lanes
        while n > 2:
            n //= 2
            value = join(*(f.shuffle(value, value, range(start, start + n)) for start in (0, n)))
        return join(f.element(value, 0), f.element(value, 1))

    def _each(self, body: Callable[[Index, int], None]) -> None:
        """For every panel, with the channels that it holds."""

        def whole(panel: Value, _: list[Value]) -> list[Value]:
            body(panel, self.lanes)
            return []

        self.f.loop(0, self.whole, whole)
        if self.rest:
            body(self.whole, self.rest)

    def _pixels(self, panel: Index) -> list[Value]:
        f, source = self.f, self.kernel.source
        here = f.at(self.at, f.mul(panel, ITEM * source.panel))
        return [f.load(vector(self.lanes), here, ITEM * c * source.pixel) for c in range(self.columns)]

    def _put(self, value: Value, panel: Index, column: int) -> None:
        f, target = self.f, self.kernel.target
        f.store(value, f.at(self.out, f.mul(panel, ITEM * target.panel)), ITEM * column * target.pixel)


def trimmed(f: Function, value: Value, channels: int, rest: float = 0.0) -> Value:
    """``rest`` behind so many channels."""
    lanes = value.lanes
    if channels == lanes:
        return value
    return f.shuffle(value, constant(rest, lanes), [n if n < channels else lanes + n for n in range(lanes)])
