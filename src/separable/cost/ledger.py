"""In: what was timed, and its timing. Out: the timing again, for an equal key, in this process and in later ones."""

from __future__ import annotations

import json
import os
import sqlite3
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

from separable.cost.clock import Timing
from separable.cost.machine import cache_folder
from separable.errors import SeparableError, SeparableWarning

# Another process may be writing; that lasts milliseconds.
PATIENCE_S = 30.0
# SQLITE_ERROR: a database, but not of ours (no such table, no such column).
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)

T = TypeVar("T")


class Ledger:
    """Timings on disk; several processes may read and write them at once.

    A key is a mapping of plain values and of values with ``to_json``, and holds everything that the time depends on:
    specs, engine, machine, versions, threads, batch. The order of its entries does not matter. A damaged file is set
    aside with a warning and begun anew; where no file can be written, a warning says so and memory takes its place.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path) if path is not None else cache_folder() / "ledger.sqlite"
        self._memory: dict[str, str] | None = None

    def get(self, key: Mapping[str, Any]) -> Timing | None:
        """The timing last put under an equal key, or None."""
        text = _canonical(key)
        kept = self._on_disk(lambda file: _select(file, text)) if self._memory is None else self._memory.get(text)
        if kept is None:
            return None
        try:
            return Timing.from_json(json.loads(kept))
        except (ValueError, TypeError, KeyError) as error:
            self._warn(f"holds an entry that is no timing ({error}); it is left out")
            return None

    def put(self, key: Mapping[str, Any], timing: Timing) -> None:
        """Keeps ``timing``, in place of an earlier one under an equal key."""
        text, value = _canonical(key), json.dumps(timing.to_json())
        if self._memory is None:
            self._on_disk(lambda file: _insert(file, text, value))
        if self._memory is not None:
            self._memory[text] = value

    def _on_disk(self, act: Callable[[sqlite3.Connection], T]) -> T | None:
        """What ``act`` gives on the open file; None, and memory from now on, when there can be no file."""
        try:
            for _ in range(2):
                try:
                    return self._open(act)
                except sqlite3.DatabaseError as error:
                    if error.sqlite_errorcode & 0xFF not in DAMAGED:
                        raise
                    damage = error
                # Looked at twice: another process may have set the file aside in between.
            self._set_aside(damage)
            return self._open(act)
        except (sqlite3.Error, OSError) as error:
            self._memory = {}
            self._warn(f"cannot be used ({error}); timings are kept only until this process ends")
            return None

    def _open(self, act: Callable[[sqlite3.Connection], T]) -> T:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.path, timeout=PATIENCE_S)) as file, file:
            file.execute("CREATE TABLE IF NOT EXISTS timings (key TEXT PRIMARY KEY, timing TEXT NOT NULL)")
            return act(file)

    def _set_aside(self, damage: sqlite3.Error) -> None:
        aside = self.path.with_name(f"{self.path.name}.damaged-{os.getpid()}")
        # A journal left behind belongs to the damaged file and would be played into the new one.
        self.path.with_name(f"{self.path.name}-journal").unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            os.replace(self.path, aside)
        self._warn(f"is damaged ({damage}); it was set aside as {aside.name} and begun anew")

    def _warn(self, what: str) -> None:
        warnings.warn(f"{self.path} {what}.", SeparableWarning, stacklevel=2)


def _select(file: sqlite3.Connection, key: str) -> str | None:
    row = file.execute("SELECT timing FROM timings WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def _insert(file: sqlite3.Connection, key: str, timing: str) -> None:
    file.execute("INSERT OR REPLACE INTO timings VALUES (?, ?)", (key, timing))


def _canonical(key: Mapping[str, Any]) -> str:
    """Equal keys give equal text: names sorted, tuples as lists, no spaces."""
    try:
        return json.dumps(dict(key), sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise SeparableError("Ledger key", given=error, expected="plain values, or values with to_json") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if not hasattr(value, "to_json"):
        raise TypeError(f"{type(value).__name__} has no to_json")
    return value.to_json()
