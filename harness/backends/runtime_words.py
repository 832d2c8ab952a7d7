"""What ONNX Runtime and onnx.reference say: the one module that reads their messages, for they give no codes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.errors import InputDataError, ModelError, NodeFailedError
from harness.model import LOWERED
from harness.tensors import memory_limit
from harness.text import size

_NO_KERNEL = re.compile(
    r"Could not find an implementation for (?P<op>\w+)\((?:\d+\) node with name '(?P<node>[^']*)')?"
)
_UNKNOWN = re.compile(r"(?P<domain>[\w.]+):(?P<op>\w+)\(-?\d+\) is not a registered function/op")
_NO_OPERATOR = ("not implemented", "no op registered", "not a registered")
_FAILED_NODE = re.compile(r"while running (?P<op>\w+) node\. Name:'(?P<node>[^']*)'")
_PLACE = re.compile(r"/\S+:\d+ .*? was false\. ")
"""Where in ONNX Runtime's sources a check failed."""
_NO_MEMORY = re.compile(
    r"Failed to allocate memory(?: for requested buffer of size (?P<size>\d+))?|bad_alloc|bad allocation"
)
_BAD_FEED = ("Got invalid dimensions", "Unexpected input data type")


@dataclass(frozen=True)
class Missing:
    """What ONNX Runtime has no kernel for.

    Args:
        op: the operator type.
        domain: its domain, where the operator is not known at all.
        node: the node, where it is known for other types.
    """

    op: str
    domain: str | None = None
    node: str | None = None


class GraphRefusedError(ModelError):
    """ONNX Runtime does not accept a graph."""

    def __init__(self, said: str, where: str) -> None:
        self.said = said
        self.missing = missing_in(said)
        hint = "check it with onnx.checker.check_model(model, full_check=True)"
        if any(words in said.lower() for words in _NO_OPERATOR):
            hint = "neither ONNX Runtime nor onnx.reference has it; `ops` in a case, or --ops, says how it is done"
        super().__init__(f"ONNX Runtime does not accept the model: {said}", where=where, hint=hint)


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its type."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def missing_in(said: str) -> Missing | None:
    """What a graph is refused for the want of; None if it is refused for something else."""
    if found := _UNKNOWN.search(said):
        return Missing(found["op"], domain="" if found["domain"] == "ai.onnx" else found["domain"])
    if found := _NO_KERNEL.search(said):
        return Missing(found["op"], node=found["node"])
    return None


def run_error(error: Exception, where: str) -> ModelError | InputDataError:
    """The error for an inference that failed, which names the node where ONNX Runtime does."""
    text = first_line(error)
    if "INVALID_ARGUMENT" in text and any(words in text for words in _BAD_FEED):
        return InputDataError(text, where=where)
    failed = _FAILED_NODE.search(text)
    if lacking := _NO_MEMORY.search(text):
        at = "" if failed is None else f" at node {failed['node'].removesuffix(LOWERED)!r} ({failed['op']})"
        more = f" for {size(int(lacking['size']))} more" if lacking["size"] else ""
        return ModelError(
            f"the memory does not suffice{more}{at}; this machine has {size(memory_limit())} in all",
            where=where,
            hint="end what else runs here, give inputs a smaller shape, or go to a machine that has more",
        )
    if failed is None:
        return ModelError(f"ONNX Runtime failed: {text}", where=where)
    # Of a node in a body, ONNX Runtime names the nodes around it first: the last reason is the node's own.
    reason = _PLACE.sub("", text.rpartition("Status Message: ")[2]).strip().rstrip(".")
    return NodeFailedError(
        node=failed["node"].removesuffix(LOWERED), op=failed["op"], reason=reason, where=where
    )
