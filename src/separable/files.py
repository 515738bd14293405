"""Files that are whole or absent. In: a path. Out: a checked path, and a write that replaces the file in one step."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from separable.errors import FileError


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path to write to; on leaving it becomes ``path``, on an error or Ctrl-C it is removed.

    Raises FileError where ``path`` cannot be written.
    """
    target = checked_writable(path)
    temporary = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
        temporary = Path(name)
        os.close(handle)
        yield temporary
        # mkstemp makes the file private; the finished one gets the permissions that a plain open would give.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        raise FileError(str(target), given=error.strerror or error, expected="a file that can be written") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def checked_writable(path: str | os.PathLike[str]) -> Path:
    """``path`` as a Path; FileError when no file could be written there. To be asked before the work, not after."""
    target = Path(path)
    if target.is_dir():
        raise FileError(str(target), given="a folder", expected="the path of a file")
    if not target.parent.is_dir():
        raise FileError(str(target), given=f"no folder {target.parent}", expected="a file in an existing folder")
    if not os.access(target.parent, os.W_OK) or (target.exists() and not os.access(target, os.W_OK)):
        raise FileError(str(target), given="no permission to write", expected="a writable place")
    return target


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
