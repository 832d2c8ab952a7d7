"""Environments: each one Python with one TensorRT release on one GPU, and the worker that serves it.

`load` and `select` read harness.toml; `shared_supervisor` gives the worker of an environment, which is started
when it is first asked for something and replaced when it fails.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
