"""ONNX in and out: load, inspect, cut out, lower, and put islands into typed graphs.

`load_model` gives an immutable `Model`; everything else takes one and returns a new one. Weights stay where
they are (memory-mapped external data is never copied into a protobuf unless it must be saved).
"""

import lazy_loader

from harness.model.deferral import defer_sympy

defer_sympy()

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
