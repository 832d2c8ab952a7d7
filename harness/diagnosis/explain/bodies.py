"""The body of an If, Loop or Scan as a model of its own, fed what it is fed in the model, iteration by iteration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from harness.backends import Reference
from harness.diagnosis.context import Subject, make_bench
from harness.errors import HarnessError
from harness.model import Model, element_type, load_model, outer_reads

MOST_ITERATIONS = 32
"""So many iterations of a Loop or Scan are looked at, from the first on."""

MOST_BYTES = 1 << 28
"""A body that reads more weights than this is not taken out: they are copied into its model."""

Arrays = dict[str, np.ndarray]


def open_body(subject: Subject, node: str, sample: int) -> Subject | None:
    """The body of `node` as a subject: the branch that an If takes, or the body of a Loop or Scan.

    Args:
        subject: the model around it.
        node: its name.
        sample: the sample of inputs that decides what the body is fed; each iteration is a sample of its own.

    Returns:
        A subject on the emulator, whose bench is to be closed; None if the body runs not once, or cannot be taken out.
    """
    proto = next(each for each in subject.model.inferred.graph.node if each.name == node)
    try:
        outside = _outside(subject, proto, sample)
        graph = _taken(proto, outside)
        if graph is None:
            return None
        model = _as_model(subject.model, f"{subject.model.name}/{node}", graph, outside)
        fed = {info.name for info in model.inputs}
        around = {name: value for name, value in outside.items() if name in fed}
        feeds = [{**around, **own} for own in _iterations(proto, graph, model, outside, around)]
    except HarnessError:
        return None
    if not feeds:
        return None
    bench = make_bench(model, feeds, tolerances=subject.bench.case.tolerances)
    return Subject(bench, subject.precision, bench.emulator)


def _outside(subject: Subject, proto: onnx.NodeProto, sample: int) -> Arrays:
    """What the node and its bodies read, in FP32."""
    feeds = subject.bench.feeds[sample]
    names = [name for name in subject.model.node(proto.name).inputs if name not in feeds]
    found = subject.bench.reference.run(feeds, names) if names else {}
    return {**found, **{name: feeds[name] for name in subject.model.node(proto.name).inputs if name in feeds}}


def _taken(proto: onnx.NodeProto, outside: Mapping[str, np.ndarray]) -> onnx.GraphProto | None:
    graphs = {each.name: each.g for each in proto.attribute if each.type == onnx.AttributeProto.GRAPH}
    if proto.op_type == "If":
        return graphs["then_branch" if outside[proto.input[0]].all() else "else_branch"]
    return graphs.get("body")


def _as_model(outer: Model, name: str, graph: onnx.GraphProto, outside: Mapping[str, np.ndarray]) -> Model:
    proto = onnx.ModelProto()
    proto.ir_version = outer.skeleton.ir_version
    proto.opset_import.extend(outer.skeleton.opset_import)
    proto.graph.CopyFrom(graph)
    initializers = outer.ir.graph.initializers
    reads = sorted(outer_reads(graph))
    constants = [each for each in reads if each in initializers]
    if sum(outside[each].nbytes for each in constants) > MOST_BYTES:
        raise HarnessError("the body reads too many weights", where=name)
    proto.graph.initializer.extend(numpy_helper.from_array(outside[each], each) for each in constants)
    for each in reads:
        if each not in initializers:
            value = outside[each]
            kind = element_type(value.dtype.name)
            proto.graph.input.append(helper.make_tensor_value_info(each, kind, list(value.shape)))
    return load_model(proto, name=name)


def _iterations(
    proto: onnx.NodeProto, graph: onnx.GraphProto, body: Model, outside: Arrays, around: Arrays
) -> Iterator[Arrays]:
    """What the body's own inputs are in each iteration."""
    if proto.op_type == "If":
        yield {}
        return
    runner = Reference(body)
    try:
        if proto.op_type == "Loop":
            yield from _loop(proto, graph, runner, outside, around)
        elif proto.op_type == "Scan":
            yield from _scan(proto, graph, runner, outside, around)
    finally:
        runner.close()


def _loop(
    proto: onnx.NodeProto, graph: onnx.GraphProto, runner: Reference, outside: Arrays, around: Arrays
) -> Iterator[Arrays]:
    inputs = [value.name for value in graph.input]
    trips, condition = (outside.get(name) for name in proto.input[:2])
    count = MOST_ITERATIONS if trips is None else min(int(trips.reshape(-1)[0]), MOST_ITERATIONS)
    states = [outside[name] for name in proto.input[2:]]
    goes_on = np.array(True if condition is None else bool(condition.all()))
    for number in range(count):
        if not goes_on:
            return
        own = dict(zip(inputs, [np.array(number, np.int64), goes_on, *states], strict=True))
        yield own
        results = _results(runner, graph, {**around, **own})
        goes_on, states = np.array(bool(results[0].all())), results[1 : 1 + len(states)]


def _scan(
    proto: onnx.NodeProto, graph: onnx.GraphProto, runner: Reference, outside: Arrays, around: Arrays
) -> Iterator[Arrays]:
    inputs = [value.name for value in graph.input]
    attributes: dict[str, Any] = {each.name: helper.get_attribute_value(each) for each in proto.attribute}
    scanned = attributes["num_scan_inputs"]
    states = [outside[name] for name in proto.input[: len(inputs) - scanned]]
    sequences = []
    for place, name in enumerate(proto.input[len(inputs) - scanned :]):
        axis = attributes.get("scan_input_axes", [0] * scanned)[place]
        backwards = attributes.get("scan_input_directions", [0] * scanned)[place]
        sequence = np.moveaxis(outside[name], axis, 0)
        sequences.append(sequence[::-1] if backwards else sequence)
    for number in range(min(MOST_ITERATIONS, len(sequences[0]))):
        slices = [np.ascontiguousarray(sequence[number]) for sequence in sequences]
        own = dict(zip(inputs, [*states, *slices], strict=True))
        yield own
        states = _results(runner, graph, {**around, **own})[: len(states)]


def _results(runner: Reference, graph: onnx.GraphProto, feeds: Arrays) -> list[np.ndarray]:
    names = [value.name for value in graph.output]
    found = runner.run(feeds, list(dict.fromkeys(names)))
    return [found[name] for name in names]
