"""What an instruction set offers to a kernel. In: this machine, a name, or ``SEPARABLE_ISA``. Out: an ``Isa``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache, cached_property

import llvmlite.binding as llvm

from separable.errors import SeparableError


@dataclass(frozen=True, kw_only=True)
class Isa:
    """Lanes and registers decide the tiles; triple, processor and features decide the code."""

    name: str
    lanes: int
    registers: int
    triple: str
    cpu: str
    features: str

    @cached_property
    def key(self) -> str:
        """Everything that decides the machine code, as one string."""
        return f"{self.name}|{self.triple}|{self.cpu}|{self.features}"

    @property
    def passes(self) -> int:
        """How often a vector goes through a unit: Zen 4 does 512 bits as two halves."""
        return 2 if self.lanes == 16 and self.cpu == "znver4" else 1

    @property
    def is_x86(self) -> bool:
        """Whether the code is for x86-64: lanes and registers of any level can be compiled for any processor."""
        return self.triple.startswith("x86_64")

    def __str__(self) -> str:
        return f"{self.name} ({self.lanes} lanes, {self.registers} registers, {self.cpu})"


SHAPES = {"avx2": (8, 16), "avx512": (16, 32), "neon": (4, 32)}
REMEDY = "Leave SEPARABLE_ISA unset to take the best level that this machine has."


def target(level: str, *, triple: str, cpu: str, features: str = "") -> Isa:
    """The level for a given processor, this machine's or another's (code for another can be written, not run)."""
    if level not in SHAPES:
        raise SeparableError("SEPARABLE_ISA", given=repr(level), expected=f"one of {sorted(SHAPES)}", remedy=REMEDY)
    lanes, registers = SHAPES[level]
    return Isa(name=level, lanes=lanes, registers=registers, triple=triple, cpu=cpu, features=features)


def levels() -> tuple[str, ...]:
    """The levels that this machine can run, best first; empty where there is none."""
    triple = llvm.get_process_triple()
    if triple.startswith(("aarch64", "arm64")):
        return ("neon",)
    features = dict(llvm.get_host_cpu_features())
    found = []
    if all(features.get(name) for name in ("avx512f", "avx512bw", "avx512dq", "avx512vl", "fma")):
        found.append("avx512")
    if features.get("avx2") and features.get("fma"):
        found.append("avx2")
    return tuple(found)


@cache
def host(level: str | None = None) -> Isa:
    """This machine at ``level``, or at ``SEPARABLE_ISA``, or at the best level that it has."""
    available = levels()
    if not available:
        raise SeparableError(
            "separable.compile",
            given=f"a {llvm.get_host_cpu_name()} processor ({llvm.get_process_triple()})",
            expected="x86-64 with AVX2 and FMA, or aarch64 with NEON",
            remedy="Run the model with PyTorch on this machine.",
        )
    wanted = level or os.environ.get("SEPARABLE_ISA") or available[0]
    if wanted not in available:
        raise SeparableError("SEPARABLE_ISA", given=repr(wanted), expected=f"one of {list(available)}", remedy=REMEDY)
    features = llvm.get_host_cpu_features().flatten()
    return target(wanted, triple=llvm.get_process_triple(), cpu=llvm.get_host_cpu_name(), features=features)
