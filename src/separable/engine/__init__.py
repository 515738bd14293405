"""A model as one native program. In: a PyTorch model and an example. Out: a program that is called like the model."""

from separable.engine.program import Program, compile

__all__ = ["Program", "compile"]
