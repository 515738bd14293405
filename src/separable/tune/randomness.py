"""Random numbers that can be had again. In: what they depend on. Out: a generator, or a block in which they do."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seeded(*parts: object) -> torch.Generator:
    """A generator whose numbers depend on the parts, and on nothing else."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)


@contextmanager
def randomness(device: torch.device, *parts: object) -> Iterator[None]:
    """Inside the block the global random numbers depend on the parts alone; afterwards they are as they were.

    Those of torch, on the CPU and the device, of NumPy and of Python: a person's augmentation may draw from any.
    """
    seed = seeded(*parts).initial_seed()
    numbers, own = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numbers)
            random.setstate(own)
