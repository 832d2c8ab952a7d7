"""Whether the inputs of a case can show a fault, and whether they cost more than they need to."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from harness.case import Case, DrawnFill, FileFill, IntegersFill, PositionsFill
from harness.judge.workbench import Workbench
from harness.model import Model, guess_fills
from harness.text import names

SIZES = ("Shape", "Size")


def idle_inputs(bench: Workbench) -> Iterator[str]:
    """A warning for each integer input that matters and was filled with 0 and 1, unless data were given for it."""
    model, case, guessed = bench.model, bench.case, guess_fills(bench.model)
    reading = [node for node in model.nodes if node.name in model.data_nodes and node.op not in SIZES]
    read = {name for node in reading for name in node.inputs}
    for info in model.inputs:
        spec = case.inputs.get(info.name)
        fill = None if spec is None else spec.fill
        if case.data or isinstance(fill, FileFill) or info.name not in read or "int" not in info.dtype:
            continue
        if all(np.isin(feeds[info.name], (0, 1)).all() for feeds in bench.feeds):
            why = _why(guessed.get(info.name), given=fill is not None)
            if why and max(feeds[info.name].size for feeds in bench.feeds) > 1:
                yield f"input {info.name!r} is filled with 0 and 1, {why}; {_cure(case, model, info.name, guessed)}"


def slow_nodes(bench: Workbench) -> Iterator[str]:
    """A warning where ONNX Runtime has no kernel for a node, so that NumPy computes it."""
    slow = bench.without_kernel
    found = [f"{node.name} ({node.op})" for node in bench.model.nodes if node.name in slow]
    if found:
        verb, them = ("runs", "it") if len(found) == 1 else ("run", "them")
        yield f"{names(found, 3)} {verb} on onnx.reference, slowly, as ONNX Runtime has no kernel for {them}"


def _why(use: DrawnFill | None, *, given: bool) -> str:
    """What 0 and 1 leave out; empty where they are all that there is, or what somebody asked for."""
    if isinstance(use, PositionsFill):
        return "and positions count up"
    if isinstance(use, IntegersFill):
        return f"and selects from {use.high} rows" if use.high > 2 else ""
    return "" if given or use is not None else "and the graph does not show what it is for"


def _cure(case: Case, model: Model, name: str, guessed: dict[str, DrawnFill]) -> str:
    use = guessed.get(name)
    if case.path is None or use is None:
        return "give it values with --data FILE" if case.path is None else "give it a `fill` in the case"
    return "leave `fill` out of the case to draw from all of them"
