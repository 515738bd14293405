"""Several processes that train one model. In: what torchrun says in the environment. Out: a group they can talk in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from separable.errors import SeparableError

Value = TypeVar("Value")


@contextmanager
def process_group() -> Iterator[None]:
    """Inside it ``train``, ``distill`` and ``shrink`` share their work with the other processes of torchrun, if any.

    For scripts and the command line. With CUDA each process takes the GPU of its local rank as its current one; the
    models have to be moved there. A group that is there already is used and left as it is.
    """
    if dist.is_initialized() or not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def place() -> tuple[int, int]:
    """This process's rank, and how many there are; (0, 1) without a group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def is_first() -> bool:
    """Whether this process is the one that measures, writes files and prints."""
    return place()[0] == 0


def average_(tensor: Tensor) -> Tensor:
    """The mean over the processes, in place."""
    _, processes = place()
    if processes > 1:
        dist.all_reduce(tensor)
        tensor /= processes
    return tensor


def told_by_first(work: Callable[[], Value]) -> Value:
    """What ``work`` gives, or raises, in the first process; the others do nothing but hear it."""
    rank, processes = place()
    if processes == 1:
        return work()
    said: list[object] = [None]
    if rank == 0:
        try:
            said = [work()]
        except SeparableError as error:
            said = [error]
    dist.broadcast_object_list(said)
    if isinstance(said[0], SeparableError):
        raise said[0]
    return said[0]  # type: ignore[return-value]
