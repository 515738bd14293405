"""Where samples come from. In: tensors, a generator, Dataset, DataLoader or function. Out: one way to read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, RandomSampler, SequentialSampler, default_collate

from separable.errors import DataError
from separable.tune.batch import Batch, Form, join
from separable.tune.randomness import seeded

ONE_SHOT_BYTES = 2 << 30  # of a generator, which can be read only once and must therefore be kept
PLAIN_ORDERS = (RandomSampler, SequentialSampler, DistributedSampler)
REMEDY = "Give a tensor, an array, a list, a Dataset, a DataLoader, or a function that returns an iterator."


class Source(Protocol):
    """Samples, picked by index when ``samples`` is known, else as batches in their own order."""

    @property
    def samples(self) -> int | None:
        """How many; None for a stream."""

    def read(self, picks: Iterable[Sequence[int]]) -> Iterator[Batch]:
        """One batch for each list of indices; a stream takes none and gives what it has."""


@dataclass(frozen=True)
class Rows:
    """Samples in memory."""

    kept: Batch

    @property
    def samples(self) -> int:
        return self.kept.samples

    def read(self, picks: Iterable[Sequence[int]]) -> Iterator[Batch]:
        return (self.kept.rows(torch.as_tensor(rows)) for rows in picks)


@dataclass(frozen=True)
class Indexed:
    """A dataset whose samples are made when they are asked for, by ``workers`` processes if there are any."""

    dataset: Dataset[Any]
    collate: Collate
    workers: int

    @property
    def samples(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # torch's Dataset promises no length; those here have one

    def read(self, picks: Iterable[Sequence[int]]) -> Iterator[Batch]:
        loader = DataLoader(
            self.dataset,
            batch_sampler=picks,  # type: ignore[arg-type]  # any iterable of lists will do
            collate_fn=self.collate,
            num_workers=self.workers,
            generator=seeded("workers"),  # or the loader would draw from, and so change, the global one
        )
        for index, item in enumerate(loader):
            if isinstance(item, DataError):
                raise _within(f"batch {index}", item)
            yield item


@dataclass(frozen=True)
class Collate:
    """Samples into a batch, through the loader's own function if it has one.

    An error is returned, not raised: on its way out of a worker process it would lose its type.
    """

    form: Form
    own: Callable[[list[Any]], Any] | None = None

    def __call__(self, samples: list[Any]) -> Batch | DataError:
        try:
            if self.own is not None:
                return self.form.read(self.own(samples))
            return join([_read(self.form, sample, f"sample {index}") for index, sample in enumerate(samples)])
        except DataError as error:
            return error


@dataclass(frozen=True)
class Stream:
    """Batches or samples that come in their own order, from the start each time."""

    open: Callable[[], Iterator[Any]]
    form: Form
    samples: None = None

    def read(self, picks: Iterable[Sequence[int]]) -> Iterator[Batch]:  # noqa: ARG002
        return (_read(self.form, item, f"batch {index}") for index, item in enumerate(self.open()))


def source_of(data: Any, form: Form, limit: int | None) -> Source:
    """The way to read ``data``; a generator is read to its end, or to ``limit`` samples, here and now."""
    if isinstance(data, Tensor | np.ndarray | Mapping | tuple):
        return Rows(_read(form, data))
    if isinstance(data, list):
        return Rows(_joined(form, Stream(lambda: iter(data), form).read(())))
    if isinstance(data, Iterator):
        return Rows(_joined(form, _bounded(cut(Stream(lambda: data, form).read(()), limit))))
    if isinstance(data, DataLoader):
        return _of_loader(data, form)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, str | bytes):
        return Indexed(data, Collate(form), workers=0)
    if isinstance(data, Iterable) and not isinstance(data, str | bytes):
        return Stream(lambda: iter(data), form)
    if callable(data):
        return Stream(lambda: iter(data()), form)
    raise DataError("data", given=f"a {type(data).__name__}", expected="inputs", remedy=REMEDY)


def cut(batches: Iterator[Batch], limit: int | None) -> Iterator[Batch]:
    """The batches up to ``limit`` samples; the source is not asked for more."""
    left = limit
    while left is None or left > 0:
        batch = next(batches, None)
        if batch is None:
            return
        yield batch.rows(slice(left))
        left = None if left is None else left - batch.samples


def _of_loader(loader: DataLoader[Any], form: Form) -> Source:
    # A loader with a sampler of its own, or without a batch size, has reasons for its order. (A DistributedSampler has
    # none: sharing among processes is done here.)
    if loader.batch_size is None or not isinstance(loader.sampler, PLAIN_ORDERS):
        return Stream(lambda: iter(loader), form)
    own = None if loader.collate_fn is default_collate else loader.collate_fn
    return Indexed(loader.dataset, Collate(form, own), loader.num_workers)


def _bounded(batches: Iterator[Batch]) -> Iterator[Batch]:
    kept = 0
    for batch in batches:
        kept += batch.bytes
        if kept > ONE_SHOT_BYTES:
            given = f"a generator of more than {ONE_SHOT_BYTES >> 20:,} MiB, all of which would have to be kept"
            remedy = "Give limit=, or hand over the function that makes the generator."
            raise DataError("data", given=given, expected="less", remedy=remedy)
        yield batch


def _joined(form: Form, batches: Iterator[Batch]) -> Batch:
    kept = list(batches)
    if not kept:
        raise empty(form)
    return join(kept)


def empty(form: Form) -> DataError:
    """The error for data without a single sample."""
    return DataError("data", given="no samples", expected=f"at least one {form}")


def _read(form: Form, item: Any, place: str = "") -> Batch:
    try:
        return form.read(item)
    except DataError as error:
        raise _within(place or "data", error) from None


def _within(place: str, error: DataError) -> DataError:
    where = ", ".join(filter(None, [place, error.where]))
    return DataError(where, given=error.given, expected=error.expected, remedy=error.remedy)
