"""Keep onnx_ir from importing sympy until somebody computes with symbolic sizes, which harness does not.

sympy is only there for sums such as `N + 1` of SymbolicDim, and takes longer to import than onnx and onnx_ir together.
While onnx_ir is imported, a stand-in has its place; everybody else gets the real one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_SYMPY, _ONNX_IR = "sympy", "onnx_ir"


class _StandIn(ModuleType):
    """sympy as onnx_ir sees it: what is read while it is imported are functions that call sympy's."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(_SYMPY) is self:
            return _calling(name)
        return getattr(import_module(_SYMPY), name)


def _calling(name: str) -> Callable[..., Any]:
    return lambda *arguments: getattr(import_module(_SYMPY), name)(*arguments)


class _Importing(Loader):
    """Imports onnx_ir beside the stand-in."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        alone = _SYMPY not in sys.modules
        if alone:
            sys.modules[_SYMPY] = _StandIn(_SYMPY)
        try:
            self._loader.exec_module(module)
        finally:
            if alone:
                del sys.modules[_SYMPY]


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _ONNX_IR:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Importing(spec.loader)
        return spec


def defer_sympy() -> None:
    """Let the first import of onnx_ir leave out sympy; nothing to do where it is imported already."""
    if _ONNX_IR not in sys.modules:
        sys.meta_path.insert(0, _Finder())
