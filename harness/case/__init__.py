"""Cases: one model, its inputs, its runs and their tolerances, read from one YAML file each.

What needs NumPy or ONNX is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
