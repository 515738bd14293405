"""Every network on the engine against PyTorch in float32. In: names of networks. Out: JSON, and a table beside it.

The difference is relative: the norm of what the engine gives less what PyTorch gives, over the norm of that; the most
over all outputs. Beyond the limit both are compared with float64. What was left to PyTorch is listed. Image networks
run at four sizes, all others at their own; batches are 1, 3 and 16. Weights are random. A forward of a clip that would
take more than ``MOST_MACS`` is run on a smaller one, which the table says. Rows that the file holds already are kept:

    python bench/agreement.py
"""

from __future__ import annotations

import argparse
import copy
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from places import of_this_processor
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import separable
from separable import Budget, models
from separable.cost import count
from separable.errors import SeparableError
from separable.pipeline import ShrinkOptions

LIMIT = 1e-4
SIZES = ((224, 224), (160, 160), (192, 192), (231, 157))
BATCHES = (1, 3, 16)
MOST_MACS = 100_000_000_000
SHRUNK = {"resnet_small, shrunk": "resnet_small"}


def lively(model: nn.Module, x: Tensor) -> nn.Module:
    """Batch norms with weights that differ, and the statistics of ``x``.

    They damp, and cut off only the lowest values of a channel: after norms as they are made, a deep random network
    amplifies rounding until PyTorch is far from its own float64 (EfficientNet-B7: by half of the output).
    """
    generator = torch.Generator().manual_seed(1)
    norms = [m for m in model.eval().modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)]
    for norm in norms:
        norm.train().momentum = 1.0
        norm.weight.data.uniform_(0.1, 0.4, generator=generator)
        norm.bias.data.uniform_(1, 2, generator=generator).mul_(norm.weight.data)
    with torch.no_grad():
        model(x)
    for norm in norms:
        if norm.running_var is not None:
            norm.running_var.clamp_(min=0.01)
    return model.eval()


def network(name: str) -> nn.Module:
    """A network of ``separable.models``, or what ``shrink`` makes of it within half of its MACs."""
    torch.manual_seed(0)
    full = SHRUNK.get(name, name)
    example = models.example(full)
    small = 96 if example.ndim > 3 and example.shape[-1] > 96 else None
    model = lively(models.build(full), models.example(full, batch=4, resolution=small))
    if name not in SHRUNK:
        return model
    options = ShrinkOptions(distill=None, progress=False)
    budget = Budget(macs=0.5)
    return separable.shrink(model, models.example(full, resolution=small), budget=budget, options=options).model


def inputs(name: str) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """The network's own example at each batch; an image network's at each size too. What was made smaller is named."""
    own = models.example(name)
    is_image = own.ndim == 4 and own.shape[1] == 3 and own.shape[2] > 100
    with torch.device("meta"):
        model = models.build(name).eval()
    for size in SIZES if is_image else (tuple(own.shape[2:]),):
        for batch in BATCHES:
            shape, note = (batch, *own.shape[1:2], *size), ""
            while not is_image and own.ndim == 5 and _macs(model, shape) > MOST_MACS:
                shape = (*shape[:-2], shape[-2] // 2, shape[-1] // 2)
                note = f"batch {batch} on maps of {shape[-2]}×{shape[-1]}, for less work"
            yield note, lambda shape=shape: _input(name, own, shape)  # type: ignore[misc]


def _macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    return count(model, torch.empty(shape, device="meta")).total.macs


def _input(name: str, own: Tensor, shape: tuple[int, ...]) -> Tensor:
    if not own.is_floating_point():
        return models.example(name, batch=shape[0])
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def check(model: nn.Module, x: Tensor, threads: int) -> dict[str, Any]:
    """One input on both."""
    program = separable.compile(model, x, threads=threads, measure=False)
    with torch.no_grad():
        expected = pytree.tree_leaves(model(x))
    got = pytree.tree_leaves(program(x))
    found: dict[str, Any] = {"difference": difference(got, expected)}
    if not agrees(found):
        with torch.no_grad():
            truth = pytree.tree_leaves(copy.deepcopy(model).double()(x.double() if x.is_floating_point() else x))
        found |= {"from_float64": difference(got, truth), "pytorch_from_float64": difference(expected, truth)}
    found["left_to_pytorch"] = sorted({step.name for step in program.prepare(x).lowered.calls})
    return found


def difference(got: list[Any], expected: list[Any]) -> float:
    """The largest of the outputs' relative differences."""
    pairs = [(a.double(), b.double()) for a, b in zip(got, expected, strict=True) if isinstance(b, Tensor)]
    return max(float((a - b).norm() / b.norm().clamp_min(1e-30)) for a, b in pairs)


def row(name: str, model: nn.Module, note: str, x: Tensor, threads: int) -> dict[str, Any]:
    """What is kept of one input."""
    found: dict[str, Any] = {"network": name, "input": list(x.shape)}
    if note:
        found["note"] = note
    try:
        found |= check(model, x, threads)
    except SeparableError as error:
        found["refused"] = str(error)
    return found


def agrees(found: dict[str, Any]) -> bool:
    """Whether the engine ran it and gave PyTorch's numbers; not for a difference that is not a number."""
    return found.get("difference", float("nan")) <= LIMIT


def table(results: list[dict[str, Any]]) -> str:
    """A row a network: how many of its inputs agree, the largest difference, what was left to PyTorch."""
    head = (
        "# The engine's results against PyTorch's in float32\n\n"
        f"{sum(map(agrees, results))} of {len(results)} inputs agree to {LIMIT:g}, relative, the most over all outputs "
        f"of a network. Image networks: batch {', '.join(map(str, BATCHES))} at "
        f"{', '.join(f'{h}×{w}' for h, w in SIZES)}; the others at their own size.\n\n"
        "| network | inputs that agree | largest difference | left to PyTorch | remarks |\n|---|---|---|---|---|\n"
    )
    lines = []
    for name in dict.fromkeys(r["network"] for r in results):
        rows = [r for r in results if r["network"] == name]
        largest = max((r["difference"] for r in rows if "difference" in r), default=float("nan"))
        left = sorted({step for r in rows for step in r.get("left_to_pytorch", ())})
        remarks = sorted({r[key] for r in rows for key in ("note", "refused") if key in r})
        shown = ", ".join(left[:4]) + (f" and {len(left) - 4} more" if len(left) > 4 else "")
        cells = (name, f"{sum(map(agrees, rows))} of {len(rows)}", f"{largest:.1e}", shown, "; ".join(remarks))
        lines.append(f"| {' | '.join(cells)} |")
    return head + "\n".join(lines) + "\n"


def keep(path: Path, found: dict[str, Any] | None, order: list[str]) -> list[dict[str, Any]]:
    """All rows so far, with this one; the table is written beside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else []
    if found is not None:
        results = sorted([*results, found], key=lambda r: order.index(r["network"]))
        facts = {"torch": torch.__version__, "limit": LIMIT, "results": results}
        path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(table(results), encoding="utf-8")
    return results


def main() -> None:
    every = [*models.NAMES, *SHRUNK]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=every, choices=every)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=of_this_processor("agreement"))
    options = parser.parse_args()
    for name in options.networks:
        model: nn.Module | None = None
        for note, make in inputs(SHRUNK.get(name, name)):
            x = make()
            if any((r["network"], r["input"]) == (name, list(x.shape)) for r in keep(options.out, None, every)):
                continue
            model = model or network(name)
            found = row(name, model, note, x, options.threads)
            keep(options.out, found, every)
            word = found.get("refused") or f"{found['difference']:.1e} {'agrees' if agrees(found) else 'DIFFERS'}"
            print(f"{name:36s} {found['input']!s:22s} {word}", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("error", UserWarning)
    main()
