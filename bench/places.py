"""Where results are kept. In: what was measured. Out: a path."""

from __future__ import annotations

from pathlib import Path

import llvmlite.binding as llvm


def of_this_processor(name: str) -> Path:
    """The results of this kind of processor, apart from those of others."""
    folder = Path(__file__).with_name("results") / llvm.get_host_cpu_name()
    folder.mkdir(exist_ok=True)
    return folder / f"{name}.json"
