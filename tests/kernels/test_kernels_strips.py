"""Strips of channels. In: panels, widths. Out: strips that are even, and the code of each for its own channels."""

import ctypes

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from separable.kernels.ir import Function, Index, Module, Value
from separable.kernels.isa import host
from separable.kernels.jit import Library, object_code
from separable.kernels.strips import Strips


@given(panels=st.integers(1, 200), most=st.integers(1, 16), halved=st.booleans(), threads=st.integers(1, 8))
def test_strips_are_few_and_even(panels: int, most: int, halved: bool, threads: int) -> None:
    strips = Strips(panels, most, ends_in_half=halved)
    assert [p for first, last in strips.spans for p in range(first, last)] == list(range(panels))
    widths = [width for width, _ in strips.kinds]
    assert max(widths) <= most
    assert max(widths) - min(widths) <= 1
    assert (strips.count - 1) * most < panels
    assert [is_halved for _, is_halved in strips.kinds] == [False] * (strips.count - 1) + [halved]
    if strips.count % threads == 0:
        parts = np.reshape(widths, (threads, -1)).sum(axis=1)
        assert parts.max() - parts.min() <= 1


@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize(("panels", "most"), [(1, 4), (4, 4), (10, 3), (7, 2), (12, 5)])
def test_each_strip_gets_the_code_of_its_kind(panels: int, most: int, halved: bool) -> None:
    strips, module, kinds = Strips(panels, most, ends_in_half=halved), Module(), []

    def write(f: Function, p: list[Value]) -> None:
        def body(first: Index, width: int, is_halved: bool) -> None:
            kinds.append((width, is_halved))
            for i, value in enumerate((first, width, int(is_halved))):
                f.store(f.operand(value, "i64"), p[0], 8 * i)

        strips.choose(f, p[1], body)

    module.function("strip", ["ptr", "i64"], write)
    library = Library([object_code(module.text, host())], host())
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(library.address("strip"))
    assert len(kinds) == len(set(kinds))
    for n, ((first, _), kind) in enumerate(zip(strips.spans, strips.kinds, strict=True)):
        got = np.full(3, -1, np.int64)
        call(got.ctypes.data, n)
        assert got.tolist() == [first, *kind]
