"""Data to tune on. In: whatever people hand over. Out: checked batches that can be read again, always the same."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader

from separable.errors import DataError
from separable.tune.batch import Batch, Form, join
from separable.tune.randomness import seeded
from separable.tune.sources import Rows, Source, cut, empty, source_of

BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Samples to read in batches of ``batch_size`` (the last may be smaller), as often as is needed.

    ``rows`` are those of the source that are used, in order; None for a stream, which is read up to ``limit`` samples.
    """

    source: Source
    form: Form
    batch_size: int
    rows: Sequence[int] | None
    limit: int | None = None

    @property
    def samples(self) -> int | None:
        """How many; None when only reading to the end would tell."""
        return None if self.rows is None else len(self.rows)

    def __iter__(self) -> Iterator[Batch]:
        """Every sample once, in order."""
        if self.rows is None:
            return _regroup(cut(self.source.read(()), self.limit), self.batch_size)
        starts = range(0, len(self.rows), self.batch_size)
        return self.source.read(list(self.rows[start : start + self.batch_size]) for start in starts)

    def limited(self, limit: int) -> Batches:
        """At most ``limit`` samples: where they can be counted the same random ones each time, else the first."""
        if self.rows is None:
            return replace(self, limit=min(limit, self.limit or limit))
        if len(self.rows) <= limit:
            return self
        # Random, because data often lies sorted by class.
        drawn = torch.randperm(len(self.rows), generator=seeded("limit"))[:limit].sort().values.tolist()
        return replace(self, rows=[self.rows[index] for index in drawn])

    def split(self, share: float, seed: int) -> tuple[Batches, Batches]:
        """All but a share, and that share, drawn from ``seed``; at least one sample in each, or ``DataError``."""
        if self.rows is None:
            remedy = "Give data that has a length."
            raise DataError("data", given="a stream", expected="samples that can be counted, to split", remedy=remedy)
        count = round(share * len(self.rows))
        if not 0 < count < len(self.rows):
            given = f"a share of {share} of {len(self.rows)} samples"
            raise DataError("data", given=given, expected="at least one sample in either part")
        order = torch.randperm(len(self.rows), generator=seeded("split", seed)).tolist()
        kept, taken = ([self.rows[index] for index in sorted(part)] for part in (order[count:], order[:count]))
        return replace(self, rows=kept), replace(self, rows=taken)

    def in_memory(self) -> Batches:
        """The same batches, read once and kept."""
        kept = join(list(self))
        return replace(self, source=Rows(kept), rows=range(kept.samples), limit=None)

    def for_training(self, seed: int, *, start: int = 0, rank: int = 0, processes: int = 1) -> Iterator[Batch]:
        """Without end, this process's share of every batch from number ``start`` on.

        Each epoch has its own order, drawn from ``seed``, and drops what does not fill a batch of all the processes
        together. A stream keeps its own order.
        """
        if self.rows is None:
            whole = itertools.islice(self._repeated(processes), start, None)
            return (batch.rows(slice(rank, None, processes)) for batch in whole)
        size = whole_share(min(self.batch_size, len(self.rows)), processes)
        return self.source.read(rows[rank::processes] for rows in _shuffled(self.rows, size, seed, start))

    def __str__(self) -> str:
        count = "a stream" if self.samples is None else f"{self.samples:,} samples"
        return f"{count} of {self.form} in batches of {self.batch_size}"

    def _repeated(self, processes: int) -> Iterator[Batch]:
        while True:
            first = None
            for batch in self:
                first = first or batch
                if batch.samples == first.samples:
                    yield batch.rows(slice(whole_share(batch.samples, processes)))
            if first is None:
                raise empty(self.form)


def read_batches(data: Any, example: Any, *, batch_size: int | None = None, limit: int | None = None) -> Batches:
    """Make batches of what people hand over, checked against the example: shape but for n, dtype, finite values.

    ``data`` is a tensor or array (n, ...); a tuple (inputs, labels); a dict of tensors; a list or a generator of
    samples or batches, which is kept in memory; a torch Dataset or DataLoader; a function without arguments that
    returns an iterator. ``batch_size`` is the DataLoader's own, or 64. Raises ``DataError``, which names the batch.

    A DataLoader lends its dataset, its collate function and its workers; the order is ours, so that it can be
    repeated. One with a sampler of its own is read as the stream that it is.
    """
    for name, number in (("batch_size", batch_size), ("limit", limit)):
        if number is not None and (not isinstance(number, int) or number < 1):
            raise DataError(name, given=number, expected="a positive whole number")
    form = Form.of(example)
    if isinstance(data, Batches):
        batches = replace(data, batch_size=batch_size or data.batch_size)
    else:
        source = source_of(data, form, limit)
        size = batch_size or (data.batch_size if isinstance(data, DataLoader) else None) or BATCH_SIZE
        rows = None if source.samples is None else range(source.samples)
        batches = Batches(source=source, form=form, batch_size=size, rows=rows)
    if str(batches.form) != str(form):
        raise DataError("data", given=f"batches of {batches.form}", expected=str(form))
    # The first sample is read now: what is wrong with all of them is found before the work, not in the middle of it.
    if next(iter(replace(batches, batch_size=1)), None) is None:
        raise empty(form)
    return batches if limit is None else batches.limited(limit)


def _regroup(batches: Iterator[Batch], size: int) -> Iterator[Batch]:
    """The same samples in batches of ``size``."""
    waiting: list[Batch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(part.samples for part in waiting) >= size:
            together = join(waiting)
            whole = together.samples // size * size
            yield from (together.rows(slice(start, start + size)) for start in range(0, whole, size))
            waiting = [together.rows(slice(whole, None))] if whole < together.samples else []
    if waiting and (rest := join(waiting)).samples:
        yield rest


def _shuffled(rows: Sequence[int], size: int, seed: int, start: int) -> Iterator[list[int]]:
    per_epoch = len(rows) // size
    epoch, order = -1, torch.empty(0)
    for step in itertools.count(start):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = torch.randperm(len(rows), generator=seeded("order", seed, epoch))
        place = step % per_epoch * size
        yield [rows[index] for index in order[place : place + size].tolist()]


def whole_share(samples: int, processes: int) -> int:
    """The largest batch of at most ``samples`` that the processes can divide among them."""
    if samples < processes:
        raise DataError("data", given=f"a batch of {samples}", expected=f"one sample for each of {processes} processes")
    return samples // processes * processes
