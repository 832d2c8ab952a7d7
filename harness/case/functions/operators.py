"""Operators of the user's own: what the function that a case names as `ops` returns, and calls of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from harness.case.functions.calls import UserFunction
from harness.case.schema import Case
from harness.errors import HarnessError, Place

if TYPE_CHECKING:
    from onnx.reference.op_run import OpRun

T = TypeVar("T")
_HINT = "return classes derived from onnx.reference.op_run.OpRun, and paths of libraries for ONNX Runtime"


@dataclass(frozen=True)
class Operators:
    """Operators that neither ONNX nor ONNX Runtime has.

    Args:
        function: the function that returned them.
        classes: those written in Python, by domain and operator type.
        libraries: shared libraries that ONNX Runtime registers operators from.
    """

    function: UserFunction
    classes: Mapping[tuple[str, str], type[OpRun]]
    libraries: tuple[Path, ...] = ()

    def run(self, work: Callable[[], T], kind: tuple[str, str], node: str) -> T:
        """What `work` returns, which computes a node of the type `kind` in Python.

        Raises:
            BuilderError: it raised, or did not return within the limit; the message has the user's file and line.
        """
        try:
            return self.function.within_limit(work)
        except HarnessError:
            raise
        except (Exception, SystemExit) as error:
            where = self.function.line_of(error) or self.place(kind)
            reason = f"{type(error).__name__}: {str(error).strip() or 'without a message'}"
            raise self.function.error(f"raised at node {node!r}: {reason}", where=where) from error

    def place(self, kind: tuple[str, str]) -> Place | None:
        """Where the class of this type computes."""
        code = getattr(inspect.unwrap(self.classes[kind]._run), "__code__", None)
        return None if code is None else Place(self.function.short(code.co_filename), code.co_firstlineno)


def load_operators(case: Case) -> Operators | None:
    """The operators that `case` names; None where it names none.

    Raises:
        BuilderError: the function cannot be found or called, raised, did not return, or returned something else.
    """
    if case.ops is None:
        return None
    from onnx.reference.op_run import OpRun

    with UserFunction(case.ops, case, "ops") as function:
        returned = function()
        several = isinstance(returned, Iterable) and not isinstance(returned, (str, type))
        classes, libraries = {}, []
        for each in returned if several else [returned]:
            if isinstance(each, type) and issubclass(each, OpRun) and each is not OpRun:
                classes[str(getattr(each, "op_domain", "")), each.__name__] = each
            elif isinstance(each, (str, Path)):
                libraries.append(_library(function, case.resolve(each).resolve(), str(each)))
            else:
                raise function.error(f"returned {_shown(each)}, which is not an operator", hint=_HINT)
        if not classes and not libraries:
            raise function.error("returned no operator", hint=_HINT)
    return Operators(function, classes, tuple(libraries))


def _library(function: UserFunction, path: Path, given: str) -> Path:
    """`path`, after ONNX Runtime has registered it once."""
    import onnxruntime

    if not path.is_file():
        raise function.error(f"returned {given!r}, and there is no such file", hint=_HINT)
    try:
        onnxruntime.SessionOptions().register_custom_ops_library(str(path))
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise function.error(
            f"returned {given!r}, and ONNX Runtime does not register it: {reason}"
        ) from error
    return path


def _shown(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"{value!r:.60}"
