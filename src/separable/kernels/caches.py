"""The caches of this machine. In: what the system says of them. Out: bytes."""

from __future__ import annotations

import contextlib
from functools import cache
from pathlib import Path

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
UNKNOWN = 32 * 1024 * 1024  # where the system does not say: more than most have for a core


@cache
def last_cache_bytes(caches: Path = CACHES) -> int:
    """Bytes of the largest cache that the first core can use, shared or its own."""
    found = []
    for path in caches.glob("index*/size"):
        with contextlib.suppress(OSError, ValueError):
            found.append(int(path.read_text(encoding="ascii").strip().removesuffix("K")) * 1024)
    return max(found, default=UNKNOWN)
