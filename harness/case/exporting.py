"""Exports of PyTorch modules, by either exporter, and blame for those that fail: the operator, and the user's line."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.case.functions import UserFunction
from harness.errors import BuilderError, Place

if TYPE_CHECKING:
    import onnx

#: torch.fx keeps where a node is from as the text of a traceback, the legacy exporter as `file(line): function`.
_FRAMES = re.compile(
    r'File "(?P<file>[^"]+)", line (?P<line>\d+)|^(?P<other>[^\n(]+)\((?P<at>\d+)\):', re.MULTILINE
)


class TraceWarning(UserWarning):
    """A trace keeps what a line of Python gave for the example inputs, whatever other inputs give.

    Args:
        place: the line, of the user's code where it is in it.
        said: PyTorch's words, the first sentence.
    """

    def __init__(self, place: Place, said: str) -> None:
        super().__init__(f"{place}: the trace keeps what this line gave for the example inputs: {said}")
        self.place, self.said = place, said


def trace_warnings(
    function: UserFunction, caught: Sequence[warnings.WarningMessage]
) -> Iterator[TraceWarning]:
    """What PyTorch warned of while it traced, each line once."""
    seen = set()
    for each in caught:
        place = (each.filename, each.lineno)
        if each.category.__name__ == "TracerWarning" and place not in seen:
            seen.add(place)
            said = str(each.message).partition(". ")[0].strip().rstrip(".")
            yield TraceWarning(Place(function.short(each.filename), each.lineno), said)


def export_module(torch: Any, module: Any, examples: Any, options: Mapping[str, Any], exporter: str) -> Any:
    """What torch.onnx.export makes of a module; `legacy` takes the names of open axes from `dynamic_shapes`."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        # A failed export prints the whole graph.
        if exporter == "dynamo":
            return torch.onnx.export(module, examples, **options, dynamo=True)
        return _export_by_tracing(torch, module, examples, options)


def _export_by_tracing(torch: Any, module: Any, examples: Any, options: Mapping[str, Any]) -> onnx.ModelProto:
    import onnx

    given = dict(options)
    shapes = given.pop("dynamic_shapes", None)
    if isinstance(shapes, Mapping):
        given.setdefault("input_names", list(shapes))
        given["dynamic_axes"] = {name: _names(axes) for name, axes in shapes.items() if axes}
    written = io.BytesIO()
    with _without_prints_of_c():
        torch.onnx.export(module, examples, written, **given, dynamo=False)
    return onnx.load_from_string(written.getvalue())


@contextlib.contextmanager
def _without_prints_of_c() -> Iterator[None]:
    """Nothing reaches stdout of the process: a failed trace prints its graph there, where a JSON document may be."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _names(axes: Mapping[int, Any]) -> dict[int, str]:
    return {axis: getattr(size, "__name__", str(size)) for axis, size in axes.items() if size is not None}


def blame_export(function: UserFunction, error: Exception, exporter: str) -> BuilderError:
    """A BuilderError that names the operator that `exporter` failed at, and the line of the user's code, if known."""
    found = next(iter(_nodes(error)), None)
    if found is None:
        reasons = list(_chain(error))
        said = str(reasons[-1]).strip().splitlines() or ["without a message"]
        reason = f"torch.onnx.export raised {type(error).__name__}: {said[0]}"
        place = next(filter(None, map(function.line_of, reversed(reasons))), None)
        return function.error(f"{reason} ({exporter} exporter)", where=place)
    operator, trace = found
    hint = "write it with other operators" + (
        ", or give torch.onnx.export a `custom_translation_table`"
        if exporter == "dynamo"
        else ", or try the other exporter"
    )
    lines = [
        (match["file"] or match["other"], int(match["line"] or match["at"]))
        for match in _FRAMES.finditer(trace)
    ]
    own = function.files
    # A traceback has the innermost frame last, the legacy exporter has it first.
    inside = [Place(function.short(file), line) for file, line in lines if file in own]
    place = (inside[-1] if 'File "' in trace else inside[0]) if inside else None
    return function.error(
        f"cannot be exported: the {exporter} exporter has no {operator}", where=place, hint=hint
    )


def _nodes(error: Exception) -> Iterator[tuple[str, str]]:
    """The operator and the origin of the node that an exporter was at, from the frames of what it raised."""
    for each in _chain(error):
        trace = each.__traceback__
        while trace is not None:
            node: Any = trace.tb_frame.f_locals.get("node")
            if hasattr(node, "target") and hasattr(node, "stack_trace"):  # torch.fx.Node
                yield str(node.target), str(node.stack_trace or "")
            elif hasattr(node, "sourceRange"):  # torch.Node of the legacy exporter
                yield str(node.kind()), str(node.sourceRange())
            trace = trace.tb_next


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and what caused it, the first cause last."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__
