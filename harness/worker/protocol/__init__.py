"""What host and worker share: messages and how they travel, what is known of an engine, tensor files, faults.

It runs on Python 3.8 and later and imports nothing but the standard library, and NumPy for tensor files. It is all
that hosts import of the worker. `__init__.pyi` names what it offers; each name is imported when it is asked for, for
a worker without NumPy must be able to say so.
"""

import ast
import importlib
from typing import Any, Dict, List


def _read_stub() -> Dict[str, str]:
    """Each name of the stub, and the module that it comes from."""
    with open(__file__ + "i", encoding="utf-8") as file:
        statements = ast.parse(file.read()).body
    return {
        alias.name: node.module or ""
        for node in statements
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


_MODULES = _read_stub()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError("module {!r} has no attribute {!r}".format(__name__, name))
    value = getattr(importlib.import_module("." + _MODULES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> List[str]:
    return sorted(_MODULES)
