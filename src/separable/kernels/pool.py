"""Threads that run a program together. In: the address of a program. Out: all its steps done, in one native call.

The threads are Python's, but live in native code with the interpreter lock released. One that finds nothing to do spins
for about a millisecond and then parks on a condition variable, so that an idle pool costs nothing.

A program is an array of phases, each of six i64: ``mode, steps, address, first image, images, 0``. A step is
(function, arguments, shares, is downwards). In mode ``TOGETHER`` the threads share every step of one image after the
other; in mode ``APART`` each thread takes whole images and does them on its own, and ``address`` holds one list of
steps for each.

The pool does one piece of work after the other: a step of one image, or all images of a phase apart. Each piece has a
number of its own, and its shares are claimed: first the thread's own, upwards or downwards, then what the others have
not begun. A piece is over when its shares are done, and whoever does the last one announces the next piece. So nobody
waits for a thread that has claimed nothing: not for one that is parked, not for one whose core somebody else keeps for
a while (PyTorch's threads keep theirs for milliseconds after their work), and such a thread finds its way back to what
is done by then, because a claim holds only as long as its piece is the one of that number.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from separable.kernels.ir import Function, Index, Module, Value
from separable.kernels.isa import Isa
from separable.kernels.jit import Library, object_code

TOGETHER, APART = 0, 1
PHASE_WORDS, STEP_WORDS = 6, 4
SPINS = 50_000  # of some 20 ns each: on a busy virtual machine a parked thread cost a third of MobileNetV2
LINE = 64
# What the pool knows, by bytes: words that several threads write each have cache lines of their own.
PIECE, DONE, SLEEPERS, END, THREADS, STOP, MUTEX, CONDITION, PIECES, CLAIMS = (
    0, 128, 256, 320, 328, 336, 384, 512, 640, 768,
)  # fmt: skip
# Of a piece: two lines in turn, written before its number is. Nothing to do is a piece without shares.
PHASE, STEP, IMAGE, SHARES, ORDER = 0, 8, 16, 24, 32
UP, DOWN, ANY = 0, 1, 2  # the order in which a thread takes its own shares; ``ANY``: the images of a phase apart
CLAIM_BITS = 28  # of the word in which the claims of a thread's shares are counted; above them the piece's number


class Pool:
    """``threads`` threads, the caller's among them. One program at a time; further callers wait their turn."""

    def __init__(self, threads: int, isa: Isa) -> None:
        self.threads = threads
        self.turn = threading.Lock()
        self._state = np.zeros((CLAIMS + (threads + 1) * LINE) // 8, np.int64)
        self._address = -(-self._state.ctypes.data // 64) * 64
        self._native = _native(isa)
        self._native.start(self._address, threads)
        self._workers = [
            threading.Thread(target=self._native.worker, args=(self._address, t), name=f"separable-{t}", daemon=True)
            for t in range(1, threads)
        ]
        for worker in self._workers:
            worker.start()

    def run(self, phases: int, count: int) -> None:
        """Runs ``count`` phases that begin at address ``phases``; returns when all their shares are done."""
        with self.turn:
            self.run_in_turn(phases, count)

    def run_in_turn(self, phases: int, count: int) -> None:
        """For a caller that holds ``turn`` because it changes the program's arguments before it runs it."""
        self._native.run(self._address, phases, count)

    def stop(self) -> None:
        """Ends the threads. A stopped pool never runs again."""
        with self.turn:
            self._native.stop(self._address)
            for worker in self._workers:
                worker.join()
            self._workers = []


def shared_pool(threads: int, isa: Isa) -> Pool:
    """The pool of this process for so many threads; it ends with the interpreter, and a forked child gets its own."""
    key = (threads, isa.key)
    pool = _pools.get(key)
    if pool is not None:
        return pool
    with _making:
        if key not in _pools:
            _pools[key] = Pool(threads, isa)
        return _pools[key]


_pools: dict[tuple[int, str], Pool] = {}
_making = threading.Lock()


def _forget() -> None:
    global _making
    _making = threading.Lock()
    _pools.clear()


@atexit.register
def _stop_all() -> None:
    while _pools:
        _pools.popitem()[1].stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@dataclass(frozen=True, kw_only=True)
class _Native:
    """The functions of the pool in machine code, and the library that holds them."""

    library: Library
    start: Callable[[int, int], None]
    worker: Callable[[int, int], None]
    run: Callable[[int, int, int], None]
    stop: Callable[[int], None]


@cache
def _native(isa: Isa) -> _Native:
    library = Library([object_code(_module(isa), isa)], isa)

    def entry(name: str, arguments: int) -> Callable[..., None]:
        return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * arguments)(library.address(name))

    return _Native(
        library=library,
        start=entry("pool_start", 2),
        worker=entry("pool_worker", 2),
        run=entry("pool_run", 3),
        stop=entry("pool_stop", 1),
    )


def _module(isa: Isa) -> str:
    module = Module()
    for name in ("pthread_mutex_lock", "pthread_mutex_unlock", "pthread_cond_broadcast", "pthread_cond_wait"):
        module.declare(name, "i32", ["ptr", "ptr"] if name == "pthread_cond_wait" else ["ptr"])
    pause = "llvm.x86.sse2.pause" if isa.is_x86 else "llvm.aarch64.hint"
    module.declare(pause, "void", [] if isa.is_x86 else ["i32"])
    nap = f"call void @{pause}({'' if isa.is_x86 else 'i32 1'})"
    module.function("pool_wait", ["ptr", "i64"], lambda f, p: _wait(f, p, nap))
    module.function("pool_wake", ["ptr"], _wake)
    module.function("pool_publish", ["ptr", "i64", "ptr", "ptr", "i64", "i64", "i64"], _publish)
    module.function("pool_begin", ["ptr", "i64", "ptr"], _begin)
    module.function("pool_advance", ["ptr", "i64", "ptr", "ptr", "i64"], _advance)
    module.function("pool_claim", ["ptr", "i64", "i64", "i64"], _claim, result="i64")
    module.function("pool_share", ["ptr", "i64", "i64"], lambda f, p: _Part(f, p).write(), result="i64")
    module.function("pool_start", ["ptr", "i64"], _start)
    module.function("pool_worker", ["ptr", "i64"], _worker)
    module.function("pool_run", ["ptr", "ptr", "i64"], _run)
    module.function("pool_stop", ["ptr"], _stop)
    return module.text


def _read(f: Function, pool: Value, offset: int, kind: str = "i64") -> Value:
    return f.raw(f"load atomic {kind}, ptr {f.at(pool, offset).name} seq_cst, align 8", kind)


def _put(f: Function, pool: Value, offset: int, value: Index, order: str = "seq_cst") -> None:
    value = f.operand(value, "i64")
    f.raw(f"store atomic {value.type} {value.name}, ptr {f.at(pool, offset).name} {order}, align 8")


def _increase(f: Function, pool: Value, offset: int, amount: Index) -> Value:
    """Adds to a word; what stood there before."""
    by = f.operand(amount, "i64")
    return f.raw(f"atomicrmw add ptr {f.at(pool, offset).name}, i64 {by.name} seq_cst", "i64")


def _do(f: Function, name: str, *arguments: Index, result: str | None = None) -> Value:
    """Calls a function of this module."""
    given = (f.operand(a, "i64") for a in arguments)
    return f.raw(f"call {result or 'void'} @{name}({', '.join(f'{a.type} {a.name}' for a in given)})", result)


def _wait(f: Function, parameters: list[Value], nap: str) -> None:
    """Until the piece is no longer number ``old``: spins, then sleeps under the mutex."""
    pool, old = parameters

    def is_same() -> Value:
        return f.compare("eq", _read(f, pool, PIECE), old)

    def spin(turns: list[Value]) -> tuple[Value, list[Value]]:
        f.raw(nap)
        more = f.operand(f.add(turns[0], 1), "i64")
        return f.both(is_same(), f.compare("slt", more, SPINS)), [more]

    def park() -> None:
        mutex, condition = f.at(pool, MUTEX), f.at(pool, CONDITION)

        def sleep(_: list[Value]) -> tuple[Value, list[Value]]:
            f.call("pthread_cond_wait", "i32", [condition, mutex])
            return is_same(), []

        f.call("pthread_mutex_lock", "i32", [mutex])
        _increase(f, pool, SLEEPERS, 1)
        f.when(is_same(), lambda: f.repeat(sleep))
        _increase(f, pool, SLEEPERS, -1)
        f.call("pthread_mutex_unlock", "i32", [mutex])

    f.when(is_same(), lambda: f.repeat(spin, [Value("0", "i64")]))
    f.when(is_same(), park)


def _wake(f: Function, parameters: list[Value]) -> None:
    (pool,) = parameters

    def broadcast() -> None:
        f.call("pthread_mutex_lock", "i32", [f.at(pool, MUTEX)])
        f.call("pthread_cond_broadcast", "i32", [f.at(pool, CONDITION)])
        f.call("pthread_mutex_unlock", "i32", [f.at(pool, MUTEX)])

    f.when(f.compare("sgt", _read(f, pool, SLEEPERS), 0), broadcast)


def _line(f: Function, pool: Value, number: Value) -> Value:
    """Where piece ``number`` is described. Its line is written again once the next but one is announced."""
    return f.at(pool, f.add(f.mul(f.rem(number, 2), LINE), PIECES))


def _publish(f: Function, parameters: list[Value]) -> None:
    """Announces the piece after number ``old``."""
    pool, old, phase, step, image, shares, order = parameters
    number = f.operand(f.add(old, 1), "i64")
    line = _line(f, pool, number)
    facts = {PHASE: phase, STEP: step, IMAGE: image, SHARES: shares, ORDER: order}
    for offset, value in facts.items():
        _put(f, line, offset, value, "release")
    _put(f, pool, PIECE, number)
    _do(f, "pool_wake", pool)


def _facts(f: Function, phase: Value) -> list[Value]:
    """Mode, number of steps, address, first image and number of images of a phase."""
    return [f.load(kind, phase, 8 * i) for i, kind in enumerate(("i64", "i64", "ptr", "i64", "i64"))]


def _begin(f: Function, parameters: list[Value]) -> None:
    """Announces the first piece of a phase, or that there is nothing more to do."""
    pool, old, phase = parameters
    is_over = f.compare("eq", phase, _read(f, pool, END, "ptr"))

    def first() -> None:
        mode, _, address, image, images = _facts(f, phase)
        is_apart = f.compare("eq", mode, APART)
        shares = f.select(is_apart, images, f.load("i64", address, 16))
        order = f.select(is_apart, ANY, f.load("i64", address, 24))
        _do(f, "pool_publish", pool, old, phase, address, image, shares, order)

    f.when(is_over, lambda: _do(f, "pool_publish", pool, old, phase, phase, 0, 0, 0))
    f.when(f.opposite(is_over), first)


def _advance(f: Function, parameters: list[Value]) -> None:
    """Announces what comes after piece ``old``, which was a step of an image, or a phase apart."""
    pool, old, phase, step, image = parameters
    mode, steps, address, first, images = _facts(f, phase)
    is_together = f.compare("ne", mode, APART)
    following = f.at(step, 8 * STEP_WORDS)
    is_step = f.both(is_together, f.compare("ult", following, f.at(address, f.mul(steps, 8 * STEP_WORDS))))
    after = f.add(image, 1)
    is_image = f.both(f.both(is_together, f.opposite(is_step)), f.compare("slt", after, f.add(first, images)))

    def again(step: Value, image: Index) -> None:
        _do(f, "pool_publish", pool, old, phase, step, image, f.load("i64", step, 16), f.load("i64", step, 24))

    f.when(is_step, lambda: again(following, image))
    f.when(is_image, lambda: again(address, after))
    is_phase = f.both(f.opposite(is_step), f.opposite(is_image))
    f.when(is_phase, lambda: _do(f, "pool_begin", pool, old, f.at(phase, 8 * PHASE_WORDS)))


def _claim(f: Function, parameters: list[Value]) -> Value:
    """A share of thread ``whose`` that nobody else has or will have, below ``count``; −1 when there is none.

    The word that counts is that of an earlier piece until somebody claims the first share of this one.
    """
    pool, whose, number, count = parameters
    word = f.at(pool, f.add(f.mul(whose, LINE), CLAIMS))
    own = f.raw(f"shl i64 {number.name}, {CLAIM_BITS}", "i64")
    found = f.raw("alloca i64", "ptr")
    f.store(Value("-1", "i64"), found)

    def attempt(_: list[Value]) -> tuple[Value, list[Value]]:
        seen = _read(f, word, 0)
        claimed = f.raw(f"xor i64 {seen.name}, {own.name}", "i64")
        claimed = f.select(f.compare("ult", claimed, 1 << CLAIM_BITS), claimed, 0)
        is_left = f.both(f.compare("eq", _read(f, pool, PIECE), number), f.compare("slt", claimed, count))

        def take() -> None:
            new = f.operand(f.add(own, f.add(claimed, 1)), "i64")
            both = f"cmpxchg ptr {word.name}, i64 {seen.name}, i64 {new.name} seq_cst seq_cst, align 8"
            is_mine = f.raw(f"extractvalue {{ i64, i1 }} {f.raw(both, '{ i64, i1 }').name}, 1", "i1")
            f.store(f.select(is_mine, claimed, -1), found)

        f.when(is_left, take)
        return f.both(is_left, f.compare("slt", f.load("i64", found), 0)), []

    f.repeat(attempt)
    return f.load("i64", found)


def _call(f: Function, step: Value, share: Index, shares: Index, image: Index) -> None:
    function, arguments = f.load("ptr", step), f.load("ptr", step, 8)
    given = (arguments, *(f.operand(x, "i64") for x in (share, shares, image)))
    f.raw(f"call void {function.name}({', '.join(f'{x.type} {x.name}' for x in given)})")


class _Part:
    """A thread's part of piece ``number``; the result is 0 when that is the one without shares.

    Of a piece that may be over by now nothing is read but its line, and of that only what was written for it.
    """

    def __init__(self, f: Function, parameters: list[Value]) -> None:
        self.f = f
        self.pool, self.thread, self.number = parameters
        line = _line(f, self.pool, self.number)
        self.phase, self.step = (_read(f, line, offset, "ptr") for offset in (PHASE, STEP))
        self.image, self.shares, self.order = (_read(f, line, offset) for offset in (IMAGE, SHARES, ORDER))
        self.is_current = f.compare("eq", _read(f, self.pool, PIECE), self.number)
        self.done = f.raw("alloca i64", "ptr")
        f.store(Value("0", "i64"), self.done)

    def write(self) -> Value:
        f = self.f
        f.when(f.both(self.is_current, f.compare("eq", self.order, ANY)), self._apart)
        f.when(f.both(self.is_current, f.compare("ne", self.order, ANY)), self._together)
        f.when(f.compare("sgt", f.load("i64", self.done), 0), self._report)
        return f.select(f.both(self.is_current, f.compare("eq", self.shares, 0)), 0, 1)

    def _together(self) -> None:
        """Shares of a step."""
        f = self.f
        threads = f.load("i64", self.pool, THREADS)

        def of(i: Value, _: list[Value]) -> list[Value]:
            whose = f.rem(f.add(self.thread, i), threads)
            first, last = (f.div(f.mul(f.add(whose, n), self.shares), threads) for n in (0, 1))

            def work(mine: Value) -> None:
                up, down = f.add(first, mine), f.sub(f.sub(last, 1), mine)
                share = f.select(f.compare("eq", self.order, DOWN), down, up)
                _call(f, self.step, share, self.shares, self.image)

            self._each(whose, f.sub(last, first), work)
            return []

        f.loop(0, threads, of)

    def _apart(self) -> None:
        """Images, each from the first step to the last."""
        f = self.f

        def work(mine: Value) -> None:
            _, steps, address, first, _ = _facts(f, self.phase)
            own = f.at(address, f.mul(f.mul(self.thread, steps), 8 * STEP_WORDS))

            def one(i: Value, _: list[Value]) -> list[Value]:
                _call(f, f.at(own, f.mul(i, 8 * STEP_WORDS)), 0, 1, f.add(first, mine))
                return []

            f.loop(0, steps, one)

        self._each(0, self.shares, work)

    def _each(self, whose: Index, count: Index, work: Callable[[Value], None]) -> None:
        """``work`` on each share of thread ``whose`` that this one gets."""
        f = self.f

        def one(_: list[Value]) -> tuple[Value, list[Value]]:
            mine = _do(f, "pool_claim", self.pool, whose, self.number, count, result="i64")
            is_one = f.compare("sge", mine, 0)

            def do() -> None:
                work(mine)
                f.store(f.operand(f.add(f.load("i64", self.done), 1), "i64"), self.done)

            f.when(is_one, do)
            return is_one, []

        f.repeat(one)

    def _report(self) -> None:
        """Adds what was done here to what all have done; whoever finds it complete announces the next piece."""
        f = self.f
        mine = f.load("i64", self.done)
        is_last = f.compare("eq", f.add(_increase(f, self.pool, DONE, mine), mine), self.shares)

        def last() -> None:
            _put(f, self.pool, DONE, 0)
            _do(f, "pool_advance", self.pool, self.number, self.phase, self.step, self.image)

        f.when(is_last, last)


def _start(f: Function, parameters: list[Value]) -> None:
    pool, threads = parameters
    f.store(threads, pool, THREADS)
    null = Value("null", "ptr")
    f.call("pthread_mutex_init", "i32", [f.at(pool, MUTEX), null])
    f.call("pthread_cond_init", "i32", [f.at(pool, CONDITION), null])


def _worker(f: Function, parameters: list[Value]) -> None:
    """Piece after piece, until the pool stops; a worker that starts late takes part in what is done by then."""
    pool, thread = parameters

    def next(seen: list[Value]) -> tuple[Value, list[Value]]:
        _do(f, "pool_wait", pool, seen[0])
        number = _read(f, pool, PIECE)
        goes_on = f.compare("eq", _read(f, pool, STOP), 0)
        f.when(goes_on, lambda: _do(f, "pool_share", pool, thread, number, result="i64"))
        return goes_on, [number]

    f.repeat(next, [Value("0", "i64")])


def _run(f: Function, parameters: list[Value]) -> None:
    """The caller's part: piece after piece, until there is nothing more to do."""
    pool, phases, count = parameters
    before = _read(f, pool, PIECE)
    _put(f, pool, END, f.at(phases, f.mul(count, 8 * PHASE_WORDS)))
    _do(f, "pool_begin", pool, before, phases)

    def next(seen: list[Value]) -> tuple[Value, list[Value]]:
        _do(f, "pool_wait", pool, seen[0])
        number = _read(f, pool, PIECE)
        is_more = _do(f, "pool_share", pool, 0, number, result="i64")
        return f.compare("ne", is_more, 0), [number]

    f.repeat(next, [before])


def _stop(f: Function, parameters: list[Value]) -> None:
    (pool,) = parameters
    _put(f, pool, STOP, 1)
    nothing = Value("null", "ptr")
    _do(f, "pool_publish", pool, _read(f, pool, PIECE), nothing, nothing, 0, 0, 0)
