"""Running engines: memory, streams and events of the GPU, inferences, and how long they take."""

from .cuda import Buffer, Cuda, load_cudart
from .execution import Execution, measure_latency, time_layers

__all__ = ["Buffer", "Cuda", "Execution", "load_cudart", "measure_latency", "time_layers"]
