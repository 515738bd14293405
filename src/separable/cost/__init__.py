"""What convolutions and models cost: counted from shapes, predicted for a machine, measured by a clock, and kept."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
