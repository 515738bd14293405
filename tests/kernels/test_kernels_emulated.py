"""Code for other processors. In: one kernel of every kind. Out: objects, and in an emulator the same bits as here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from emulators import Call, Work, emulate, lacks
from every_filter import every_filter
from every_kernel import every_kernel, layers
from guarded import entry, placed, run

from separable.kernels.catalogue import name_of, source_of
from separable.kernels.convolution import TARGET
from separable.kernels.filtering import sources
from separable.kernels.isa import Isa, host, target
from separable.kernels.jit import object_code

X86 = "x86_64-unknown-linux-gnu"
EMULATED = {
    "avx512": target("avx512", triple=X86, cpu="skylake-avx512"),
    "neon": target("neon", triple="aarch64-unknown-linux-gnu", cpu="cortex-a72"),
}
SHARES = 3


def test_code_for_a_processor_that_nobody_emulates_can_be_written() -> None:
    zen4 = target("avx512", triple=X86, cpu="znver4")
    for kernel in layers(zen4):
        assert object_code(source_of(kernel, zen4), zen4).startswith(b"\x7fELF"), kernel


@pytest.mark.parametrize("isa", ["neon"], indirect=True)  # in the wider ones every test of kernels runs
def test_every_kernel_computes_the_same_in_narrow_panels(isa: Isa) -> None:
    for case, own in zip(every_kernel(isa), every_kernel(host()), strict=True):
        got = run(case.kernel, isa, case.inputs, case.constants, threads=SHARES)
        expected = run(own.kernel, host(), own.inputs, own.constants)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4, err_msg=str(case.kernel))


@pytest.mark.parametrize("isa", EMULATED, indirect=True)
def test_every_kernel_computes_the_same_bits_elsewhere(isa: Isa, tmp_path: Path) -> None:
    there = EMULATED[isa.name]
    here = [*kernels_here(isa, there), *filters_here(isa, there)]
    expected = [step.result.copy() for step in here]
    for step in here:
        step.result[:] = step.before
    modules = {name: text for step in here for name, text in step.modules.items()}
    work = Work(
        objects=[object_code(text, there) for text in modules.values()],
        calls=[step.call for step in here],
        memory=[array for step in here for array in step.memory],
        results=[step.result for step in here],
        functions={address: name for step in here for address, name in step.functions.items()},
    )
    if missing := lacks(isa.name):
        pytest.skip(f"the code can be written; to run it needs {' and '.join(missing)}")
    emulate(isa.name, work, tmp_path)
    for step, wanted in zip(here, expected, strict=True):
        np.testing.assert_array_equal(step.result, wanted, err_msg=step.name)


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """What was done here and is to be done elsewhere: its result, and what that array held before."""

    name: str
    call: Call
    memory: list[np.ndarray]
    result: np.ndarray
    before: np.ndarray
    modules: dict[str, str]
    functions: dict[int, str] = field(default_factory=dict)


def kernels_here(isa: Isa, there: Isa) -> Iterator[Step]:
    for case in every_kernel(isa):
        addresses, places = placed(case.kernel, case.inputs, case.constants)
        name, result = name_of(case.kernel), places[TARGET]
        before = result.copy()
        for share in range(SHARES):
            entry(case.kernel, isa)(addresses.ctypes.data, share, SHARES, 0)
        yield Step(
            name=str(case.kernel),
            call=Call(name=name, arguments=addresses, shares=SHARES),
            memory=[addresses, *places.values()],
            result=result,
            before=before,
            modules={name: source_of(case.kernel, there)},
        )


def filters_here(isa: Isa, there: Isa) -> Iterator[Step]:
    for plan, image, result in every_filter(isa):
        before = result.copy()
        plan.run(image.ctypes.data, result.ctypes.data)
        modules, words = sources(plan.filtering, there), plan._words[0]
        yield Step(
            name=str(plan.filtering),
            call=Call(name=next(iter(modules)), arguments=words, shares=1, images=len(plan._units)),
            memory=[words, *plan._held, image, result],
            result=result,
            before=before,
            modules=modules,
            functions={plan._entries.library.address(name): name for name in modules},
        )
