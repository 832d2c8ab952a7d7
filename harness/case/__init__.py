"""Cases: one model, its inputs, the runs asked of it and their tolerances, read from one YAML file each.

What needs NumPy or ONNX is imported when it is first asked for.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
