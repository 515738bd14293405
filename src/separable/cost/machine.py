"""In: this computer. Out: its name and two rates, multiply-accumulates and bytes a second, measured once and kept."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from separable.cost.clock import measure
from separable.errors import FileError, SeparableWarning
from separable.files import written_whole

# 2 · 1024³ operations: far above every fixed cost of a product, 10 to 200 ms on the processors of today.
PRODUCT_SIZE = 1024
# Three arrays of 64 MiB: beyond the last cache of all but the largest servers.
STREAM_ELEMENTS = 16 * 2**20
INSTRUCTION_SETS = (
    *("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni"),
    *("amx_tile", "amx_bf16", "amx_int8", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A processor as far as speed goes. ``fma_per_s`` and ``bytes_per_s`` are measured, with ``threads`` threads.

    ``fma_per_s``: float32 multiply-accumulates a second in the fastest of many matrix products of 1024 × 1024, which
    comes within a few percent of the peak. ``bytes_per_s``: bytes read and written a second by the fastest of many
    passes a + 3·b → c over arrays too large for the caches (as STREAM's triad, McCalpin 1995).
    """

    name: str
    cores: int
    threads: int
    instruction_sets: tuple[str, ...]
    fma_per_s: float
    bytes_per_s: float

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``Machine.from_json`` gives the value back."""
        return {**asdict(self), "instruction_sets": list(self.instruction_sets)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Machine:
        """The value that ``to_json`` wrote; KeyError, TypeError or ValueError for anything else."""
        machine = cls(**{**values, "instruction_sets": tuple(values["instruction_sets"])})
        if not (machine.fma_per_s > 0 and machine.bytes_per_s > 0):
            raise ValueError("a machine has rates above 0")
        return machine

    def __str__(self) -> str:
        return (
            f"{self.name}, {self.cores} cores, {self.threads} thread{'s' * (self.threads != 1)}; measured "
            f"{self.fma_per_s / 1e9:.3g} G multiply-accumulates/s (float32), {self.bytes_per_s / 1e9:.3g} GB/s"
        )


def this_machine() -> Machine:
    """This computer with as many threads as PyTorch uses now; measured at the first call (about a second), then kept.

    The file lies in ``cache_folder()``; where that cannot be written, a warning says so.
    """
    return _this_machine(torch.get_num_threads(), cache_folder())


def cache_folder() -> Path:
    """Where measurements are kept: SEPARABLE_CACHE, or a folder ``separable`` in the system's cache folder."""
    if given := os.environ.get("SEPARABLE_CACHE"):
        return Path(given)
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "separable"


@functools.cache
def _this_machine(threads: int, folder: Path) -> Machine:
    name, cores, found = _processor()
    identity = json.dumps([name, cores, threads, found, torch.__version__])
    path = folder / f"machine-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"
    kept = _read(path)
    if kept is not None:
        return kept
    machine = Machine(
        name=name,
        cores=cores,
        threads=threads,
        instruction_sets=found,
        fma_per_s=_fma_per_s(),
        bytes_per_s=_bytes_per_s(),
    )
    _write(path, machine)
    return machine


def _processor() -> tuple[str, int, tuple[str, ...]]:
    """Name, cores that this process may use, instruction sets that matter here."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    name, flags = platform.processor() or platform.machine(), {torch.backends.cpu.get_cpu_capability().lower()}
    description = Path("/proc/cpuinfo")
    if description.exists():
        for line in description.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key in ("model name", "Model"):
                name = value
            elif key in ("flags", "Features"):
                flags |= set(value.split())
    return name, cores, tuple(entry for entry in INSTRUCTION_SETS if entry in flags)


def _fma_per_s() -> float:
    a, b = torch.ones(2, PRODUCT_SIZE, PRODUCT_SIZE).unbind()
    c = torch.empty(PRODUCT_SIZE, PRODUCT_SIZE)
    return PRODUCT_SIZE**3 / measure(lambda: torch.mm(a, b, out=c)).min_s


def _bytes_per_s() -> float:
    a, b, c = torch.ones(3, STREAM_ELEMENTS).unbind()
    moved = 3 * a.numel() * a.element_size()
    return moved / measure(lambda: torch.add(a, b, alpha=3, out=c)).min_s


def _read(path: Path) -> Machine | None:
    """None, with a warning where there was something, when it cannot be used."""
    try:
        return Machine.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        warnings.warn(f"{path} cannot be used ({error}); measuring again.", SeparableWarning, stacklevel=4)
        return None


def _write(path: Path, machine: Machine) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(machine.to_json(), indent=2) + "\n", encoding="utf-8")
    except (OSError, FileError) as error:
        warnings.warn(f"{path} is not kept ({error}); it is measured again next time.", SeparableWarning, stacklevel=4)
