"""Convolutional networks made separable, with the saving counted, predicted and measured."""

__version__ = "0.1.0"
