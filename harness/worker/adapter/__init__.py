"""The one place that turns a plan into TensorRT calls, for every release from 8.5 to 11.

Plain TensorRT calls and no loaders of polygraphy: those swallow the AttributeError of a flag that a release
does not have, and the point here is that what a release cannot do is an error that says so. Which release
offers what is asked in `release` alone, by name; every name is checked against the contract data of 24 releases.

| module | what |
|---|---|
| `adapter` | the requests of the worker: probe, build, infer, release |
| `release` | what a release offers, and which typing a precision gets |
| `network` | parsing ONNX, and from ONNX nodes to layers |
| `building` | the two typing strategies, marks and debug tensors, the builder's configuration |
| `inspection` | what was built, and whether it is what was asked for |
| `tactics` | tactics: recorded, forced, forbidden |
| `runtime` | running and timing an engine |
| `cache`, `device`, `log`, `words`, `dtypes` | the caches, the GPU, TensorRT's log and what errors say, data types |
"""

from .adapter import Adapter, create_adapter

__all__ = ["Adapter", "create_adapter"]
