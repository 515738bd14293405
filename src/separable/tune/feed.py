"""What a network is trained on. In: whatever gives batches, an epoch at a time. Out: all of them, from any step on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from separable.errors import DataError
from separable.tune.batch import Batch
from separable.tune.batches import Batches, whole_share
from separable.tune.randomness import randomness, seeded
from separable.tune.sources import PLAIN_ORDERS

Feedable = Batches | Iterable[Any] | Callable[[int], Iterable[Any]]
"""Labelled ``Batches``; a list, DataLoader or other re-iterable of (inputs, targets); or a function of the epoch that
returns one."""

REMEDY = "Give a list, a DataLoader, or a function that takes the number of the epoch and returns an iterable."
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Feed:
    """``steps`` batches an epoch, which ``open`` gives, the same each time it is asked for the same epoch."""

    open: Callable[[int], Iterable[Any]]
    steps: int
    seed: int
    shared: Batches | None = None  # what reads only the share of a process

    def batches(self, start: int, *, rank: int = 0, processes: int = 1) -> Iterator[Batch]:
        """Without end, this process's share of every batch from step ``start`` on; ``DataError`` names the batch."""
        if self.shared is not None:
            shares = self.shared.for_training(self.seed, start=start, rank=rank, processes=processes)
            return (_read(batch, f"step {step}") for step, batch in enumerate(shares, start))
        epochs = itertools.chain.from_iterable(map(self.epoch, itertools.count(start // self.steps)))
        whole = itertools.islice(epochs, start % self.steps, None)
        return (b.rows(slice(whole_share(b.samples, processes))).rows(slice(rank, None, processes)) for b in whole)

    def epoch(self, number: int) -> Iterator[Batch]:
        """The whole batches of an epoch."""
        with randomness(CPU, "epoch", self.seed, number):
            reading = iter(self.open(number))
        for index in itertools.count():
            # Whatever is drawn on the way to a batch is drawn the same again, wherever a run goes on from.
            with randomness(CPU, "batch", self.seed, number, index):
                item = next(reading, END)
            if (item is END) != (index == self.steps):
                given = f"{'more than ' * (item is not END)}{index} batches"
                raise DataError(f"epoch {number}", given=given, expected=f"{self.steps}, as in the first")
            if item is END:
                return
            yield _read(item, f"epoch {number}, batch {index}")


END = object()


def feed_of(data: Any, seed: int) -> Feed:
    """How to read ``data``; ``DataError`` for what is empty, can be read only once, or is no data at all.

    A list comes in a new order each epoch, drawn from ``seed``; so does what a DataLoader reads, which lends its
    dataset, batch size, collate function and workers, unless it has a sampler of its own. All else keeps its own order.
    Where the length of an epoch is not to be had, the first one is read to count it.
    """
    if isinstance(data, Batches) and data.samples is not None:
        steps = data.samples // min(data.batch_size, data.samples)
        opened = lambda epoch: itertools.islice(data.for_training(seed, start=epoch * steps), steps)  # noqa: E731
        return Feed(opened, steps, seed, shared=data)
    opened = _opener(data, seed)
    with randomness(CPU, "epoch", seed, 0):
        first = opened(0)
        steps = len(first) if hasattr(first, "__len__") else sum(1 for _ in first)
    if not steps:
        raise DataError("data", given="no batches", expected="at least one")
    return Feed(opened, steps, seed)


def _opener(data: Any, seed: int) -> Callable[[int], Any]:
    if isinstance(data, list):
        return lambda epoch: [data[i] for i in _order(len(data), seed, epoch)]
    if isinstance(data, DataLoader) and data.batch_size is not None and isinstance(data.sampler, PLAIN_ORDERS):
        return lambda epoch: _reordered(data, seed, epoch)
    if isinstance(data, Iterable) and not isinstance(data, Iterator | Mapping | Tensor | str | bytes):
        return lambda _: data
    if callable(data):
        return lambda epoch: data(epoch)
    raise DataError("data", given=f"a {type(data).__name__}", expected="batches, epoch by epoch", remedy=REMEDY)


def _order(count: int, seed: int, epoch: int) -> list[int]:
    return torch.randperm(count, generator=seeded("order", seed, epoch)).tolist()


def _reordered(loader: DataLoader[Any], seed: int, epoch: int) -> DataLoader[Any]:
    dataset, size = loader.dataset, loader.batch_size or 1
    order = _order(len(dataset), seed, epoch)  # type: ignore[arg-type]  # torch's Dataset promises no length
    picks = [order[start : start + size] for start in range(0, len(order), size)]
    if loader.drop_last and picks and len(picks[-1]) < size:
        picks.pop()
    return DataLoader(
        dataset,
        batch_sampler=picks,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
        generator=seeded("workers", seed, epoch),
    )


def _read(item: Any, where: str) -> Batch:
    if isinstance(item, Batch):
        batch = item
    elif isinstance(item, tuple | list) and len(item) == 2:
        inputs, labels = item
        names = tuple(inputs) if isinstance(inputs, Mapping) else None
        several = inputs.values() if isinstance(inputs, Mapping) else inputs
        batch = Batch(inputs=tuple(several) if isinstance(inputs, SEVERAL) else (inputs,), names=names, labels=labels)
    else:
        given = f"a {type(item).__name__}{f' of {len(item)}' if isinstance(item, tuple | list) else ''}"
        raise DataError(where, given=given, expected="a pair (inputs, targets)", remedy=PAIR_REMEDY)
    if not batch.inputs or not all(isinstance(tensor, Tensor) and tensor.dim() for tensor in batch.inputs):
        given = ", ".join(type(part).__name__ for part in batch.inputs) or "nothing"
        raise DataError(where, given=given, expected="inputs that are a tensor (n, ...), or a tuple or dict of them")
    if not batch.samples or batch.labels is None:
        given = "inputs alone" if batch.samples else "no samples"
        raise DataError(where, given=given, expected="samples and targets in every batch")
    return batch


SEVERAL = (Mapping, tuple, list)
PAIR_REMEDY = "separable.read_batches makes batches of arrays of inputs and labels."
