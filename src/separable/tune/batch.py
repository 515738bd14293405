"""One batch. In: an item of what people hand over, and an example input. Out: inputs and labels, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from separable.errors import DataError
from separable.graph.inference import forward
from separable.spec import TensorSpec

LABELS = ("labels", "label", "targets", "target")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Inputs for one forward, each (n, ...), and labels (n, ...) where there are some.

    ``names`` are the model's keyword arguments, when the example was a dict. For ``train`` labels may also be a list of
    one entry a sample, or a tuple or dict of all that.
    """

    inputs: tuple[Tensor, ...]
    names: tuple[str, ...] | None = None
    labels: Any = None

    @property
    def samples(self) -> int:
        """n."""
        return len(self.inputs[0])

    @property
    def bytes(self) -> int:
        """What the inputs occupy."""
        return sum(tensor.nbytes for tensor in self.inputs)

    def through(self, model: nn.Module) -> Any:
        """What the model answers, computed where the model's weights are."""
        weight = next(model.parameters(), None)
        inputs = self.inputs if weight is None else self.to(weight.device).inputs
        if self.names is None:
            return forward(model, *inputs)
        return forward(model, **dict(zip(self.names, inputs, strict=True)))

    def rows(self, index: slice | Tensor) -> Batch:
        """The samples that ``index`` picks."""
        inputs = tuple(tensor[index] for tensor in self.inputs)
        return Batch(inputs=inputs, names=self.names, labels=_rows(self.labels, index))

    def to(self, device: torch.device) -> Batch:
        """The same samples on another device."""
        labels = tree_map_only(Tensor, lambda tensor: tensor.to(device), self.labels)
        return Batch(inputs=tuple(tensor.to(device) for tensor in self.inputs), names=self.names, labels=labels)


def _rows(labels: Any, index: slice | Tensor) -> Any:
    if isinstance(labels, Mapping):
        return {name: _rows(entry, index) for name, entry in labels.items()}
    if isinstance(labels, tuple):
        return tuple(_rows(entry, index) for entry in labels)
    if isinstance(labels, list) and isinstance(index, Tensor):
        return [labels[row] for row in index.tolist()]
    return None if labels is None else labels[index]


def join(batches: Sequence[Batch]) -> Batch:
    """One batch of all the samples; labelled when every part is."""
    labels = [batch.labels for batch in batches if batch.labels is not None]
    return Batch(
        inputs=tuple(torch.cat(parts) for parts in zip(*(batch.inputs for batch in batches), strict=True)),
        names=batches[0].names,
        labels=torch.cat(labels) if len(labels) == len(batches) else None,
    )


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a batch must look like: the example's tensors, with any number of samples."""

    specs: tuple[TensorSpec, ...]
    names: tuple[str, ...] | None
    is_single: bool

    @classmethod
    def of(cls, example: Any) -> Self:
        """Read from a tensor, a tuple of tensors, or a dict of tensors by argument name."""
        several = example.values() if isinstance(example, Mapping) else example
        tensors = list(several) if isinstance(example, Mapping | tuple | list) else [example]
        if not tensors or not all(isinstance(tensor, Tensor) and tensor.dim() for tensor in tensors):
            raise DataError(
                "example", given=_outline(example), expected="a tensor (n, ...), or a tuple or dict of them"
            )
        specs = [TensorSpec(shape=tuple(tensor.shape), dtype=_dtype(tensor)) for tensor in tensors]
        names = tuple(map(str, example)) if isinstance(example, Mapping) else None
        return cls(specs=tuple(specs), names=names, is_single=isinstance(example, Tensor))

    def read(self, item: Any) -> Batch:
        """A batch, or a single sample as a batch of one; DataError when it does not look like the example.

        A tuple or list is (inputs, labels), or the model's arguments and perhaps labels behind them. In a dict the
        arguments are found by name or, for a model of one argument, as the one entry that looks like the example.
        Labels that are not numbers are left out.
        """
        parts, labels = self._parts(item)
        tensors = [_tensor(part) for part in parts]
        is_sample = tensors[0].dim() == len(self.specs[0].shape) - 1
        for tensor, spec in zip(tensors, self.specs, strict=True):
            _check(tensor, spec, is_sample)
        if is_sample:
            tensors = [tensor.unsqueeze(0) for tensor in tensors]
        sizes = [len(tensor) for tensor in tensors]
        if len(set(sizes)) > 1:
            raise DataError("", given=f"arguments of {sizes} samples", expected="as many in each")
        return Batch(inputs=tuple(tensors), names=self.names, labels=_labels(labels, is_sample, sizes[0]))

    def __str__(self) -> str:
        return ", ".join(f"{spec.dtype}{_any_batch(spec)}" for spec in self.specs)

    def _parts(self, item: Any) -> tuple[list[Any], Any]:
        if isinstance(item, Batch):
            return list(item.inputs), item.labels
        if isinstance(item, Mapping):
            return self._named(item), next((item[name] for name in LABELS if name in item), None)
        if not isinstance(item, tuple | list):
            item = [item]
        count = len(self.specs)
        if len(item) in (1, 2) and isinstance(item[0], Mapping | tuple | list):
            parts, _ = self._parts(item[0])
            return parts, item[1] if len(item) == 2 else None
        if self.names is not None or len(item) not in (count, count + 1):
            raise DataError("", given=_outline(item), expected=f"{self}, alone or with labels", remedy=ITEM_REMEDY)
        return list(item[:count]), item[count] if len(item) > count else None

    def _named(self, item: Mapping[Any, Any]) -> list[Any]:
        if self.names is not None and all(name in item for name in self.names):
            return [item[name] for name in self.names]
        alike = [entry for entry in item.values() if self.is_single and _looks_like(entry, self.specs[0])]
        if len(alike) != 1:
            expected = f"exactly one entry {self}" if self.names is None else f"the entries {', '.join(self.names)}"
            raise DataError("", given=_outline(item), expected=expected, remedy=ITEM_REMEDY)
        return alike


ITEM_REMEDY = "Hand over inputs, (inputs, labels), or a dict."


def _looks_like(entry: Any, spec: TensorSpec) -> bool:
    shape = tuple(getattr(entry, "shape", ()))
    return str(getattr(entry, "dtype", "")).removeprefix("torch.") == spec.dtype and spec.shape[1:] in (
        shape,
        shape[1:],
    )


def _tensor(part: Any) -> Tensor:
    if isinstance(part, Tensor):
        return part.detach()
    if not isinstance(part, np.ndarray) or part.dtype.kind not in "biuf":
        remedy = "Turn it into a tensor as the model was trained on it." if hasattr(part, "convert") else ""
        raise DataError("", given=_outline(part), expected="a tensor or an array of numbers", remedy=remedy)
    # A copy: what is read-only, reversed or changed later by its owner is no trouble then.
    return torch.from_numpy(np.array(part, dtype=part.dtype.newbyteorder("="), order="C"))


def _check(tensor: Tensor, spec: TensorSpec, is_sample: bool) -> None:
    given, expected = _outline(tensor), f"{spec.dtype}{_any_batch(spec)}, like the example"
    shape = tuple(tensor.shape if is_sample else tensor.shape[1:])
    if shape != spec.shape[1:] or tensor.dim() + is_sample != len(spec.shape):
        remedy = "Resize or crop the inputs to the example's size."
        raise DataError("", given=given, expected=expected, remedy=remedy)
    if _dtype(tensor) != spec.dtype:
        remedy = BYTES_REMEDY if _dtype(tensor) == "uint8" else f"Convert them to {spec.dtype}."
        raise DataError("", given=given, expected=expected, remedy=remedy)
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        bad = int((~tensor.isfinite()).sum())
        raise DataError("", given=f"{bad} values that are NaN or infinite", expected="finite inputs")


BYTES_REMEDY = "Scale bytes as in training, for example (images.float() / 255 - mean) / std."


def _labels(labels: Any, is_sample: bool, samples: int) -> Tensor | None:
    if isinstance(labels, np.ndarray | np.generic) and labels.dtype.kind in "biuf":
        labels = torch.from_numpy(np.array(labels))
    if isinstance(labels, int | float):
        labels = torch.tensor(labels)
    if not isinstance(labels, Tensor):
        return None
    found = labels.detach().unsqueeze(0) if is_sample else labels.detach()
    if found.dim() == 0 or len(found) != samples:
        raise DataError("", given=f"labels {_outline(labels)}", expected=f"one for each of {samples} inputs")
    return found


def _any_batch(spec: TensorSpec) -> str:
    return f"[{', '.join(['n', *map(str, spec.shape[1:])])}]"


def _outline(item: Any) -> str:
    """What something is, in the words of the messages: ``float32[8, 3, 32, 32]``, ``(float32[8, 3], str)``."""
    if isinstance(item, Mapping):
        return f"{{{', '.join(f'{name!r}: {_outline(entry)}' for name, entry in item.items())}}}"
    if isinstance(item, tuple | list):
        return f"({', '.join(_outline(entry) for entry in item[:4])}{', ...' if len(item) > 4 else ''})"
    if isinstance(item, Tensor | np.ndarray):
        return f"{_dtype(item)}{list(item.shape)}"
    return f"a {type(item).__name__}"


def _dtype(array: Tensor | np.ndarray[Any, Any]) -> str:
    return str(array.dtype).removeprefix("torch.")
