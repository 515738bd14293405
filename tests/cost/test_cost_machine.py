"""In: cache folders, empty, full, damaged or unwritable. Out: that a machine is measured once and kept."""

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from separable.cost import Machine, Timing, cache_folder, machine, measure, this_machine
from separable.errors import SeparableWarning


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, small work to measure, and a measurement that runs it once and calls it 1 ms."""

    def measure(run: Callable[[], object]) -> Timing:
        run()
        return Timing(samples=(1e-3,), threads=1, versions={})

    monkeypatch.setenv("SEPARABLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(machine, "measure", measure)
    monkeypatch.setattr(machine, "PRODUCT_SIZE", 100)
    monkeypatch.setattr(machine, "STREAM_ELEMENTS", 1000)
    machine._this_machine.cache_clear()
    yield tmp_path / "cache"
    machine._this_machine.cache_clear()


def test_rates_are_products_and_bytes_divided_by_the_fastest_time(folder: Path) -> None:
    assert not folder.exists()
    found = this_machine()
    assert found.fma_per_s == pytest.approx(100**3 / 1e-3)
    assert found.bytes_per_s == pytest.approx(3 * 4 * 1000 / 1e-3)
    assert found.threads == torch.get_num_threads()


def refuse_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(machine, "measure", measured)


@pytest.mark.usefixtures("folder")
def test_this_machine_is_measured_once_and_read_from_disk_later(monkeypatch: pytest.MonkeyPatch) -> None:
    first = this_machine()
    refuse_to_measure(monkeypatch)
    assert this_machine() is first
    machine._this_machine.cache_clear()
    assert this_machine() == first


def test_only_the_finished_file_is_left_in_the_folder(folder: Path) -> None:
    kept = this_machine()
    (file,) = folder.iterdir()
    assert file.name.startswith("machine-")
    assert Machine.from_json(json.loads(file.read_text(encoding="utf-8"))) == kept


def test_another_number_of_threads_is_another_measurement(folder: Path) -> None:
    threads = torch.get_num_threads()
    this_machine()
    try:
        torch.set_num_threads(threads + 1)
        assert this_machine().threads == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"name": "x"}', "\x00\x01"])
def test_a_damaged_file_is_measured_again_with_a_warning(folder: Path, content: str) -> None:
    this_machine()
    (file,) = folder.iterdir()
    file.write_text(content, encoding="utf-8")
    machine._this_machine.cache_clear()
    with pytest.warns(SeparableWarning, match="cannot be used"):
        again = this_machine()
    assert Machine.from_json(json.loads(file.read_text(encoding="utf-8"))) == again


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan])
def test_a_rate_that_cannot_be_is_damage(rate: float) -> None:
    values = Machine(name="m", cores=1, threads=1, instruction_sets=(), fma_per_s=1.0, bytes_per_s=1.0).to_json()
    with pytest.raises(ValueError, match="rates above 0"):
        Machine.from_json({**values, "bytes_per_s": rate})


def test_a_folder_that_cannot_be_made_is_a_warning_and_the_measurement_is_still_given(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder.parent / "file"
    file.write_text("", encoding="utf-8")
    monkeypatch.setenv("SEPARABLE_CACHE", str(file / "cache"))
    with pytest.warns(SeparableWarning):
        assert this_machine().fma_per_s > 0


def test_the_real_rates_of_this_machine_are_those_of_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "measure", lambda run: measure(run, min_s=0.02, max_s=0.05))
    monkeypatch.setattr(machine, "PRODUCT_SIZE", 256)
    monkeypatch.setattr(machine, "STREAM_ELEMENTS", 2**20)
    assert 1e6 < machine._fma_per_s() < 1e15
    assert 1e6 < machine._bytes_per_s() < 1e15


def test_a_machine_says_what_it_is_and_survives_json() -> None:
    value = Machine(
        name="Abacus", cores=4, threads=2, instruction_sets=("avx2", "fma"), fma_per_s=1.25e11, bytes_per_s=2e10
    )
    assert Machine.from_json(json.loads(json.dumps(value.to_json()))) == value
    assert "measured 125 G multiply-accumulates/s (float32), 20 GB/s" in str(value)


def test_the_cache_folder_is_the_given_one_or_the_systems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEPARABLE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("SEPARABLE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "xdg"))
    assert cache_folder().name == "separable"
    if os.name == "posix" and os.uname().sysname == "Linux":
        assert cache_folder() == tmp_path / "xdg" / "separable"
