"""Convolutional networks made separable, with the saving counted, predicted and measured.

What is here is named in ``__init__.pyi``. A room is opened when something in it is asked for: a saved program runs
without PyTorch.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
