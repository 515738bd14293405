"""A training on disk. In: the state of a run. Out: a file that is whole or absent, and that state again."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from separable.errors import FileError
from separable.files import written_whole

FORMAT = 1  # to be raised whenever the same run would come to other weights


def save_checkpoint(path: Path, run: str, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings, lists and dicts of them) of the run named ``run``, in one step."""
    with written_whole(path) as temporary:
        torch.save({"separable": FORMAT, "run": run, "state": state}, temporary)


def load_checkpoint(path: Path, run: str) -> dict[str, Any] | None:
    """The state that was saved; None where there is no file. ``FileError`` for a damaged file or one of another run."""
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # torch reads past a flipped bit; the sums in the archive do not
            damaged = archive.testzip()
        content = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # there is no end to what a few wrong bytes make the readers raise
        raise FileError(str(path), given=error, expected="a checkpoint", remedy=REMEDY) from error
    if not isinstance(content, dict) or content.get("separable") != FORMAT:
        raise FileError(str(path), given="a damaged or foreign file", expected="a checkpoint", remedy=REMEDY)
    if content["run"] != run:
        given = "a checkpoint of another model, other data or other options"
        raise FileError(str(path), given=given, expected="one of this run", remedy=REMEDY)
    state: dict[str, Any] = content["state"]
    return state


REMEDY = "Delete the file, or name another one."


def fingerprint(parts: Sequence[Tensor | nn.Module], *rest: object) -> str:
    """A name for a run: the same when all the tensors, and the ``repr`` of everything else, are the same."""
    digest = hashlib.sha256(repr(rest).encode())
    for part in parts:
        for tensor in [part] if isinstance(part, Tensor) else [*part.parameters(), *part.buffers()]:
            digest.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
