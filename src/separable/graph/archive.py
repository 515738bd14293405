"""A .pt2 file as plain values. In: the path of a file that torch.export.save wrote. Out: its JSON and its tensors."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import sys
import warnings
import zipfile
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from separable.errors import FileError

# torch/_export/serde/schema.py, ScalarType.
DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    9: torch.complex32,
    10: torch.complex64,
    11: torch.complex128,
    12: torch.bool,
    13: torch.bfloat16,
}
SCHEMA_MAJOR = 8  # of the same file
EXPECTED = "a .pt2 file written by torch.export.save"
REMEDY = "Load it with torch.export.load where you trust it, and save it again with this version of PyTorch."


@dataclass(frozen=True, kw_only=True)
class Archive:
    """What a .pt2 file holds: the graph as JSON, the tensors by name (on the CPU), and the inputs it was made with."""

    where: str
    graph_module: dict[str, Any]
    tensors: dict[str, Tensor]
    example: Any


def read_archive(path: str | os.PathLike[str]) -> Archive:
    """Read a .pt2 file without running anything that it holds.

    ``torch.export.load`` unpickles parts of the file, evaluates its symbolic expressions and loads compiled code in it;
    this reader takes JSON and raw bytes only, and older pickled tensors with ``weights_only=True``. ``FileError`` for
    every other file.
    """
    where = os.fspath(path)
    try:
        with zipfile.ZipFile(where) as file:
            return _Reader(where, file).archive()
    except OSError as error:
        raise FileError(where, given=error.strerror or error, expected=EXPECTED) from error
    except zipfile.BadZipFile as error:
        raise FileError(where, given="no zip archive, or a damaged one", expected=EXPECTED) from error
    except (KeyError, TypeError, AttributeError, IndexError, UnicodeDecodeError, json.JSONDecodeError) as error:
        given = f"an archive that is not understood ({error!r})"
        raise FileError(where, given=given, expected=EXPECTED, remedy=REMEDY) from error


class _Reader:
    def __init__(self, where: str, file: zipfile.ZipFile) -> None:
        self.where = where
        self.file = file
        # Everything lies in one folder, which has the name of the file when it was saved.
        self.names = {name.partition("/")[2]: name for name in file.namelist()}
        self.storages: dict[tuple[str, torch.dtype], Tensor] = {}

    def archive(self) -> Archive:
        models = [name for name in self.names if name.startswith("models/") and name.endswith(".json")]
        if len(models) != 1 or self._bytes("archive_format") != b"pt2":
            raise FileError(self.where, given=f"{len(models)} exported programs", expected=EXPECTED, remedy=REMEDY)
        if self._bytes("byteorder").decode() != sys.byteorder:
            raise FileError(self.where, given="another byte order", expected=f"{sys.byteorder}-endian numbers")
        program, name = self._json(models[0]), models[0][len("models/") : -len(".json")]
        major = program["schema_version"]["major"]
        if major != SCHEMA_MAJOR:
            raise FileError(self.where, given=f"schema {major}", expected=f"schema {SCHEMA_MAJOR}", remedy=REMEDY)
        return Archive(
            where=self.where,
            graph_module=program["graph_module"],
            tensors={**self._tensors("weights", name), **self._tensors("constants", name)},
            example=self._example(name),
        )

    def _tensors(self, folder: str, model: str) -> dict[str, Tensor]:
        legacy = f"data/{folder}/{model}.pt"
        if legacy in self.names:
            return dict(self._unpickled(legacy))
        config = self._json(f"data/{folder}/{model}_{folder}_config.json")["config"]
        # Names that point at one place hold one tensor: tied weights stay tied.
        tied: dict[str, Tensor] = {}
        found: dict[str, Tensor] = {}
        for name, payload in config.items():
            place = json.dumps(payload, sort_keys=True)
            if place not in tied:
                tied[place] = self._tensor(f"data/{folder}/{payload['path_name']}", payload)
            found[name] = tied[place]
        return found

    def _tensor(self, file: str, payload: dict[str, Any]) -> Tensor:
        meta = payload["tensor_meta"]
        tensor = self._unpickled(file) if payload["use_pickle"] or meta is None else self._view(file, meta)
        if not isinstance(tensor, Tensor):
            raise FileError(self.where, given=f"a {type(tensor).__name__} in {file}", expected="a tensor")
        if payload["is_param"] and not isinstance(tensor, nn.Parameter):
            return nn.Parameter(tensor, requires_grad=meta["requires_grad"])
        return tensor

    def _view(self, file: str, meta: dict[str, Any]) -> Tensor:
        size, stride = ([entry["as_int"] for entry in meta[name]] for name in ("sizes", "strides"))
        offset, dtype = meta["storage_offset"]["as_int"], DTYPES[meta["dtype"]]
        storage = self._storage(file, dtype)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if min([*size, *stride, offset]) < 0 or (math.prod(size) and last >= len(storage)):
            raise FileError(self.where, given=f"{len(storage)} numbers in {file}", expected=f"a tensor {size}")
        return storage.as_strided(size, stride, offset)

    def _storage(self, file: str, dtype: torch.dtype) -> Tensor:
        # Tensors that are views of one storage were saved as one file.
        if (file, dtype) not in self.storages:
            content = bytearray(self._bytes(file))
            whole = len(content) // dtype.itemsize
            storage = torch.frombuffer(content, dtype=dtype, count=whole) if whole else torch.empty(0, dtype=dtype)
            self.storages[file, dtype] = storage
        return self.storages[file, dtype]

    def _example(self, model: str) -> Any:
        file = f"data/sample_inputs/{model}.pt"
        if not self.names.get(file) or not self._bytes(file):
            return None
        args, kwargs = self._unpickled(file)
        if args and kwargs:
            return None
        return args[0] if len(args) == 1 else tuple(args) or dict(kwargs) or None

    def _unpickled(self, file: str) -> Any:
        try:
            with warnings.catch_warnings(action="ignore"):  # about pickle protocols: what matters is raised
                return torch.load(io.BytesIO(self._bytes(file)), weights_only=True, map_location="cpu")
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            given = f"{file}, a pickle of more than tensors"
            raise FileError(self.where, given=given, expected="tensors only", remedy=REMEDY) from error

    def _json(self, name: str) -> dict[str, Any]:
        value = json.loads(self._bytes(name))
        if not isinstance(value, dict):
            raise FileError(self.where, given=f"{name} is a {type(value).__name__}", expected=EXPECTED)
        return value

    def _bytes(self, name: str) -> bytes:
        if name not in self.names:
            raise FileError(self.where, given=f"an archive without {name}", expected=EXPECTED, remedy=REMEDY)
        return self.file.read(self.names[name])
