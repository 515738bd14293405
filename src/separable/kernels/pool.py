"""Threads that run a program together. In: the address of a program. Out: all its steps done, in one native call.

The threads are Python's, but live in native code with the interpreter lock released. They meet at barriers: a thread
spins for about a millisecond and then parks on a condition variable, so that an idle pool costs nothing.

A program is an array of phases, each of six i64: ``mode, steps, address, first image, images, 0``. A step is
(function, arguments, shares, is downwards). In mode ``TOGETHER`` all threads share every step of one image after the
other; in mode ``APART`` each thread takes whole images and does them on its own, and ``address`` holds one list of
steps for each.

Shares are claimed: first the thread's own, upwards or downwards, then what the others have not begun. A core that
somebody else slows down for a while then costs as much as it lost, not twice that.

A step that divides its work itself can be offered instead: every thread that comes before the work is done takes part,
and nobody waits for one that does not. Behind the threads of PyTorch, which keep their cores for milliseconds after
their work, a worker may come that late.
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
# The last bit of the generation says that it is an offer. A closed door is far below zero.
GENERATION, ARRIVED, PHASE, SLEEPERS, PHASES, COUNT, THREADS, STOP, MUTEX, CONDITION, DOOR, LEFT = (
    0, 64, 128, 192, 256, 264, 272, 320, 384, 512, 640, 704,
)  # fmt: skip
CLAIMS, LINE = 768, 64  # two sets in turn, a cache line a thread: while one is in use the other goes back to zero
CLOSED = -(2**62)


class Pool:
    """``threads`` threads, the caller's among them. One program at a time; further callers wait their turn."""

    def __init__(self, threads: int, isa: Isa) -> None:
        self.threads = threads
        self.turn = threading.Lock()
        self._state = np.zeros((CLAIMS + (2 * threads + 1) * LINE) // 8, np.int64)
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
        """Runs ``count`` phases that begin at address ``phases``; returns when every thread is done."""
        with self.turn:
            self.run_in_turn(phases, count)

    def run_in_turn(self, phases: int, count: int) -> None:
        """For a caller that holds ``turn`` because it changes the program's arguments before it runs it."""
        self._native.run(self._address, phases, count)

    def offer(self, step: int, prepare: Callable[[], None]) -> None:
        """A single step at this address, which all threads call that come before the caller has done it.

        ``prepare`` is called when nobody else uses the pool: it may change the step's arguments.
        """
        with self.turn:
            prepare()
            self._native.offer(self._address, step)

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
    offer: Callable[[int, int], None]
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
        offer=entry("pool_offer", 2),
        stop=entry("pool_stop", 1),
    )


def _module(isa: Isa) -> str:
    module = Module()
    for name in ("pthread_mutex_lock", "pthread_mutex_unlock", "pthread_cond_broadcast"):
        module.declare(name, "i32", ["ptr"])
    pause = "llvm.aarch64.hint" if isa.name == "neon" else "llvm.x86.sse2.pause"
    module.declare(pause, "void", ["i32"] if isa.name == "neon" else [])
    nap = f"call void @{pause}({'i32 1' if isa.name == 'neon' else ''})"
    module.function("pool_wait", ["ptr", "i64", "i64"], lambda f, p: _wait(f, p, nap))
    module.function("pool_wake", ["ptr"], _wake)
    module.function("pool_barrier", ["ptr", "i64"], _barrier)
    module.function("pool_share", ["ptr", "i64", "i64", "ptr", "i64"], _share)
    module.function("pool_work", ["ptr", "i64"], _work)
    module.function("pool_join", ["ptr", "i64"], _join)
    module.function("pool_start", ["ptr", "i64"], _start)
    module.function("pool_worker", ["ptr", "i64"], _worker)
    module.function("pool_run", ["ptr", "ptr", "i64"], _run)
    module.function("pool_offer", ["ptr", "ptr"], _offer)
    module.function("pool_stop", ["ptr"], _stop)
    return module.text


def _read(f: Function, pool: Value, offset: int) -> Value:
    return f.raw(f"load atomic i64, ptr {f.at(pool, offset).name} seq_cst, align 8", "i64")


def _put(f: Function, pool: Value, offset: int, value: Value | int) -> None:
    f.raw(f"store atomic i64 {f.operand(value, 'i64').name}, ptr {f.at(pool, offset).name} seq_cst, align 8")


def _wait(f: Function, parameters: list[Value], nap: str) -> None:
    """Until the word at ``offset`` is no longer ``old``: spin, then sleep under the mutex."""
    pool, offset, old = parameters
    word = f.at(pool, offset)
    atomic = f"load atomic i64, ptr {word.name} seq_cst, align 8"
    is_same = f"%same = icmp eq i64 %seen, {old.name}"
    mutex, condition = f.at(pool, MUTEX).name, f.at(pool, CONDITION).name
    sleepers = f.at(pool, SLEEPERS).name
    f.lines += [
        "  br label %spin",
        "spin:",
        "  %n = phi i64 [ 0, %entry ], [ %more, %again ]",
        f"  %seen = {atomic}",
        f"  {is_same}",
        "  br i1 %same, label %again, label %done",
        "again:",
        f"  {nap}",
        "  %more = add i64 %n, 1",
        f"  %patient = icmp slt i64 %more, {SPINS}",
        "  br i1 %patient, label %spin, label %park",
        "park:",
        f"  %u0 = call i32 @pthread_mutex_lock(ptr {mutex})",
        f"  %u1 = atomicrmw add ptr {sleepers}, i64 1 seq_cst",
        "  br label %look",
        "look:",
        f"  %now = {atomic}",
        f"  %still = icmp eq i64 %now, {old.name}",
        "  br i1 %still, label %sleep, label %up",
        "sleep:",
        f"  %u2 = call i32 @pthread_cond_wait(ptr {condition}, ptr {mutex})",
        "  br label %look",
        "up:",
        f"  %u3 = atomicrmw sub ptr {sleepers}, i64 1 seq_cst",
        f"  %u4 = call i32 @pthread_mutex_unlock(ptr {mutex})",
        "  br label %done",
        "done:",
    ]
    f.module.declare("pthread_cond_wait", "i32", ["ptr", "ptr"])


def _wake(f: Function, parameters: list[Value]) -> None:
    (pool,) = parameters

    def broadcast() -> None:
        f.call("pthread_mutex_lock", "i32", [f.at(pool, MUTEX)])
        f.call("pthread_cond_broadcast", "i32", [f.at(pool, CONDITION)])
        f.call("pthread_mutex_unlock", "i32", [f.at(pool, MUTEX)])

    f.when(f.compare("sgt", _read(f, pool, SLEEPERS), 0), broadcast)


def _barrier(f: Function, parameters: list[Value]) -> None:
    pool, threads = parameters
    old = _read(f, pool, PHASE)
    before = f.raw(f"atomicrmw add ptr {f.at(pool, ARRIVED).name}, i64 1 seq_cst", "i64")
    count = f.add(before, 1)

    def last() -> None:
        _put(f, pool, ARRIVED, 0)
        _put(f, pool, PHASE, f.operand(f.add(old, 1), "i64"))
        f.raw(f"call void @pool_wake(ptr {pool.name})")

    is_last = f.compare("eq", count, threads)
    f.when(is_last, last)
    is_early = f.compare("ne", count, threads)
    f.when(is_early, lambda: _discard(f.raw(f"call void @pool_wait(ptr {pool.name}, i64 {PHASE}, i64 {old.name})")))


def _discard(_: Value) -> None:
    return None


def _claims(f: Function, pool: Value, threads: Value, whose: Value | int, *, ahead: int = 0) -> Value:
    """Where the shares are counted that were claimed of thread ``whose``, in this step or the next one."""
    turn = f.rem(f.add(_read(f, pool, PHASE), ahead), 2)
    return f.at(pool, f.add(f.mul(f.add(f.mul(turn, threads), whose), LINE), CLAIMS))


def _claimed(f: Function, counter: Value, count: Index, body: Callable[[Value], None]) -> None:
    """``body`` of each number below ``count`` that this thread is the first to claim."""
    name = f.fresh()
    f.branch(f"claim{name}")
    f.label(f"claim{name}")
    mine = f.raw(f"atomicrmw add ptr {counter.name}, i64 1 seq_cst", "i64")
    is_left = f.compare("slt", mine, count)
    f.lines.append(f"  br i1 {is_left.name}, label %do{name}, label %gone{name}")
    f.label(f"do{name}")
    body(mine)
    f.branch(f"claim{name}")
    f.label(f"gone{name}")


def _call(f: Function, step: Value, share: Index, shares: Index, image: Value) -> None:
    function, arguments = f.load("ptr", step), f.load("ptr", step, 8)
    share, shares = f.operand(share, "i64"), f.operand(shares, "i64")
    f.raw(f"call void {function.name}(ptr {arguments.name}, i64 {share.name}, i64 {shares.name}, i64 {image.name})")


def _share(f: Function, parameters: list[Value]) -> None:
    """This thread's part of one step."""
    pool, thread, threads, step, image = parameters
    shares = f.load("i64", step, 16)
    is_down = f.compare("ne", f.load("i64", step, 24), 0)

    def of(i: Value, _: list[Value]) -> list[Value]:
        whose = f.rem(f.add(thread, i), threads)
        first, last = (f.div(f.mul(f.add(whose, n), shares), threads) for n in (0, 1))
        counter = _claims(f, pool, threads, whose)

        def one(mine: Value) -> None:
            up, down = f.add(first, mine), f.sub(f.sub(last, 1), mine)
            _call(f, step, f.select(is_down, down, up), shares, image)

        _claimed(f, counter, f.sub(last, first), one)
        return []

    f.loop(0, threads, of)


def _work(f: Function, parameters: list[Value]) -> None:
    """All phases, as thread number ``thread`` sees them."""
    pool, thread = parameters
    phases, count, threads = f.load("ptr", pool, PHASES), f.load("i64", pool, COUNT), f.load("i64", pool, THREADS)

    def meet() -> None:
        f.raw(f"call void @pool_barrier(ptr {pool.name}, i64 {threads.name})")

    def begin() -> None:
        f.store(Value("0", "i64"), _claims(f, pool, threads, thread, ahead=1))

    def phase(p: Value, _: list[Value]) -> list[Value]:
        at = f.at(phases, f.mul(p, 8 * PHASE_WORDS))
        mode, steps, address, first, images = (
            f.load(t, at, 8 * i) for i, t in enumerate(("i64", "i64", "ptr", "i64", "i64"))
        )

        def apart() -> None:
            own = f.at(address, f.mul(f.mul(thread, steps), 8 * STEP_WORDS))

            def image(n: Value) -> None:
                def one(i: Value, _: list[Value]) -> list[Value]:
                    _call(f, f.at(own, f.mul(i, 8 * STEP_WORDS)), 0, 1, f.operand(f.add(first, n), "i64"))
                    return []

                f.loop(0, steps, one)

            begin()
            _claimed(f, _claims(f, pool, threads, 0), images, image)
            meet()

        def together() -> None:
            def image(n: Value, _: list[Value]) -> list[Value]:
                def one(i: Value, _: list[Value]) -> list[Value]:
                    begin()
                    given = [pool, thread, threads, f.at(address, f.mul(i, 8 * STEP_WORDS)), n]
                    f.raw(f"call void @pool_share({', '.join(f'{x.type} {x.name}' for x in given)})")
                    meet()
                    return []

                f.loop(0, steps, one)
                return []

            f.loop(first, f.add(first, images), image)

        f.when(f.compare("eq", mode, APART), apart)
        f.when(f.compare("ne", mode, APART), together)
        return []

    f.loop(0, count, phase)


def _start(f: Function, parameters: list[Value]) -> None:
    pool, threads = parameters
    f.store(threads, pool, THREADS)
    null = Value("null", "ptr")
    f.call("pthread_mutex_init", "i32", [f.at(pool, MUTEX), null])
    f.call("pthread_cond_init", "i32", [f.at(pool, CONDITION), null])


def _join(f: Function, parameters: list[Value]) -> None:
    """A worker's part in an offer, if the door is still open."""
    pool, thread = parameters
    before = f.raw(f"atomicrmw add ptr {f.at(pool, DOOR).name}, i64 1 seq_cst", "i64")

    def inside() -> None:
        _call(f, f.load("ptr", pool, PHASES), thread, f.load("i64", pool, THREADS), Value("0", "i64"))
        f.raw(f"atomicrmw add ptr {f.at(pool, LEFT).name}, i64 1 seq_cst", "i64")
        f.raw(f"call void @pool_wake(ptr {pool.name})")

    f.when(f.compare("sge", before, 0), inside)


def _offer(f: Function, parameters: list[Value]) -> None:
    """The step, by the caller and by whoever comes in time; returns when all that came in have left."""
    pool, step = parameters
    f.store(step, pool, PHASES)
    _put(f, pool, LEFT, 0)
    _put(f, pool, DOOR, 0)
    _begin(f, pool, is_offer=True)
    _call(f, step, 0, f.load("i64", pool, THREADS), Value("0", "i64"))
    came = f.raw(f"atomicrmw add ptr {f.at(pool, DOOR).name}, i64 {CLOSED} seq_cst", "i64")

    def leaving(n: Value, _: list[Value]) -> list[Value]:
        # One change of the word a turn, and it can change no oftener than somebody leaves.
        is_inside = f.compare("eq", _read(f, pool, LEFT), n)
        f.when(is_inside, lambda: _discard(f.raw(f"call void @pool_wait(ptr {pool.name}, i64 {LEFT}, i64 {n.name})")))
        return []

    f.loop(0, came, leaving)


def _begin(f: Function, pool: Value, *, is_offer: bool) -> None:
    """Changes the generation, which wakes the workers."""
    old = f.mul(f.div(_read(f, pool, GENERATION), 2), 2)
    _put(f, pool, GENERATION, f.operand(f.add(old, 2 + is_offer), "i64"))
    f.raw(f"call void @pool_wake(ptr {pool.name})")


def _worker(f: Function, parameters: list[Value]) -> None:
    """Waits for the generation to change, works, waits again; a worker that starts late finds its first job waiting.

    A program waits for every worker, so none can miss one; an offer may be over before a worker sees it.
    """
    pool, thread = parameters
    f.lines += [
        "  br label %idle",
        "idle:",
        "  %turn = phi i64 [ 0, %entry ], [ %seen, %program ], [ %seen, %offer ]",
        f"  call void @pool_wait(ptr {pool.name}, i64 {GENERATION}, i64 %turn)",
        f"  %seen = load atomic i64, ptr {f.at(pool, GENERATION).name} seq_cst, align 8",
    ]
    stop = _read(f, pool, STOP)
    f.lines += [
        f"  %ends = icmp ne i64 {stop.name}, 0",
        "  br i1 %ends, label %end, label %job",
        "job:",
        "  %kind = and i64 %seen, 1",
        "  %is_offer = icmp ne i64 %kind, 0",
        "  br i1 %is_offer, label %offer, label %program",
        "offer:",
        f"  call void @pool_join(ptr {pool.name}, i64 {thread.name})",
        "  br label %idle",
        "program:",
        f"  call void @pool_work(ptr {pool.name}, i64 {thread.name})",
        "  br label %idle",
        "end:",
    ]


def _run(f: Function, parameters: list[Value]) -> None:
    pool, phases, count = parameters
    f.store(phases, pool, PHASES)
    f.store(count, pool, COUNT)
    _begin(f, pool, is_offer=False)
    f.raw(f"call void @pool_work(ptr {pool.name}, i64 0)")


def _stop(f: Function, parameters: list[Value]) -> None:
    (pool,) = parameters
    _put(f, pool, STOP, 1)
    _begin(f, pool, is_offer=False)
