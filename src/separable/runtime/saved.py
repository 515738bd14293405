"""Programs in a file. In: networks of operators, and what their callers see. Out: one safetensors file, and back.

The arrays are the file's tensors, each once; all else is JSON in its metadata. Nothing in it depends on the processor.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from separable.errors import FileError
from separable.files import written_whole
from separable.kernels.epilogue import Activation
from separable.kernels.resampling import Axis
from separable.runtime import network
from separable.spec import ConvSpec

Array = NDArray[Any]
FORMAT = "separable program 1"


@dataclass(frozen=True, kw_only=True)
class Output:
    """A value that is returned: cut into ``parts``, these in another ``order``, joined to ``shape``."""

    name: str
    parts: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, ...]

    def of(self, value: Array) -> Array:
        """The value as the caller sees it."""
        return value.reshape(self.parts).transpose(self.order).reshape(self.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class Saved:
    """A forward for inputs of these shapes, native as a whole.

    ``inputs``: name and shape of each argument. ``shapes`` and ``views`` are the environment's, ``last`` the inputs
    that come with their channels last. ``outputs``: lists, tuples and dicts of ``Output`` and plain values.
    """

    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    constants: Mapping[str, Array]
    networks: tuple[network.Network, ...]
    shapes: Mapping[str, tuple[int, ...]]
    views: Mapping[str, tuple[str, tuple[int, ...]]]
    last: tuple[str, ...]
    outputs: Any


CLASSES: dict[str, type] = {
    each.__name__: each
    for each in (Saved, Output, network.Network, network.Node, *network.Operator.__args__, ConvSpec, Activation, Axis)
}


def write(path: str | Path, forwards: Sequence[Saved]) -> None:
    """Raises ``FileError`` where the file cannot be written."""
    arrays: dict[str, Array] = {}
    told = json.dumps([_told(forward, arrays) for forward in forwards])
    with written_whole(path) as whole:
        save_file(arrays, whole, metadata={"format": FORMAT, "forwards": told})


def read(path: str | Path) -> tuple[Saved, ...]:
    """What ``write`` wrote. The weights of convolutions stay in the file until they are asked for.

    Raises ``FileError`` for a file that is something else, or damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise FileError(str(path), given=metadata.get("format", "other tensors"), expected=f"a {FORMAT!r}")
            found: list[Saved] = [_value(forward, Path(path), file) for forward in json.loads(metadata["forwards"])]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(str(path), given=error, expected="a file written by Program.save") from error
    return tuple(found)


@dataclass(frozen=True)
class Stored:
    """An array that is read from its file each time that it is asked for."""

    path: Path
    key: str

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        with safe_open(self.path, framework="numpy") as file:
            found: Array = file.get_tensor(self.key)
        return found if dtype is None else found.astype(dtype, copy=False)


def _told(value: Any, arrays: dict[str, Array]) -> Any:
    """``value`` in words that JSON has; its arrays are added to ``arrays``, named by what they hold."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: _told(getattr(value, field.name), arrays) for field in dataclasses.fields(value)}
        return {"a": type(value).__name__, **fields}
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value).reshape(value.shape)
        key = hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest()
        arrays[key] = array
        return {"array": key}
    if isinstance(value, Mapping):
        return {"map": [[_told(key, arrays), _told(item, arrays)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_told(item, arrays) for item in value]}
    if isinstance(value, list):
        return [_told(item, arrays) for item in value]
    return value


def _value(told: Any, path: Path, file: Any) -> Any:
    """What ``_told`` was told."""
    if isinstance(told, list):
        return [_value(item, path, file) for item in told]
    if not isinstance(told, dict):
        return told
    if "array" in told:
        return file.get_tensor(told["array"])
    if "map" in told:
        return {_value(key, path, file): _value(item, path, file) for key, item in told["map"]}
    if "tuple" in told:
        return tuple(_value(item, path, file) for item in told["tuple"])
    kind = CLASSES[told["a"]]
    stored = {"weight": Stored(path, told["weight"]["array"])} if kind is network.Convolve else {}
    fields = {name: _value(item, path, file) for name, item in told.items() if name not in ("a", *stored)}
    return kind(**fields, **stored)
