"""What was done to a network, as one page to look at. In: plain facts. Out: one HTML file that needs no network."""

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
    "Facts",
    "Latency",
    "Layer",
    "Machine",
    "Metric",
    "Network",
    "Option",
    "Skipped",
    "Speedups",
    "render",
    "write_page",
]
