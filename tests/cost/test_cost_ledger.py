"""In: ledgers on good, damaged and unwritable paths, two real processes. Out: that timings stay and nothing else."""

import json
import math
import os
import sqlite3
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from separable.cost import Ledger, Machine, Timing
from separable.errors import SeparableError, SeparableWarning
from separable.spec import ConvSpec

MACHINE = Machine(name="m", cores=1, threads=1, instruction_sets=("fma",), fma_per_s=1e9, bytes_per_s=1e9)
KEY = {
    "specs": (ConvSpec(3, 4, kernel=3, size=5),),
    "engine": "eager",
    "machine": MACHINE,
    "versions": {"torch": "2", "python": "3"},
    "threads": 1,
    "batch": 1,
}


def timing(*samples: float) -> Timing:
    return Timing(samples=samples, threads=1, versions={"torch": "2"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "ledger.sqlite"


def test_a_timing_is_found_again_by_a_later_ledger(path: Path) -> None:
    assert Ledger(path).get(KEY) is None
    Ledger(path).put(KEY, timing(0.1, 0.30000000000000004))
    assert Ledger(path).get(KEY) == timing(0.1, 0.30000000000000004)


def test_the_last_timing_of_a_key_counts(path: Path) -> None:
    ledger = Ledger(path)
    ledger.put(KEY, timing(1.0))
    ledger.put(KEY, timing(2.0))
    assert ledger.get(KEY) == timing(2.0)


def test_the_order_of_a_keys_entries_does_not_matter_and_every_value_does(path: Path) -> None:
    ledger = Ledger(path)
    ledger.put(KEY, timing(1.0))
    assert ledger.get(dict(reversed(KEY.items()))) == timing(1.0)
    others = {
        "specs": (ConvSpec(3, 4, kernel=3, size=6),),
        "engine": "compiled",
        "versions": {"torch": "3", "python": "3"},
        "threads": 2,
        "batch": 2,
    }
    for name, other in others.items():
        assert ledger.get({**KEY, name: other}) is None


@pytest.mark.parametrize("value", [object(), math.nan, {1, 2}])
def test_a_key_that_is_not_plain_is_refused(path: Path, value: object) -> None:
    with pytest.raises(SeparableError, match="Ledger key"):
        Ledger(path).put({"engine": value}, timing(1.0))


def test_only_the_file_itself_is_left_in_the_folder(path: Path) -> None:
    Ledger(path).put(KEY, timing(1.0))
    assert [file.name for file in path.parent.iterdir()] == ["ledger.sqlite"]


def test_without_a_path_the_ledger_lies_in_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEPARABLE_CACHE", str(tmp_path))
    Ledger().put(KEY, timing(1.0))
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.sqlite"]


def damage_with_noise(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 64)


def damage_by_cutting(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:4096])


def damage_inside(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(1) * (len(content) - 4096)
    path.write_bytes(bytes(content))


def damage_by_another_table(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE timings (other INTEGER)")
    file.close()


@pytest.mark.parametrize("damage", [damage_with_noise, damage_by_cutting, damage_inside, damage_by_another_table])
@pytest.mark.parametrize("act", ["get", "put"])
def test_a_damaged_file_is_set_aside_with_a_warning_and_begun_anew(path: Path, damage, act: str) -> None:
    for batch in range(100):
        Ledger(path).put({"batch": batch}, timing(*[0.1] * 100))
    damage(path)
    damaged = path.read_bytes()
    ledger = Ledger(path)
    with pytest.warns(SeparableWarning, match="damaged"):
        assert ledger.get({"batch": 50}) is None if act == "get" else ledger.put(KEY, timing(1.0)) is None
    ledger.put(KEY, timing(2.0))
    assert Ledger(path).get(KEY) == timing(2.0)
    (aside,) = [file for file in path.parent.iterdir() if file != path]
    assert aside.read_bytes() == damaged


def test_an_entry_that_is_no_timing_is_left_out_with_a_warning_and_can_be_replaced(path: Path) -> None:
    ledger = Ledger(path)
    ledger.put(KEY, timing(1.0))
    with sqlite3.connect(path) as file:
        file.execute("UPDATE timings SET timing = '{\"samples\": []}'")
    file.close()
    with pytest.warns(SeparableWarning, match="no timing"):
        assert ledger.get(KEY) is None
    ledger.put(KEY, timing(2.0))
    assert ledger.get(KEY) == timing(2.0)


@pytest.mark.parametrize("obstacle", ["a file for a folder", "a folder for the file"])
def test_where_no_file_can_be_written_memory_takes_its_place_with_one_warning(path: Path, obstacle: str) -> None:
    if obstacle == "a file for a folder":
        path.parent.write_text("", encoding="utf-8")
    else:
        path.mkdir(parents=True)
    ledger = Ledger(path)
    with pytest.warns(SeparableWarning, match="cannot be used"):
        ledger.put(KEY, timing(1.0))
    assert ledger.get(KEY) == timing(1.0)
    assert ledger.get({**KEY, "batch": 2}) is None
    ledger.put(KEY, timing(2.0))
    assert ledger.get(KEY) == timing(2.0)


def test_reading_writes_nothing(path: Path) -> None:
    Ledger(path).put(KEY, timing(1.0))
    before = path.read_bytes()
    assert Ledger(path).get(KEY) == timing(1.0)
    assert path.read_bytes() == before


WRITER = """
import sys
from separable.cost import Ledger, Timing
path, name, forever = sys.argv[1], sys.argv[2], sys.argv[3] == "forever"
print("ready", flush=True)
sys.stdin.readline()
index = 0
while forever or index < 25:
    Ledger(path).put({"writer": name, "index": index}, Timing(samples=(float(index),), threads=1, versions={}))
    Ledger(path).put({"both": index}, Timing(samples=(1.0, 2.0), threads=1, versions={}))
    assert Ledger(path).get({"writer": name, "index": index}).samples == (float(index),)
    index += 1
    if forever:
        print(index, flush=True)
"""


def start(path: Path, name: str, mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", WRITER, str(path), name, mode]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_write_at_once_and_nothing_is_lost(path: Path) -> None:
    writers = [start(path, name, "once") for name in "ab"]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert (writer.returncode, errors) == (0, "")
    ledger = Ledger(path)
    for index in range(25):
        assert ledger.get({"both": index}) is not None
        assert [ledger.get({"writer": name, "index": index}).samples for name in "ab"] == [(float(index),)] * 2
    assert [file.name for file in path.parent.iterdir()] == ["ledger.sqlite"]


def test_a_process_killed_while_it_writes_leaves_a_good_file(path: Path) -> None:
    writer = start(path, "a", "forever")
    writer.stdin.write("go\n")
    writer.stdin.flush()
    lines = [writer.stdout.readline() for _ in range(8)]
    writer.kill()
    writer.communicate()
    assert lines[-1] == "7\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ledger = Ledger(path)
        assert all(ledger.get({"writer": "a", "index": index}) is not None for index in range(7))
        ledger.put(KEY, timing(1.0))
        assert ledger.get(KEY) == timing(1.0)


def test_what_is_kept_is_json_that_a_person_can_read(path: Path) -> None:
    Ledger(path).put(KEY, timing(0.5))
    with sqlite3.connect(path) as file:
        ((key, value),) = file.execute("SELECT key, timing FROM timings").fetchall()
    file.close()
    assert json.loads(key)["specs"] == [KEY["specs"][0].to_json()]
    assert json.loads(value)["samples"] == [0.5]
