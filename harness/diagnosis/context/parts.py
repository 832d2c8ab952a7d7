"""Parts of a model that run by themselves, fed with the reference's own tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.comparison import GateResult, compare_tensors
from harness.diagnosis.context.subject import Subject
from harness.judge import COPIES, TensorGates
from harness.model import Model, extract
from harness.tensors import Precision, dtype_of


@dataclass(frozen=True)
class GraphPart:
    """A part of the model with real inputs.

    Args:
        model: the part.
        feeds: the reference's tensors at its inputs.
        expected: the reference's tensors at its outputs.
        nodes: names of its nodes, without those that compute constants for them.
    """

    model: Model
    feeds: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]
    nodes: tuple[str, ...]


def cut(
    subject: Subject,
    nodes: Sequence[str],
    sample: int,
    outputs: Sequence[str] = (),
    known: Mapping[str, np.ndarray] | None = None,
) -> GraphPart:
    """The part of the model that is made of `nodes`, and of what computes constants for them.

    Args:
        subject: the whole.
        nodes: names of the nodes; what they read from others becomes an input.
        sample: which sample's tensors are fed.
        outputs: tensors to return; by default those that other nodes or nobody reads.
        known: tensors of the reference that need not be computed again; see `tensors_of`.

    Raises:
        ModelError: it cannot be cut out.
    """
    model = subject.model
    inside = set(nodes)
    infos = [model.node(name) for name in nodes]
    written = {name for info in infos for name in info.outputs if name}
    fed = set(model.feed_names())
    data = _run_time(model)
    reads = dict.fromkeys(name for info in infos for name in info.inputs if name not in written)
    inputs = [name for name in reads if name in fed or name in data]
    results = list(outputs) or _results(model, inside, written)
    bench = subject.bench
    wanted = [name for name in (*inputs, *results) if name not in fed]
    values = {name: known[name] for name in wanted if name in known} if known else {}
    if len(values) < len(wanted):
        values = dict(bench.reference_tensors(sample, tuple(wanted), copies=COPIES))
    values |= {name: bench.feeds[sample][name] for name in inputs if name in fed}
    shapes = {name: values[name].shape for name in inputs}
    part = extract(model, inputs, results, shapes=shapes, name=f"{model.name}-part")
    feeds = {
        info.name: values[info.name].astype(dtype_of(info.dtype), copy=False)
        if info.dtype == "bfloat16"  # the reference gave it as float32
        else values[info.name]
        for info in part.inputs
    }
    return GraphPart(part, feeds, {name: values[name] for name in results}, tuple(nodes))


def tensors_of(subject: Subject, nodes: Sequence[str], sample: int) -> dict[str, np.ndarray]:
    """The reference's tensors that `nodes` read and write, so that parts of them are cut out without another run."""
    model, bench = subject.model, subject.bench
    data = _run_time(model) - set(model.feed_names())
    infos = [model.node(name) for name in nodes]
    wanted = dict.fromkeys(name for info in infos for name in (*info.inputs, *info.outputs) if name in data)
    return dict(bench.reference_tensors(sample, tuple(wanted), copies=COPIES))


def tensor_gates(
    subject: Subject,
    name: str,
    value: np.ndarray,
    reference: np.ndarray,
    precision: Precision,
    *,
    emulated: np.ndarray | None = None,
    is_output: bool = False,
) -> tuple[GateResult, ...]:
    """What the gates of one tensor say of it when it is computed apart from the rest of the model.

    It is judged beside `emulated`, as an engine is, or by absolute bounds where that is None; as a tensor between
    nodes, or by the gates of an output.
    """
    dtype = precision.storage_dtype if reference.dtype.kind == "f" else None
    metrics = compare_tensors(np.asarray(value), reference, dtype=dtype)
    baseline = (
        None if emulated is None else compare_tensors(np.asarray(emulated), reference, dtype=dtype).rmse
    )
    # Between nodes, one index more or less may not matter.
    exact = is_output and reference.dtype.kind in "biu"
    gates = TensorGates(subject.model, subject.bench.case.tolerances, precision)
    return gates.check(name, metrics, baseline, is_output=is_output, exact=exact)


def _run_time(model: Model) -> set[str]:
    """Tensors that depend on what the model is fed."""
    found = set(model.feed_names())
    for node in model.nodes:
        if any(name in found for name in node.inputs):
            found.update(name for name in node.outputs if name)
    return found


def _results(model: Model, inside: set[str], written: set[str]) -> list[str]:
    """What the nodes write for others, in topological order."""
    read_outside = {name for node in model.nodes if node.name not in inside for name in node.inputs}
    final = {info.name for info in model.outputs}
    order = [name for node in model.nodes for name in node.outputs if name in written]
    return [name for name in order if name in read_outside or name in final] or order[-1:]
