"""Machine code of other processors, run in emulators. In: objects, memory, calls. Out: what the calls have written.

Both emulators run the same small program: it finds the memory where it was laid out, makes the calls, and prints the
results. Under QEMU it is a program of Linux; Bochs, which knows AVX-512, runs it on a machine without any system.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
START = 0x2000000  # of the memory: behind the program, within a small machine
ROOM = 0x400000  # for the program, just before the memory where there is no system
MARK = b"RESULTS:"
LINE = 64
TWICE = "-Wl,-zmuldefs"  # a filter's rows bring the function that they call, which may be there by itself

PROGRAM = """
typedef void kernel(void*, long, long, long);
kernel {names};
static const struct {{ kernel* run; void* arguments; long shares, images; }} calls[] = {{{calls}}};
static const struct {{ kernel** place; kernel* run; }} pointers[] = {{{pointers}}};
static const struct {{ const char* start; long size; }} results[] = {{{results}}};
static void out(const char* start, long size);

static void compute(void) {{
  for (int i = 0; pointers[i].place; ++i) *pointers[i].place = pointers[i].run;
  for (int i = 0; calls[i].run; ++i)
    for (long image = 0; image < calls[i].images; ++image)
      for (long share = 0; share < calls[i].shares; ++share)
        calls[i].run(calls[i].arguments, share, calls[i].shares, image);
  out("{mark}", {mark_size});
  for (int i = 0; results[i].start; ++i) out(results[i].start, results[i].size);
}}
"""

LINUX = """
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
int main(void) {{
  int file = open("memory", O_RDONLY);
  void* start = (void*){start};
  if (mmap(start, {size}, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, 0) != start) return 1;
  compute();
  return 0;
}}
static void out(const char* start, long size) {{ fwrite(start, 1, size, stdout); }}
"""

BARE = """
__attribute__((section(".first"))) void first(void) { compute(); }
static void out(const char* start, long size) {
  __asm__ volatile("rep outsb" : "+S"(start), "+c"(size) : "d"(0xE9) : "memory");  // Bochs prints it
}
"""

# In place of a BIOS: from reset straight to 64-bit mode, with memory as it is and all vector registers on.
BOOT = """
rom:    .code16
begin:  cli
        lgdtl   %cs:(table - rom)
        movl    %cr4, %eax
        orl     $0x40620, %eax          # physical address extension, SSE and its exceptions, XSAVE
        movl    %eax, %cr4
        movl    $pages, %eax
        movl    %eax, %cr3
        movl    $0xC0000080, %ecx       # the register that allows 64-bit mode
        rdmsr
        orl     $0x100, %eax
        wrmsr
        movl    $0x80000033, %eax       # paging, protection, vector instructions not emulated
        movl    %eax, %cr0
        ljmpl   $8, $long
        .code64
long:   movl    $16, %eax
        movl    %eax, %ss
        movl    %eax, %ds
        movl    %eax, %es
        xorl    %ecx, %ecx
        xorl    %edx, %edx
        movl    $0xE7, %eax             # x87, SSE, AVX, masks, and both parts of the 512-bit registers
        xsetbv
        movl    ${program}, %esp        # the stack ends where the program begins
        movl    %esp, %eax
touch:  movb    (%rax), %dl             # Bochs gives out memory as it is touched, and the image lies in that order
        addl    $0x10000, %eax
        cmpl    ${end}, %eax
        jb      touch
        movl    %esp, %eax
        call    *%rax
        movl    $0x8900, %edx           # Bochs ends when it reads this word here
        movl    $word, %esi
        movl    $8, %ecx
        rep outsb
word:   .ascii  "Shutdown"
        .align  8
entries: .quad  0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF
table:  .word   23
        .long   entries
        .align  4096
pages:  .quad   more + 0x23
        .fill   511, 8, 0
more:   .quad   0xE3, 0x400000E3, 0x800000E3, 0xC00000E3
        .fill   508, 8, 0
        .org    0xFFF0                  # a processor begins here
        .code16
        jmp     begin
        .org    0x10000
"""

LAYOUT = """
SECTIONS {{
  .all {program} : {{ *(.first) *(.text* .ltext*) *(.rodata* .lrodata* .data* .ldata*) }}
  .got : {{ *(.got.plt) *(.got) }}
  /DISCARD/ : {{ *(.note* .comment .eh_frame*) }}
}}
"""

MACHINE = """
romimage: file=rom
optramimage1: file=image, address={program}
memory: guest={megabytes}, host={megabytes}
cpu: model={cpu}, reset_on_triple_fault=0
clock: sync=none
display_library: term
port_e9_hack: enabled=1
panic: action=fatal
log: log
"""


@dataclass(frozen=True, kw_only=True)
class Call:
    """The function ``name``, called with an array of arguments for each image, as each of ``shares`` in turn."""

    name: str
    arguments: Array
    shares: int
    images: int = 1


@dataclass(frozen=True, kw_only=True)
class Work:
    """Objects, calls, and all arrays that these reach; ``results`` are among them.

    Eight bytes of ``memory`` that are an address in one of them, or of a function by ``functions``, are made one in
    the emulator.
    """

    objects: Sequence[bytes]
    calls: Sequence[Call]
    memory: Sequence[Array]
    results: Sequence[Array]
    functions: Mapping[int, str]


def lacks(level: str) -> list[str]:
    """The programs that running code of this level needs, and that are not here."""
    needed = {"neon": ("qemu-aarch64", "aarch64-linux-gnu-gcc"), "avx512": ("bochs", "x86_64-linux-gnu-gcc")}
    return [program for program in needed[level] if not shutil.which(program)]


def emulate(level: str, work: Work, folder: Path, cpu: str = "corei7_skylake_x") -> None:
    """Makes the calls, and puts what they have written into ``work.results``; ``cpu`` is one that Bochs knows."""
    places, size = _places(work.memory)
    (folder / "memory").write_bytes(_laid_out(work, places, size))
    for i, code in enumerate(work.objects):
        (folder / f"{i}.o").write_bytes(code)
    objects = [f"{i}.o" for i in range(len(work.objects))]
    (folder / "program.c").write_text(
        _program(work, places) + (LINUX.format(start=START, size=size) if level == "neon" else BARE)
    )
    printed = _in_qemu(folder, objects) if level == "neon" else _in_bochs(folder, objects, size, cpu)
    _, mark, written = printed.partition(MARK)
    assert mark, printed
    for array in work.results:
        array.view(np.uint8).reshape(-1)[:] = np.frombuffer(written[: array.nbytes], np.uint8)
        written = written[array.nbytes :]


def _in_qemu(folder: Path, objects: Iterable[str]) -> bytes:
    _run(folder, "aarch64-linux-gnu-gcc", "-static", TWICE, "program.c", *objects, "-o", "program")
    return _run(folder, "qemu-aarch64", "./program")


def _in_bochs(folder: Path, objects: Iterable[str], size: int, cpu: str) -> bytes:
    program, end = START - ROOM, START + size
    (folder / "boot.s").write_text(BOOT.format(program=program, end=end))
    (folder / "layout").write_text(LAYOUT.format(program=program))
    (folder / "machine").write_text(MACHINE.format(program=program, megabytes=end // 2**20 + 1, cpu=cpu))
    gcc = ("x86_64-linux-gnu-gcc", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none,-e0", TWICE)
    _run(folder, *gcc, "boot.s", "-Wl,-Ttext=0xFFFF0000", "-o", "rom.elf")
    _run(folder, *gcc, "-O1", "-ffreestanding", "-fno-pie", "program.c", *objects, "-T", "layout", "-o", "program.elf")
    for name in ("rom", "program"):
        _run(folder, "x86_64-linux-gnu-objcopy", "-O", "binary", f"{name}.elf", name)
    code = (folder / "program").read_bytes()
    (folder / "image").write_bytes(code + bytes(ROOM - len(code)) + (folder / "memory").read_bytes())
    # Where it was built with its debugger Bochs waits for a command: to go on. It ends with the word for a failure.
    done = subprocess.run(
        ["bochs", "-q", "-f", "machine"],
        cwd=folder,
        input=b"c\n",
        capture_output=True,
        env={**os.environ, "TERM": "xterm"},
        check=False,
    )
    assert "shutdown requested" in (folder / "log").read_text(), (folder / "log").read_text()[-4000:]
    return done.stdout


def _run(folder: Path, *command: str) -> bytes:
    return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE).stdout


def _program(work: Work, places: Mapping[int, int]) -> str:
    calls = [
        f"{{{call.name}, (void*){places[id(call.arguments)]}, {call.shares}, {call.images}}}" for call in work.calls
    ]
    pointers = [
        f"{{(kernel**){places[id(array)] + 8 * i}, {work.functions[word]}}}"
        for array in work.memory
        for i, word in enumerate(_words(array).tolist())
        if word in work.functions
    ]
    results = [f"{{(char*){places[id(array)]}, {array.nbytes}}}" for array in work.results]
    names = dict.fromkeys([call.name for call in work.calls]) | dict.fromkeys(work.functions.values())
    return PROGRAM.format(
        names=", ".join(names),
        calls=", ".join([*calls, "{0}"]),
        pointers=", ".join([*pointers, "{0}"]),
        results=", ".join([*results, "{0}"]),
        mark=MARK.decode(),
        mark_size=len(MARK),
    )


def _places(memory: Iterable[Array]) -> tuple[dict[int, int], int]:
    """Where each array begins, as far from a cache line's begin as here, with lines between; and bytes in all."""
    places, used = {}, START
    for array in memory:
        places[id(array)] = used + array.ctypes.data % LINE
        used = -(-(places[id(array)] + array.nbytes) // LINE) * LINE + 4 * LINE
    return places, used - START


def _laid_out(work: Work, places: Mapping[int, int], size: int) -> bytes:
    """The memory, with addresses in it that are those of the emulator."""
    whole = np.zeros(size, np.uint8)
    begins = np.array([array.ctypes.data for array in work.memory], np.int64)
    order = np.argsort(begins)
    ends = begins + [array.nbytes for array in work.memory]
    there = np.array([places[id(array)] for array in work.memory], np.int64)
    for array in work.memory:
        words = _words(array)
        held = order[np.clip(np.searchsorted(begins[order], words, side="right") - 1, 0, None)]
        is_address = (begins[held] <= words) & (words <= ends[held])
        at = places[id(array)] - START
        whole[at : at + array.nbytes] = _bytes(array)
        moved = np.where(is_address, words - begins[held] + there[held], words)
        whole[at : at + moved.nbytes] = moved.view(np.uint8)
    return whole.tobytes()


def _bytes(array: Array) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _words(array: Array) -> NDArray[np.int64]:
    return _bytes(array)[: array.nbytes // 8 * 8].view(np.int64)
