"""The one place that turns a plan into TensorRT calls, for every release from 8.5 to 11.

Plain TensorRT calls and no loaders of polygraphy: those swallow the AttributeError of a flag that a release
does not have, and the point here is that what a release cannot do is an error that says so. Which release
offers what is asked in `release` alone, by name; every name is held against the contract data of 24 releases.

| module | what |
|---|---|
| `adapter` | the requests of the worker: probe, build, infer, release |
| `release` | what a release offers, and which typing a precision gets |
| `weak`, `strong` | the two typing strategies |
| `network`, `nodemap` | parsing ONNX, and from ONNX nodes to layers |
| `marks` | observation: marked outputs and debug tensors |
| `options`, `profiles`, `cache`, `calibration` | the builder's configuration |
| `inspector`, `kernels`, `realised` | what was built, and whether it is what was asked for |
| `tactics`, `tactics_selector`, `tactics_cache`, `tactics_log` | tactics: told, forced, forbidden |
| `cuda`, `execution`, `listeners`, `timing` | running an engine |
| `device`, `log`, `dtypes` | the GPU, TensorRT's log, data types |
"""

from .adapter import Adapter, create_adapter

__all__ = ["Adapter", "create_adapter"]
