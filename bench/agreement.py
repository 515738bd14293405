"""Every network on the engine against PyTorch in float32. In: names, batches, sizes. Out: JSON, and a table.

The difference is relative: the norm of what the engine gives less what PyTorch gives, over the norm of that; the most
over all outputs. What was left to PyTorch is listed. Weights and statistics are random, so that every layer matters.

    python bench/agreement.py --out bench/results/agreement.json
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import separable
from separable import models
from separable.errors import SeparableError

LIMIT = 1e-4
SIZES = ((224, 224), (160, 160), (192, 192), (231, 157))
BATCHES = (1, 3, 16)


def lively(model: nn.Module) -> nn.Module:
    """Batch norms with statistics that are not those of a new network."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.8, 1.2, generator=generator)  # type: ignore[union-attr]
    return model.eval()


def inputs(name: str) -> list[Tensor]:
    """The network's own example at each batch; an image network's at each size too."""
    found = [models.example(name, batch=batch) for batch in BATCHES]
    if found[0].ndim == 4 and found[0].shape[1] == 3 and found[0].shape[2] > 100:
        generator = torch.Generator().manual_seed(2)
        shapes = [(batch, 3, *size) for size in SIZES for batch in BATCHES]
        found = [torch.randn(shape, generator=generator) for shape in shapes]
    return found


def check(model: nn.Module, x: Tensor) -> dict[str, Any]:
    """One input on both."""
    begin = time.perf_counter()
    program = separable.compile(model, x, measure=False)
    compiled = time.perf_counter() - begin
    with torch.no_grad():
        expected = pytree.tree_leaves(model(x))
    got = pytree.tree_leaves(program(x))
    differences = [
        float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30))
        for a, b in zip(got, expected, strict=True)
        if isinstance(b, Tensor)
    ]
    left = sorted({step.name for step in program.prepare(x).lowered.calls})
    return {"difference": max(differences), "left_to_pytorch": left, "compile_s": compiled}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(models.NAMES), choices=models.NAMES)
    parser.add_argument("--most", type=int, default=None, help="at most so many inputs a network, the smallest first")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results") / "agreement.json")
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    for name in options.networks:
        torch.manual_seed(0)
        model = lively(models.build(name))
        for x in sorted(inputs(name), key=Tensor.numel)[: options.most]:
            row: dict[str, Any] = {"network": name, "input": list(x.shape)}
            try:
                row |= check(model, x)
                word = "agrees" if row["difference"] <= LIMIT else "DIFFERS"
                print(f"{name:36s} {row['input']!s:22s} {row['difference']:.1e} {word}", *row["left_to_pytorch"][:3])
            except SeparableError as error:
                row["refused"] = str(error)
                print(f"{name:36s} {row['input']!s:22s} refused: {error}")
            results.append(row)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            facts = {"torch": torch.__version__, "limit": LIMIT, "results": results}
            options.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("error", UserWarning)
    main()
