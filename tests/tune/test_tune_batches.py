"""What read_batches promises. In: every form of data. Out: the same checked samples, or an error that helps."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    TensorDataset,
    WeightedRandomSampler,
)

from separable.errors import DataError
from separable.tune import Batches, read_batches, sources

IMAGES = torch.arange(10 * 2 * 3 * 3, dtype=torch.float32).reshape(10, 2, 3, 3)
LABELS = torch.arange(10)
EXAMPLE = IMAGES[:1]


class Streamed(IterableDataset[Any]):
    """Samples in order, no length."""

    def __iter__(self) -> Iterator[Any]:
        return zip(IMAGES, LABELS.tolist(), strict=True)


class Slow(Dataset[Any]):
    """A dataset that fails for one sample, as a damaged file would make it."""

    def __init__(self, bad: Any) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        return self.bad if index == 7 else (IMAGES[index], index)


def collate_dict(samples: list[Any]) -> dict[str, Tensor]:
    return {"pixels": torch.stack([image for image, _ in samples]), "label": torch.tensor([n for _, n in samples])}


def generated() -> Iterator[Tensor]:
    yield from IMAGES.split(4)


LABELLED = TensorDataset(IMAGES, LABELS)
FORMS: dict[str, Callable[[], Any]] = {
    "a tensor": lambda: IMAGES,
    "an array": lambda: IMAGES.numpy(),
    "a reversed read-only array": lambda: np.flip(np.flip(IMAGES.numpy(), 0).copy(), 0),
    "inputs and labels": lambda: (IMAGES, LABELS),
    "inputs and labels in arrays": lambda: (IMAGES.numpy(), LABELS.numpy()),
    "a dict": lambda: {"x": IMAGES, "label": LABELS},
    "a list of batches": lambda: list(IMAGES.split(4)),
    "a list of samples": lambda: list(IMAGES),
    "a list of labelled samples": lambda: list(zip(IMAGES, LABELS.tolist(), strict=True)),
    "a dataset": lambda: LABELLED,
    "a dataset of inputs": lambda: TensorDataset(IMAGES),
    "an iterable dataset": Streamed,
    "a loader": lambda: DataLoader(LABELLED, batch_size=4),
    "a loader that shuffles": lambda: DataLoader(LABELLED, batch_size=4, shuffle=True),
    "a loader for one of two processes": lambda: DataLoader(
        LABELLED, batch_size=4, sampler=DistributedSampler(LABELLED, num_replicas=2, rank=1)
    ),
    "a loader of dicts": lambda: DataLoader(LABELLED, batch_size=4, collate_fn=collate_dict),
    "a loader with workers": lambda: DataLoader(LABELLED, batch_size=4, num_workers=1),
    "a loader of a stream": lambda: DataLoader(Streamed(), batch_size=4),
    "a loader of whole batches": lambda: DataLoader(list(IMAGES.split(4)), batch_size=None),
    "a function": lambda: generated,
    "a generator": generated,
}


def all_of(batches: Batches) -> Tensor:
    return torch.cat([batch.inputs[0] for batch in batches])


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_all_samples_in_order_and_again(name: str) -> None:
    batches = read_batches(FORMS[name](), EXAMPLE, batch_size=3)
    for _ in range(2):
        assert [batch.samples for batch in batches] == [3, 3, 3, 1]
        assert torch.equal(all_of(batches), IMAGES)


@pytest.mark.parametrize("name", [name for name in FORMS if "label" in name or name.startswith(("a loader", "a dict"))])
def test_labels_come_along_where_there_are_some(name: str) -> None:
    if name == "a loader of whole batches":
        assert all(batch.labels is None for batch in read_batches(FORMS[name](), EXAMPLE))
        return
    labels = [batch.labels for batch in read_batches(FORMS[name](), EXAMPLE, batch_size=3)]
    assert torch.cat([label for label in labels if label is not None]).tolist() == list(range(10))


def test_labels_that_are_no_numbers_are_left_out() -> None:
    words = [(image, "cat") for image in IMAGES]
    assert next(iter(read_batches(words, EXAMPLE))).labels is None


def test_the_batch_size_is_the_loaders_own_unless_another_is_given() -> None:
    loader = DataLoader(LABELLED, batch_size=4)
    assert read_batches(loader, EXAMPLE).batch_size == 4
    assert read_batches(loader, EXAMPLE, batch_size=5).batch_size == 5
    assert read_batches(IMAGES, EXAMPLE).batch_size == 64


@pytest.mark.parametrize("name", FORMS)
def test_a_limit_gives_so_many_different_samples_and_always_the_same(name: str) -> None:
    batches = read_batches(FORMS[name](), EXAMPLE, batch_size=3, limit=7)
    first = all_of(batches)
    assert len(first) == len(first[:, 0, 0, 0].unique()) == 7
    assert torch.equal(all_of(batches), first)
    assert torch.equal(all_of(read_batches(FORMS[name](), EXAMPLE, limit=7)), first)


def test_a_limit_does_not_take_the_first_class_of_sorted_data() -> None:
    chosen = all_of(read_batches(torch.arange(1000.0).reshape(-1, 1), torch.zeros(1, 1), limit=50))
    assert chosen.min() < 100
    assert chosen.max() > 900


def test_batches_are_read_again_as_they_are_with_another_size_and_limit() -> None:
    batches = read_batches(IMAGES, EXAMPLE, batch_size=4)
    again = read_batches(batches, EXAMPLE, batch_size=2, limit=3)
    assert [batch.samples for batch in again] == [2, 1]
    with pytest.raises(DataError, match=r"expected float32\[n, 5\]"):
        read_batches(batches, torch.zeros(1, 5))


def test_keeping_in_memory_changes_nothing() -> None:
    calls = []

    def counted() -> Iterator[Tensor]:
        calls.append(1)
        yield from IMAGES

    kept = read_batches(counted, EXAMPLE, batch_size=3, limit=8).in_memory()
    before = len(calls)
    assert torch.equal(all_of(kept), IMAGES[:8])
    assert [batch.samples for batch in kept] == [3, 3, 2]
    assert len(calls) == before


def test_an_endless_function_is_read_no_further_than_the_limit() -> None:
    def endless() -> Iterator[Tensor]:
        while True:
            yield from IMAGES

    assert len(all_of(read_batches(endless, EXAMPLE, limit=25))) == 25
    assert len(all_of(read_batches(endless(), EXAMPLE, limit=25))) == 25


def test_a_generator_too_large_to_keep_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "ONE_SHOT_BYTES", IMAGES.nbytes - 1)
    with pytest.raises(DataError, match="Give limit="):
        read_batches(generated(), EXAMPLE)


class TwoInputs(nn.Module):
    """A model of two arguments."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left - right.sum(1, keepdim=True)


@pytest.mark.parametrize("labels", [(), (torch.arange(6),)])
@pytest.mark.parametrize("kind", ["tuple", "nested", "dict"])
def test_models_of_several_arguments_are_called_as_the_example_says(kind: str, labels: tuple[Tensor, ...]) -> None:
    left, right = torch.rand(6, 1), torch.rand(6, 3)
    example: Any = {"right": right[:1], "left": left[:1]} if kind == "dict" else (left[:1], right[:1])
    data: Any = {
        "tuple": (left, right, *labels),
        "nested": ((left, right), *labels),
        "dict": ({"left": left, "right": right}, *labels),
    }[kind]
    (batch,) = read_batches(data, example)
    assert torch.equal(batch.through(TwoInputs()), TwoInputs()(left, right))
    assert (batch.labels is None) == (labels == ())


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "another size": (lambda: torch.zeros(4, 2, 3, 4), r"got float32\[4, 2, 3, 4\]; expected float32\[n, 2, 3, 3\]"),
    "another size in the third batch": (
        lambda: [IMAGES[:4], IMAGES[4:], torch.zeros(4, 2, 5, 5)], r"batch 2: got float32\[4, 2, 5, 5\]",
    ),
    "another dtype": (lambda: IMAGES.double(), r"got float64.*Convert them to float32"),
    "bytes": (lambda: IMAGES.byte(), r"got uint8.*/ 255"),
    "NaN": (lambda: IMAGES.where(IMAGES != 3, torch.nan), "1 values that are NaN or infinite"),
    "infinity": (lambda: [IMAGES, IMAGES * torch.inf], "batch 1: got .* NaN or infinite"),
    "an empty tensor": (lambda: IMAGES[:0], "got no samples"),
    "an empty list": (list, "got no samples"),
    "an empty loader": (lambda: DataLoader(TensorDataset(IMAGES[:0])), "got no samples"),
    "an empty generator": (lambda: iter(()), "got no samples"),
    "a function that yields nothing": (lambda: lambda: iter(()), "got no samples"),
    "text": (lambda: "images/", "got a str.*Give a tensor"),
    "nothing": (lambda: None, "got a NoneType"),
    "a list of text": (lambda: ["a"], "batch 0: got a str; expected a tensor"),
    "an array of objects": (lambda: np.array([None, 1]), r"got object\[2\]; expected a tensor or an array of numbers"),
    "three parts": (lambda: [(IMAGES, LABELS, LABELS)], r"batch 0: got \(float32.*alone or with labels"),
    "a dict of two inputs": (lambda: {"a": IMAGES, "b": IMAGES}, "exactly one entry"),
    "labels of another length": (lambda: (IMAGES, LABELS[:9]), r"labels int64\[9\]; expected one for each of 10"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_refused_with_what_was_given_and_expected(name: str) -> None:
    make, message = BAD[name]
    with pytest.raises(DataError, match=message):
        read_batches(make(), EXAMPLE)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_sample_of_a_dataset_is_named_when_it_is_met(workers: int) -> None:
    loader = DataLoader(Slow((torch.zeros(2, 4, 4), 7)), batch_size=4, num_workers=workers)
    batches = read_batches(loader, EXAMPLE)
    with pytest.raises(DataError, match=r"batch 1, sample 3: got float32\[2, 4, 4\]; expected float32\[n, 2, 3, 3\]"):
        list(batches)


@pytest.mark.parametrize("argument", ["batch_size", "limit"])
@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_sizes_that_are_none_are_refused(argument: str, value: Any) -> None:
    with pytest.raises(DataError, match=f"{argument}: got {value}"):
        read_batches(IMAGES, EXAMPLE, **{argument: value})


@pytest.mark.parametrize("example", [None, torch.tensor(1.0), (), (torch.zeros(1, 2), 3)])
def test_an_example_that_is_none_is_refused(example: Any) -> None:
    with pytest.raises(DataError, match="example: got"):
        read_batches(IMAGES, example)


def firsts(stream: Iterator[Any], count: int) -> list[list[float]]:
    return [batch.inputs[0][:, 0, 0, 0].tolist() for batch in islice(stream, count)]


@pytest.mark.parametrize("name", ["a tensor", "a loader that shuffles", "a function"])
def test_training_reads_whole_batches_without_end_and_can_start_anywhere(name: str) -> None:
    batches = read_batches(FORMS[name](), EXAMPLE, batch_size=4)
    all_steps = firsts(batches.for_training(seed=1), 7)
    assert all(len(step) == 4 for step in all_steps)
    assert len({sample for step in all_steps[:2] for sample in step}) == 8
    assert firsts(batches.for_training(seed=1, start=3), 4) == all_steps[3:]


def test_each_epoch_and_each_seed_has_its_own_order() -> None:
    batches = read_batches(IMAGES, EXAMPLE, batch_size=5)
    steps = firsts(batches.for_training(seed=1), 4)
    assert steps[:2] != steps[2:]
    for epoch in (steps[:2], steps[2:]):
        assert sorted(epoch[0] + epoch[1]) == IMAGES[:, 0, 0, 0].tolist()
    assert firsts(batches.for_training(seed=2), 4) != steps


@pytest.mark.parametrize("name", ["a tensor", "a dataset", "a function"])
def test_processes_share_each_batch_of_the_single_process(name: str) -> None:
    batches = read_batches(FORMS[name](), EXAMPLE, batch_size=5)
    alone = firsts(read_batches(FORMS[name](), EXAMPLE, batch_size=4).for_training(seed=1), 2)
    shares = [firsts(batches.for_training(seed=1, rank=rank, processes=2), 2) for rank in (0, 1)]
    if name != "a function":
        assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == [sorted(step) for step in alone]
    assert all(len(step) == 2 for share in shares for step in share)
    assert not {s for step in shares[0] for s in step} & {s for step in shares[1] for s in step}


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    batches = read_batches(IMAGES, EXAMPLE, batch_size=2)
    with pytest.raises(DataError, match="one sample for each of 3 processes"):
        next(batches.for_training(seed=0, processes=3))


def test_reading_leaves_the_global_random_numbers_alone() -> None:
    state = torch.get_rng_state()
    loader = DataLoader(LABELLED, batch_size=4, shuffle=True)
    list(islice(read_batches(loader, EXAMPLE, limit=6).for_training(seed=0), 3))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_sampler_of_ones_own_is_respected() -> None:
    sampler = WeightedRandomSampler([0.0] * 9 + [1.0], num_samples=6)
    batches = read_batches(DataLoader(LABELLED, batch_size=3, sampler=sampler), EXAMPLE)
    assert torch.equal(all_of(batches), IMAGES[9:].expand(6, -1, -1, -1))


def test_a_split_shares_no_sample_and_loses_none_the_same_each_time() -> None:
    batches = read_batches(torch.arange(50.0).reshape(50, 1), torch.zeros(1, 1), batch_size=8)
    parts = batches.split(0.3, seed=1)
    found = [torch.cat([batch.inputs[0] for batch in part]).flatten().tolist() for part in parts]
    assert [len(part) for part in found] == [35, 15]
    assert sorted(found[0] + found[1]) == list(range(50))
    again = [torch.cat([batch.inputs[0] for batch in part]).flatten().tolist() for part in batches.split(0.3, seed=1)]
    assert again == found
    assert [part.samples for part in batches.split(0.3, seed=2)] == [35, 15]
    assert torch.cat([batch.inputs[0] for batch in batches.split(0.3, seed=2)[1]]).flatten().tolist() != found[1]


def test_what_cannot_be_split_is_refused() -> None:
    batches = read_batches(torch.zeros(5, 1), torch.zeros(1, 1))
    for share in (0.0, 0.05, 0.95, 1.0):
        with pytest.raises(DataError, match="at least one sample in either part"):
            batches.split(share, seed=0)
    stream = read_batches(lambda: iter([torch.zeros(5, 1)]), torch.zeros(1, 1))
    with pytest.raises(DataError, match="a stream; expected samples that can be counted"):
        stream.split(0.5, seed=0)
