"""A saved program, without PyTorch. In: a file that ``Program.save`` wrote, NumPy arrays. Out: NumPy arrays."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from separable.errors import ModelError
from separable.kernels.isa import Isa, host
from separable.runtime.environment import Environment
from separable.runtime.native import NativeNetwork
from separable.runtime.saved import Output, Saved, read
from separable.runtime.tuning import Tuner

Floats = NDArray[np.float32]


def load(path: str | Path, *, threads: int | None = None, level: str | None = None, measure: bool = True) -> Session:
    """The saved program for this processor. ``threads``: the most that a call uses, all cores by default.

    ``level`` and ``measure`` as for ``compile``. Raises ``FileError`` for a file that holds no program.
    """
    return Session(read(path), host(level), checked_threads(threads, "separable.load", _cores()), measure=measure)


class Session:
    """A program from a file: call it with arrays of the shapes that were saved, get arrays.

    Each shape is compiled when it first comes, and kept. Several Python threads may call at once: they take turns.
    """

    def __init__(self, forwards: tuple[Saved, ...], isa: Isa, threads: int, *, measure: bool = True) -> None:
        self.isa, self.threads = isa, threads
        self._tuner = Tuner(isa, threads, is_measuring=measure)
        self._forwards = {tuple(shape for _, shape in forward.inputs): forward for forward in forwards}
        self._natives: dict[int, tuple[NativeNetwork, ...]] = {}
        self._preparing = threading.Lock()

    @property
    def shapes(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """What it can be called with: the shapes of all inputs, for everything compiled before it was saved."""
        return tuple(self._forwards)

    def __call__(self, *inputs: ArrayLike) -> Any:
        """What the model would give, as arrays. Raises ``ModelError`` for shapes not saved, and other dtypes."""
        arrays = [_checked(i, x) for i, x in enumerate(inputs)]
        shapes = tuple(x.shape for x in arrays)
        forward = self._forwards.get(shapes)
        if forward is None:
            raise ModelError(
                "the inputs of a saved program",
                given=", ".join(map(str, shapes)) or "nothing",
                expected=" or ".join(", ".join(map(str, known)) for known in self.shapes),
                remedy="Call Program.prepare with such inputs before Program.save.",
            )
        values = dict(forward.constants)
        values |= {name: x for (name, _), x in zip(forward.inputs, arrays, strict=True)}
        environment = Environment(values, forward.shapes, forward.views, np.stack)
        for native in self._compiled(forward):
            given = [_dense(environment[name], is_last) for name, is_last in native.given]
            made = {name: np.empty(shape, np.float32) for name, shape in native.made}
            native([x.ctypes.data for x in (*given, *made.values())])
            environment.update(made)
        return _outputs(forward.outputs, environment)

    def _compiled(self, forward: Saved) -> tuple[NativeNetwork, ...]:
        with self._preparing:
            if id(forward) not in self._natives:
                self._natives[id(forward)] = tuple(
                    NativeNetwork(each, forward.shapes, self.isa, self.threads, self._tuner, frozenset(forward.last))
                    for each in forward.networks
                )
        return self._natives[id(forward)]


def checked_threads(threads: int | None, where: str, otherwise: int) -> int:
    """A number of threads that was given, or ``otherwise``."""
    if threads is None:
        return otherwise
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ModelError(where, given=f"threads={threads!r}", expected="a whole number from 1 up")
    return threads


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _checked(position: int, x: ArrayLike) -> Floats:
    array = np.asarray(x)
    if array.dtype != np.float32:
        where = f"input {position} of the program"
        raise ModelError(where, given=array.dtype, expected="float32", remedy="Convert it with .astype.")
    return array


def _dense(x: Floats, is_last: bool) -> Floats:
    """In row-major order, or with the channels behind the pixels."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if is_last else np.ascontiguousarray(x)


def _outputs(tree: Any, environment: Environment) -> Any:
    if isinstance(tree, Output):
        return tree.of(environment[tree.name])
    if isinstance(tree, dict):
        return {key: _outputs(item, environment) for key, item in tree.items()}
    return type(tree)(_outputs(item, environment) for item in tree) if isinstance(tree, list | tuple) else tree
