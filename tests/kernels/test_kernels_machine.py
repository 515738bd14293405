"""Levels, machine code on disk, and threads. In: IR. Out: code that survives damage, and pools that run and end."""

import ctypes
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from separable.errors import SeparableError, SeparableWarning
from separable.kernels import jit
from separable.kernels.ir import Function, Module, Value, constant, vector
from separable.kernels.isa import Isa, host, levels, target
from separable.kernels.jit import Library, object_code
from separable.kernels.pool import APART, PHASE_WORDS, TOGETHER, Pool, shared_pool


def adder(amount: int, name: str = "more") -> str:
    module = Module()
    module.function(name, ["i64"], lambda f, p: f.add(p[0], amount), result="i64")
    return module.text


def call(code: bytes, isa: Isa, number: int) -> int:
    library = Library([code], isa)
    return int(ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(library.address("more"))(number))


def test_a_level_that_the_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SeparableError, match="'sse9'"):
        host("sse9")
    with pytest.raises(SeparableError, match="one of"):
        target("sse9", triple="x", cpu="y")
    monkeypatch.setenv("SEPARABLE_ISA", levels()[-1])
    assert host.__wrapped__().name == levels()[-1]


def test_code_is_kept_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEPARABLE_CACHE", str(tmp_path))
    code = object_code(adder(41), host())
    monkeypatch.setattr(jit, "_compile", lambda *_: pytest.fail("compiled again"))
    assert object_code(adder(41), host()) == code
    assert call(code, host(), 1) == 42


@pytest.mark.parametrize("damage", [b"", b"separable object\n", None], ids=["empty", "cut off", "one bit"])
def test_a_damaged_entry_is_rebuilt(damage: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEPARABLE_CACHE", str(tmp_path))
    code = object_code(adder(1), host())
    (path,) = tmp_path.rglob("*.o")
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(bytes(content) if damage is None else damage)
    assert object_code(adder(1), host()) == code
    assert path.read_bytes().endswith(code)


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SEPARABLE_CACHE", str(tmp_path / "file"))
    with pytest.warns(SeparableWarning, match="not kept"):
        code = object_code(adder(2), host())
    assert call(code, host(), 5) == 7


def test_a_missing_function_is_named() -> None:
    with pytest.raises(SeparableError, match="'nothing'"):
        Library([object_code(adder(3), host())], host()).address("nothing")


def test_objects_of_a_library_read_their_own_constants() -> None:
    texts = []
    for i in range(3):
        module = Module()
        table = module.table(f"table{i}", range(100 * i, 100 * i + 8))

        def write(f: Function, p: list[Value], table: Value = table) -> Value:
            f.call("getpid", "i32", [])  # a function elsewhere: its address is looked up
            return f.load("i64", table, f.mul(p[0], 8))

        module.function(f"entry{i}", ["i64"], write, result="i64")
        texts.append(module.text)
    library = Library([object_code(text, host()) for text in texts], host())
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)
    assert [kind(library.address(f"entry{i}"))(5) for i in range(3)] == [5, 105, 205]


def counter() -> Library:
    """A step that adds one to its thread's place in a table and checks nothing."""
    module = Module()

    def write(f: object, p: list[Value]) -> None:
        place = f.add(f.mul(p[1], 8), f.mul(p[3], 64))  # type: ignore[attr-defined]
        seen = f.load("i64", p[0], place)  # type: ignore[attr-defined]
        f.store(f.operand(f.add(seen, 1), "i64"), p[0], place)  # type: ignore[attr-defined]

    module.function("count", ["ptr", "i64", "i64", "i64"], write)
    return Library([object_code(module.text, host())], host())


def program(
    library: Library,
    table: np.ndarray,
    phases: list[tuple[int, int, int]],
    steps: int,
    threads: int,
    *,
    is_down: bool = False,
) -> list:
    listed = np.array([(library.address("count"), table.ctypes.data, threads, is_down)] * (steps * threads), np.uint64)
    rows = [(mode, steps, listed.ctypes.data, first, images, 0) for mode, first, images in phases]
    return [np.array(rows, np.int64).reshape(-1, PHASE_WORDS), listed, library]


@pytest.mark.parametrize("is_down", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_share_of_every_step_of_every_image_is_done_once(threads: int, is_down: bool) -> None:
    table, library = np.zeros((6, 8), np.int64), counter()
    pool = Pool(threads, host())
    phases = program(library, table, [(TOGETHER, 0, 6)], 3, threads, is_down=is_down)
    for _ in range(50):
        pool.run(phases[0].ctypes.data, 1)
    pool.stop()
    assert (table[:, :threads] == 150).all()
    assert (table[:, threads:] == 0).all()


def test_images_are_shared_out_when_threads_work_apart() -> None:
    table, library = np.zeros((6, 8), np.int64), counter()
    pool = Pool(3, host())
    phases = program(library, table, [(APART, 0, 6)], 2, 3)
    pool.run(phases[0].ctypes.data, 1)
    pool.stop()
    assert (table[:, 0] == 2).all()  # apart, each thread takes itself for the only one
    assert table[:, 1:].sum() == 0


def test_callers_take_turns_and_threads_that_parked_wake_up() -> None:
    table, library = np.zeros((1, 8), np.int64), counter()
    pool = Pool(2, host())
    phases = program(library, table, [(TOGETHER, 0, 1)], 4, 2)

    def many() -> None:
        for _ in range(40):
            pool.run(phases[0].ctypes.data, 1)
            threading.Event().wait(0.001)  # longer than a thread spins

    callers = [threading.Thread(target=many) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    pool.stop()
    assert table[0, :2].tolist() == [480, 480]


@pytest.mark.parametrize("mode", [TOGETHER, APART])
def test_nobody_waits_for_a_thread_that_does_not_come(mode: int, monkeypatch: pytest.MonkeyPatch) -> None:
    table, library = np.zeros((6, 8), np.int64), counter()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda _: None)
        pool = Pool(3, host())
    phases = program(library, table, [(mode, 0, 6)], 4, 3)
    for _ in range(3):
        pool.run(phases[0].ctypes.data, 1)
    assert table[:, :3].tolist() == [[12, 12, 12] if mode == TOGETHER else [12, 0, 0]] * 6


def test_threads_that_lag_behind_find_their_way_back() -> None:
    """Where there are more threads than cores, one may lose its core anywhere; a program that is over is not read."""
    table, library = np.zeros((6, 8), np.int64), counter()
    pool = Pool(8, host())
    wanted, kinds = np.zeros_like(table), [(TOGETHER, 0, 3), (APART, 2, 4), (TOGETHER, 5, 1)]
    for turn in range(600):
        rows, steps = kinds[: 1 + turn % 3], 1 + turn % 4
        phases = program(library, table, rows, steps, pool.threads)
        pool.run(phases[0].ctypes.data, len(rows))
        for array in phases[:2]:
            array[:] = 1  # a step at address 1: whoever calls it now does not live long
        for mode, first, images in rows:
            wanted[first : first + images, : 8 if mode == TOGETHER else 1] += steps
    pool.stop()
    assert table.tolist() == wanted.tolist()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_gets_threads_of_its_own() -> None:
    table, library = np.zeros((1, 8), np.int64), counter()
    phases = program(library, table, [(TOGETHER, 0, 1)], 1, 2)
    shared_pool(2, host()).run(phases[0].ctypes.data, 1)
    child = os.fork()
    if child == 0:
        shared_pool(2, host()).run(phases[0].ctypes.data, 1)
        os._exit(0 if table[0, :2].tolist() == [2, 2] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert table[0, :2].tolist() == [1, 1]


def test_a_constant_is_written_exactly() -> None:
    third = np.float32(1 / 3)
    module = Module()
    module.function("put", ["ptr"], lambda f, p: f.store(constant(float(third), 4), p[0]))
    out = np.zeros(4, np.float32)
    library = Library([object_code(module.text, host())], host())
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(library.address("put"))(out.ctypes.data)
    assert (out == third).all()
    assert vector(4) == "<4 x float>"
