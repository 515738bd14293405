"""A model as one native program. In: a PyTorch model and an example. Out: a program that is called like the model."""

from separable.engine.layers import LayerTime, LayerTimes, layer_times
from separable.engine.program import Program, compile

__all__ = ["LayerTime", "LayerTimes", "Program", "compile", "layer_times"]
