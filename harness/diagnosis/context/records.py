"""Results as plain JSON data, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.comparison import GateResult, Metrics
from harness.judge import LayerResult, OutputResult, jsonable

_NUMBERS = {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}


def output_to_record(output: OutputResult) -> dict[str, Any]:
    """An output as JSON data."""
    return {
        "tensor": output.tensor,
        "sample": output.sample,
        "metrics": jsonable(output.metrics.to_dict()),
        "gates": [jsonable(gate.to_dict()) for gate in output.gates],
    }


def output_from_record(record: Mapping[str, Any]) -> OutputResult:
    """The output that `output_to_record` wrote."""
    return OutputResult(
        tensor=record["tensor"],
        sample=record["sample"],
        metrics=_metrics(record["metrics"]),
        gates=_gates(record["gates"]),
    )


def layer_to_record(layer: LayerResult) -> dict[str, Any]:
    """A layer as JSON data."""
    return {
        "index": layer.index,
        "node": layer.node,
        "op": layer.op,
        "tensor": layer.tensor,
        "metrics": jsonable(layer.metrics.to_dict()),
        "introduced": None if layer.introduced is None else jsonable(layer.introduced.to_dict()),
        "gates": [jsonable(gate.to_dict()) for gate in layer.gates],
        "origin": layer.origin,
    }


def layer_from_record(record: Mapping[str, Any]) -> LayerResult:
    """The layer that `layer_to_record` wrote."""
    introduced = record["introduced"]
    return LayerResult(
        index=record["index"],
        node=record["node"],
        op=record["op"],
        tensor=record["tensor"],
        metrics=_metrics(record["metrics"]),
        introduced=None if introduced is None else _metrics(introduced),
        gates=_gates(record["gates"]),
        origin=record["origin"],
    )


def _metrics(record: Mapping[str, Any]) -> Metrics:
    values = {name: _number(value) for name, value in record.items()}
    for name in ("worst_index", "shape", "reference_shape"):
        index = values.get(name)
        values[name] = None if index is None else tuple(index)
    return Metrics(**values)


def _gates(records: list[Mapping[str, Any]]) -> tuple[GateResult, ...]:
    return tuple(
        GateResult(gate["metric"], _number(gate["limit"]), _number(gate["value"]), gate["passed"])
        for gate in records
    )


def _number(value: Any) -> Any:
    return _NUMBERS.get(value, value) if isinstance(value, str) else value
