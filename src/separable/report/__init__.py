"""Pages to look at. In: plain facts, or one convolution. Out: one HTML file that needs no network."""

from separable.report.explain import Explanation, Setting, explain, write_explainer
from separable.report.facts import (
    Distillation,
    Facts,
    Latency,
    Layer,
    Machine,
    Metric,
    Network,
    Option,
    Skipped,
    Speedups,
)
from separable.report.page import render, write_page

__all__ = [
    "Distillation",
    "Explanation",
    "Facts",
    "Latency",
    "Layer",
    "Machine",
    "Metric",
    "Network",
    "Option",
    "Setting",
    "Skipped",
    "Speedups",
    "explain",
    "render",
    "write_explainer",
    "write_page",
]
