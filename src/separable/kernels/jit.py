"""IR to machine code. In: the text of a module and an ``Isa``. Out: an object, kept on disk, and the addresses in it.

An entry of the cache is named by a hash of all that decides its bytes (IR, processor, LLVM, this package) and carries a
hash of its bytes: a stale one is never found, a damaged one is rebuilt, never run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import threading
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

from separable import __version__
from separable.errors import FileError, SeparableError, SeparableWarning
from separable.files import written_whole
from separable.kernels.isa import Isa

MAGIC = b"separable object\n"
OPTIMISATION = 2
ADDRESSES = "static"  # "pic" goes wrong: of objects loaded together, each reads the first one's table of addresses
_starting = threading.Lock()


def cache_folder() -> Path:
    """Where objects are kept: below ``SEPARABLE_CACHE``, else below the cache folder of the operating system."""
    named = os.environ.get("SEPARABLE_CACHE")
    if named:
        return Path(named) / "objects"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "separable" / "objects"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "separable" / "objects"


def object_code(text: str, isa: Isa) -> bytes:
    """The module ``text`` compiled for ``isa``: from the disk where it lies there undamaged, else compiled and kept."""
    made = [llvm.llvm_version_info, llvmlite.__version__, __version__, OPTIMISATION, ADDRESSES]
    name = hashlib.sha256("\0".join([text, isa.key, *map(str, made)]).encode()).hexdigest()
    path = cache_folder() / name[:2] / f"{name}.o"
    kept = _read(path)
    if kept is not None:
        return kept
    code = _compile(text, isa)
    _write(path, code)
    return code


class Library:
    """Objects loaded into this process. Addresses are valid as long as the library lives."""

    def __init__(self, objects: Iterable[bytes], isa: Isa) -> None:
        machine = _machine(isa)  # belongs to the engine from here on: never shared, never used again
        module = llvm.parse_assembly(f'target triple = "{isa.triple}"')
        self._engine = llvm.create_mcjit_compiler(module, machine)
        for code in objects:
            self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        """Where the function ``name`` begins."""
        address = int(self._engine.get_function_address(name))
        if not address:
            raise SeparableError("Library.address", given=repr(name), expected="a function in the loaded objects")
        return address


def _compile(text: str, isa: Isa) -> bytes:
    machine = _machine(isa)
    module = llvm.parse_assembly(text)
    module.triple = isa.triple
    module.data_layout = str(machine.target_data)
    module.verify()
    # The kernels are unrolled and vectorised where they are written: LLVM's own attempts only cost time.
    options = llvm.create_pipeline_tuning_options(speed_level=OPTIMISATION)
    options.loop_unrolling = options.loop_vectorization = options.slp_vectorization = False
    llvm.create_pass_builder(machine, options).getModulePassManager().run(
        module, llvm.create_pass_builder(machine, options)
    )
    return bytes(machine.emit_object(module))


def _machine(isa: Isa) -> llvm.TargetMachine:
    with _starting:
        _start(isa.triple == llvm.get_process_triple())
    chosen = llvm.Target.from_triple(isa.triple)
    return chosen.create_target_machine(
        cpu=isa.cpu,
        features=isa.features,
        opt=OPTIMISATION,
        reloc=ADDRESSES,
        codemodel="jitdefault" if isa.triple == llvm.get_process_triple() else "default",
        jit=True,
    )


@cache
def _start(is_native: bool) -> None:
    """Wakes up the part of LLVM for this processor, or all of it, which is some megabytes more."""
    if is_native:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
    else:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()


def _read(path: Path) -> bytes | None:
    with contextlib.suppress(OSError):
        content = path.read_bytes()
        digest, code = content[len(MAGIC) : len(MAGIC) + 32], content[len(MAGIC) + 32 :]
        if content.startswith(MAGIC) and hashlib.sha256(code).digest() == digest:
            return code
    return None


def _write(path: Path, code: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as whole:
            whole.write_bytes(MAGIC + hashlib.sha256(code).digest() + code)
    except (OSError, FileError) as error:
        warnings.warn(
            f"Machine code is not kept: {error}. Every process compiles again; set SEPARABLE_CACHE to a folder "
            "that can be written.",
            SeparableWarning,
            stacklevel=2,
        )
