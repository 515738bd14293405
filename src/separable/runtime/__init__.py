"""Networks of operators, run natively without PyTorch. In: a network, or a saved program. Out: arrays."""

from separable.runtime.session import Session, load

__all__ = ["Session", "load"]
