"""Where the fault starts, and why there: culprits turned into origins with physical reasons."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from harness.compiler import written_out_norms
from harness.diagnosis.context import (
    FORMATS,
    OUTLYING,
    Effects,
    Prediction,
    Subject,
    TensorRange,
    introduced_errors,
    islands_of,
    outliers,
    usual_error,
)
from harness.diagnosis.explain.bodies import open_body
from harness.diagnosis.explain.decisions import decision_of
from harness.diagnosis.explain.measured import MeasuredNode
from harness.diagnosis.explain.reasons import WITH_BODIES, accumulation, loses, lost_constant, own_fault, why
from harness.diagnosis.results import A_FEW, Mend, Origin
from harness.errors import HarnessError
from harness.judge import COPIES, LayerResult
from harness.model import PRODUCTS, Model, NodeInfo, largest_partial_sum, sampled_product
from harness.tensors import Precision

IN_BODY = "in its body, at"
MOST_ISLANDS = 64
"""Of more islands only the first ones are tested alone; so many are an accumulation anyway."""


def find_origins_of(
    subject: Subject,
    prediction: Prediction,
    culprits: Sequence[str],
    effects: Effects,
    layers: Sequence[LayerResult] = (),
) -> tuple[Origin, ...]:
    """The origins behind `culprits`: one for each island of them, first of those with a node that is a fault by itself.

    Where there is none of these, the error accumulates: the origins are then the places where it crosses its gate, or
    the culprit with the largest share. So it does, too, where more than a few are needed and none of them introduces
    more error than others: those that fail alone do so because the nodes behind them amplify any error. Gates are
    crossed in `layers`, which were observed of the candidate, or else in those of the prediction.
    """
    model = subject.model
    outlying = set(outliers(prediction.introduced))

    def crossings() -> list[str]:
        return [layer.node for layer in (layers or prediction.layers) if layer.origin]

    islands = islands_of(model, culprits)
    guilty = [
        island
        for island in islands[:MOST_ISLANDS]
        if outlying.intersection(island) or any(effects.of([node]) > 1.0 for node in island)
    ]
    if guilty and (len(culprits) <= A_FEW or outlying.intersection(culprits)):
        first = [_first(island, outlying, crossings) for island in guilty]
        # What goes wrong only with others, or behind them, has its reason, too.
        rest = [island for island in islands if island not in guilty][:A_FEW]
        first += [max(island, key=lambda node: prediction.introduced.get(node, 0.0)) for island in rest]
        faults = _faults_of_their_own(subject, prediction, guilty, effects) if len(culprits) <= MANY else {}
        return _with_reasons(
            subject, explain_nodes(subject, prediction, [*first, *faults], alone=effects.known), faults
        )
    shares = {node: effect for node, effect in effects.known.items() if node in set(culprits)}
    reason = accumulation(len(culprits), shares, subject.precision)
    places = crossings() or [max(culprits, key=lambda node: shares.get(node, 0.0))]
    return tuple(replace(origin, accumulates=True) for origin in blame(subject, prediction, places, reason))


MANY = 4 * A_FEW
"""In larger islands only the first node of each is explained."""


def _faults_of_their_own(
    subject: Subject, prediction: Prediction, islands: Sequence[Sequence[str]], effects: Effects
) -> dict[str, str]:
    """Nodes of `islands` that are faults whatever goes wrong before them, and what each one is.

    A node that divides by what another one of them made 0 is none.
    """
    model, usual = subject.model, usual_error(prediction.introduced)
    infos = [model.node(node) for island in islands for node in island]
    around = TensorsAround(subject, infos, subject.precision)
    found: dict[str, str] = {}
    for info in sorted(infos, key=lambda node: node.index):
        measured = around.measured(info, prediction.introduced.get(info.name), usual)
        reason = own_fault(measured, subject.precision)
        behind = {node.name for node in map(model.producer, info.inputs) if node is not None}
        consequence = info.op in DIVIDES and not behind.isdisjoint(found) and not measured.output.overflowing
        if reason is None or consequence or effects.of([info.name]) <= 1.0:
            continue
        # What decides by whole numbers, and how often otherwise, says more than that they are too large.
        if measured.output.whole and decision_of(subject, info, prediction.failing_sample) is not None:
            continue
        found[info.name] = reason
    return found


def loses_values(subject: Subject, prediction: Prediction, nodes: Iterable[str]) -> bool:
    """Whether a value overflows or vanishes at one of `nodes`, which is a fault however little the others err."""
    infos = [subject.model.node(node) for node in nodes]
    around, usual = TensorsAround(subject, infos, subject.precision), usual_error(prediction.introduced)
    measured = (around.measured(info, prediction.introduced.get(info.name), usual) for info in infos)
    return any(loses(node, subject.precision) for node in measured)


def _with_reasons(
    subject: Subject, origins: Sequence[Origin], faults: Mapping[str, str]
) -> tuple[Origin, ...]:
    """`origins` in the order of the graph, with the reasons that are known and what else mends them."""
    model = subject.model
    infos = [model.node(origin.node) for origin in origins]
    around = TensorsAround(subject, infos, subject.precision)
    found = []
    norms: Mapping[str, str] | None = None
    for origin, info in zip(origins, infos, strict=True):
        mend = lost_constant(around.measured(info, origin.introduced, 0.0), subject.precision)
        if mend is None and info.op in IN_NORMS:
            norms = written_out_norms(model) if norms is None else norms
            mend = NORMS.get(norms.get(info.name, ""))
        # What goes wrong in a body says more than that its output is wrong.
        reason = origin.why if info.op in WITH_BODIES else faults.get(origin.node, origin.why)
        found.append(replace(origin, why=reason, mend=mend))
    return tuple(sorted(found, key=lambda origin: model.node(origin.node).index))


IN_NORMS = frozenset({"Mul", "Pow", "ReduceMean", "Add", "Sqrt"})
NORMS = {"LayerNormalization": Mend.LAYER_NORM, "RMSNormalization": Mend.RMS_NORM}
DIVIDES = frozenset({"Div", "Reciprocal"})


def _first(island: Sequence[str], outlying: set[str], crossings: Callable[[], list[str]]) -> str:
    """The first node of an island that introduces far more error than others, or whose tensor crosses its gate."""
    for node in island:
        if node in outlying:
            return node
    crossing = crossings()
    return next((node for node in island if node in crossing), island[0])


def explain_nodes(
    subject: Subject,
    prediction: Prediction,
    nodes: Iterable[str],
    observed: Mapping[str, float] | None = None,
    *,
    alone: Mapping[str, float] | None = None,
) -> tuple[Origin, ...]:
    """Each node as an origin, with what happens there at the precision under test.

    `observed` has the nrmse of an engine that errs at a node although the emulator does not, and `alone` what lowering
    a node alone does to the outputs, in multiples of the limit of the worst gate.
    """
    model = subject.model
    infos = [model.node(node) for node in dict.fromkeys(nodes)]
    sample = prediction.failing_sample
    measurements = _measurements(
        subject, infos, prediction.introduced, usual_error(prediction.introduced), sample
    )
    origins: tuple[Origin, ...] = ()
    for info, measured in zip(infos, measurements, strict=True):
        measured = replace(
            measured, observed=(observed or {}).get(info.name), alone=(alone or {}).get(info.name)
        )
        origins += blame(subject, prediction, [info.name], why(measured, subject.precision))
    return origins


def blame(subject: Subject, prediction: Prediction, nodes: Iterable[str], reason: str) -> tuple[Origin, ...]:
    """Each node as an origin for one reason."""
    infos = [subject.model.node(node) for node in dict.fromkeys(nodes)]
    return tuple(
        Origin(info.name, info.op, _tensor(subject.model, info), reason, prediction.introduced.get(info.name))
        for info in infos
    )


def _measurements(
    subject: Subject, infos: Sequence[NodeInfo], introduced: Mapping[str, float], usual: float, sample: int
) -> Iterator[MeasuredNode]:
    """What is measured of each node of `infos`: around it, in its body, and at what decides by what it writes."""
    tensors = TensorsAround(subject, infos, subject.precision)
    for info in infos:
        error = introduced.get(info.name)
        measured = tensors.measured(info, error, usual)
        if info.op in WITH_BODIES:
            measured = replace(measured, inside=_inside(subject, info.name, usual, sample))
        if error is not None and error <= OUTLYING * usual:
            measured = replace(measured, decision=decision_of(subject, info, sample))
        yield measured


def _inside(subject: Subject, node: str, usual: float, sample: int) -> str | None:
    """Why the body of `node` goes wrong: at the first node that stands out, in the first iteration in which one does.
    In the body alone there may be no usual error, so that of the model is given."""
    body = open_body(subject, node, sample)
    if body is None:
        return None
    usual = usual or FORMATS[subject.precision].rounding
    try:
        for iteration in range(len(body.bench.feeds)):
            errors = introduced_errors(body, iteration)
            found = next((name for name in body.units if errors.get(name, 0.0) > OUTLYING * usual), None)
            if found is not None:
                info = body.model.node(found)
                there = replace(
                    body, bench=body.bench.with_feeds([body.bench.feeds[iteration]]), known_errors={}
                )
                (measured,) = _measurements(there, [info], errors, usual, 0)
                reason = why(measured, subject.precision)
                return reason if measured.inside else f"{IN_BODY} {info.name} ({info.op}), {reason}"
    except HarnessError:  # a body that does not run by itself shows no more
        return None
    finally:
        body.bench.close()
    return None


def _tensor(model: Model, node: NodeInfo) -> str:
    """The first float tensor that a node writes."""
    floats = [name for name in node.outputs if name and model.dtypes.get(name) == "float32"]
    return floats[0] if floats else node.outputs[0]


class TensorsAround:
    """What the tensors around some nodes hold in FP32, over all samples, measured in one run of the reference each."""

    def __init__(self, subject: Subject, nodes: Sequence[NodeInfo], precision: Precision) -> None:
        self._model = subject.model
        self._precision, self._known = precision, subject.known_ranges
        initializers = self._model.ir.graph.initializers
        names = [name for node in nodes for name in (*node.inputs, *node.outputs)]
        floats = [name for name in dict.fromkeys(names) if name and self._model.dtypes.get(name) == "float32"]
        self._constants = {
            name: np.asarray(initializers[name].const_value.numpy())  # type: ignore[union-attr]
            for name in floats
            if name in initializers and initializers[name].const_value is not None
        }
        fed = set(self._model.feed_names())
        wanted = [name for name in floats if name not in self._constants and name not in fed]
        bench = self._bench = subject.bench
        samples = range(len(bench.feeds)) if wanted else ()
        runs = [bench.reference_tensors(sample, tuple(wanted), copies=COPIES) for sample in samples]
        self._arrays = {name: [run[name] for run in runs] for name in wanted}
        self._arrays |= {name: [feeds[name] for feeds in bench.feeds] for name in floats if name in fed}

    def output_of(self, node: NodeInfo) -> str:
        """The first float tensor that a node writes."""
        return _tensor(self._model, node)

    def measured(self, node: NodeInfo, introduced: float | None, usual: float) -> MeasuredNode:
        """The node with what its float tensors hold.

        Args:
            node: one of the nodes.
            introduced: nrmse of the node lowered alone, if it was measured.
            usual: the median of that over all nodes; 0 if it was not measured.
        """
        proto = next(each for each in self._model.skeleton.graph.node if each.name == node.name)
        inputs = [name for name in proto.input if name in self._arrays or name in self._constants]
        axis = next((each.i for each in proto.attribute if each.name == "axis"), -1)
        return MeasuredNode(
            op=node.op,
            inputs=tuple(self._range(name, axis) for name in inputs),
            output=self._range(_tensor(self._model, node)),
            introduced=introduced,
            usual=usual or None,
            exponent=self._exponent(node.op, inputs),
            partial=None if introduced is None or math.isfinite(introduced) else self._partial(proto),
        )

    def _partial(self, proto: onnx.NodeProto) -> float | None:
        """The largest partial sum of a product, on a part of its rows and columns, before a kernel scales it."""
        if proto.op_type not in PRODUCTS:
            return None
        read = [self._constants.get(name) for name in proto.input[:2]]
        left, right = (
            self._arrays[name][0] if constant is None and name in self._arrays else constant
            for name, constant in zip(proto.input[:2], read, strict=True)
        )
        if left is None or right is None:
            return None
        how = self._bench.emulator.arithmetic(self._precision, self._bench.feeds[0]).sums.get(proto.name)
        scale = 1.0 if how is None else abs(how.scale)
        found = (largest_partial_sum(*pair) / scale for pair in sampled_product(proto, left, right))
        return max(found, default=None)

    def _range(self, name: str, axis: int = -1) -> TensorRange:
        key = self._precision, name, axis
        if key not in self._known:
            self._known[key] = self._measured_range(name, axis)
        return self._known[key]

    def _measured_range(self, name: str, axis: int) -> TensorRange:
        if name in self._constants:
            return TensorRange.of(name, [self._constants[name]], self._precision, constant=True, axis=axis)
        producer = self._model.producer(name)
        constant = producer is not None and producer.op == "Constant"
        return TensorRange.of(name, self._arrays.get(name, []), self._precision, constant=constant, axis=axis)

    def _exponent(self, op: str, inputs: Sequence[str]) -> float | None:
        if op != "Pow" or len(inputs) != 2:
            return None
        constant = self._constants.get(inputs[1])
        if constant is None and inputs[1] in self._arrays:
            constant = self._arrays[inputs[1]][0]
        if constant is None or constant.size != 1 or not math.isfinite(float(constant.reshape(-1)[0])):
            return None
        return float(constant.reshape(-1)[0])
