"""A model's convolutions, found and swapped. In: any model, or a .pt2 file. Out: its sites; other models."""

from separable.graph.compare import Agreement, compare
from separable.graph.exported import load_exported
from separable.graph.inference import Batch, Example, evaluating, run
from separable.graph.replace import replace
from separable.graph.sites import Site, Sites, Skipped
from separable.graph.trace import trace

__all__ = [
    "Agreement",
    "Batch",
    "Example",
    "Site",
    "Sites",
    "Skipped",
    "compare",
    "evaluating",
    "load_exported",
    "replace",
    "run",
    "trace",
]
