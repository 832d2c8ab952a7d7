"""Operators of the user's own: what the function that a case names as `ops` returns, and calls of them."""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.case.functions.calls import UserFunction, said, shown
from harness.case.functions.process import FunctionProcess, give_process, take_process
from harness.case.schema import Case
from harness.errors import HarnessError, Place

if TYPE_CHECKING:
    import numpy as np
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

Kind = tuple[str, str]
"""Domain and type of an operator."""

_HINT = "return classes derived from onnx.reference.op_run.OpRun, and paths of libraries for ONNX Runtime"


class Operators:
    """Operators that neither ONNX nor ONNX Runtime has. Those written in Python run in a process of their own.

    Args:
        case: the case that names the function that returns them.

    Attributes:
        kinds: those written in Python.
        libraries: shared libraries that ONNX Runtime registers operators from.

    Raises:
        BuilderError: the function cannot be found or called, raised, did not return, ended its process, or returned
            something else.
    """

    def __init__(self, case: Case) -> None:
        self._case, self._name = case, case.ops or ""
        self._kept, self._busy = _Kept(), threading.Lock()
        weakref.finalize(self, self._kept.give_back)
        _, kinds, libraries = self._load()
        self.kinds: frozenset[Kind] = frozenset((domain, op_type) for domain, op_type in kinds)
        self.libraries: tuple[Path, ...] = tuple(libraries)

    def __reduce__(self) -> tuple[type[Operators], tuple[Case]]:
        """How it is pickled on its way to another machine, which loads them for itself."""
        return Operators, (self._case,)

    def check(self, model: bytes) -> str | None:
        """Why a model of one node cannot be run; None if it can."""
        found: str | None = self._process().call(prepare, self._case, self._name, "ops", model)
        return found

    def compute(
        self, model: bytes, node: str, fed: Mapping[str, np.ndarray], wanted: Mapping[str, str | None]
    ) -> dict[str, np.ndarray]:
        """What a node writes, which one of the operators is, or holds.

        Args:
            model: a model of that node.
            node: its name, for messages.
            fed: what it reads, by name.
            wanted: dtype names of what it writes by name, as far as they are known.

        Raises:
            BuilderError: it raised, did not return within the limit, ended its process, or returned something else;
                the message has the user's file and line.
        """
        found: dict[str, np.ndarray] = self._process().call(
            compute, self._case, self._name, "ops", model, node, dict(fed), dict(wanted)
        )
        return found

    def _process(self) -> FunctionProcess:
        with self._busy:
            kept = self._kept.process
            return kept if kept is not None and kept.is_usable else self._load()[0]

    def _load(self) -> tuple[FunctionProcess, list[Kind], list[Path]]:
        self._kept.give_back()
        process = self._kept.process = take_process()
        kinds, libraries = process.call(load, self._case, self._name, "ops")
        return process, kinds, libraries


class _Kept:
    """The process that holds the operators; the next function has it, once they are gone."""

    def __init__(self) -> None:
        self.process: FunctionProcess | None = None

    def give_back(self) -> None:
        if self.process is not None:
            give_process(self.process)
            self.process = None


def load_operators(case: Case) -> Operators | None:
    """The operators that `case` names; None where it names none.

    Raises:
        BuilderError: see `Operators`.
    """
    return None if case.ops is None else Operators(case)


class _Loaded:
    """The operators that this process of functions holds."""

    def __init__(self, function: UserFunction, classes: Mapping[Kind, type[OpRun]]) -> None:
        self.function, self.classes = function, classes
        self._evaluators: dict[bytes, ReferenceEvaluator] = {}

    def evaluator(self, model: bytes) -> ReferenceEvaluator:
        """The evaluator of a model, made once."""
        import onnx
        from onnx.reference import ReferenceEvaluator

        if model not in self._evaluators:
            proto = onnx.load_from_string(model)
            self._evaluators[model] = ReferenceEvaluator(proto, new_ops=[*self.classes.values()])
        return self._evaluators[model]

    def place(self, kind: Kind) -> Place | None:
        """Where the class of this type computes."""
        if kind not in self.classes:
            return None
        code = getattr(inspect.unwrap(self.classes[kind]._run), "__code__", None)
        return None if code is None else Place(self.function.short(code.co_filename), code.co_firstlineno)


_loaded: list[_Loaded] = []
"""Of this process; the last ones are in use."""


def load(case: Case, name: str) -> tuple[list[Kind], list[Path]]:
    """Load the operators into this process of functions: their kinds, and the libraries."""
    from onnx.reference.op_run import OpRun

    classes: dict[Kind, type[OpRun]] = {}
    libraries: list[Path] = []
    with UserFunction(name, case, "ops") as function:
        returned = function()
        several = isinstance(returned, Iterable) and not isinstance(returned, (str, type))
        for each in returned if several else [returned]:
            if isinstance(each, type) and issubclass(each, OpRun) and each is not OpRun:
                classes[str(getattr(each, "op_domain", "")), each.__name__] = each
            elif isinstance(each, (str, Path)):
                libraries.append(_library(function, case.resolve(each).resolve(), str(each)))
            else:
                raise function.error(f"returned {shown(each)}, which is not an operator", hint=_HINT)
        if not classes and not libraries:
            raise function.error("returned no operator", hint=_HINT)
    _loaded[:] = [_Loaded(function, classes)]
    return list(classes), libraries


def prepare(case: Case, name: str, model: bytes) -> str | None:
    """See `Operators.check`; called in the process that has loaded them."""
    loaded = _loaded[-1]
    try:
        loaded.function.within_limit(lambda: loaded.evaluator(model))
    except Exception as error:
        return said(error).splitlines()[0]
    return None


def compute(
    case: Case,
    name: str,
    model: bytes,
    node: str,
    fed: dict[str, np.ndarray],
    wanted: dict[str, str | None],
) -> dict[str, np.ndarray]:
    """See `Operators.compute`; called in the process that has loaded them."""
    import onnx

    loaded = _loaded[-1]
    function = loaded.function
    (written,) = onnx.load_from_string(model).graph.node
    place = loaded.place((written.domain, written.op_type))

    def work() -> dict[str, np.ndarray]:
        values: Sequence[Any] = loaded.evaluator(model).run(list(wanted), fed)
        found = dict(zip(wanted, values, strict=True))
        for tensor, value in found.items():
            _check(function, tensor, value, wanted[tensor], node, place)
        return found

    try:
        return function.within_limit(work)
    except HarnessError:
        raise
    except BaseException as error:
        raise function.blame(error, f"raised at node {node!r}:", place) from error


def _check(
    function: UserFunction, tensor: str, value: object, wanted: str | None, node: str, place: Place | None
) -> None:
    """Raise BuilderError unless what the user's operator wrote has the type that the graph has."""
    import numpy as np

    actual = value.dtype.name if isinstance(value, np.ndarray) else type(value).__name__
    if not isinstance(value, np.ndarray) or value.dtype.kind in "OSUMm" or actual != (wanted or actual):
        raise function.error(
            f"returned {actual} for {tensor!r} at node {node!r}, where the model has {wanted or 'an array'}",
            where=place,
            hint="convert what _run returns, or declare its type in graph.value_info",
        )


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
