"""ONNX in and out: load, inspect, cut out, lower, and put islands into typed graphs.

`load_model` gives an immutable `Model`; everything else takes one and returns a new one. Weights stay where
they are (memory-mapped external data is never copied into a protobuf unless it must be saved).
"""

from harness.model.extract import extract
from harness.model.load import load_model, save_model
from harness.model.model import Model, NodeInfo, TensorInfo
from harness.model.typed import with_islands

__all__ = ["Model", "NodeInfo", "TensorInfo", "extract", "load_model", "save_model", "with_islands"]
