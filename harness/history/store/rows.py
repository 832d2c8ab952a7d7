"""From a judged build to the rows of the history.

The judge keeps no tensors. A Recording holds those of one build for long enough to hash them, and to compare them with
those of the first build of the first release.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from harness.case import Case
from harness.comparison import NONFINITE, GateResult, Metrics, compare_tensors, look_behind
from harness.history.store.engines import BuiltLayer, write_layers, write_reason
from harness.history.store.schema import MISTAKE, NAMES, Row
from harness.history.types import RowKind
from harness.judge import MadeWith, OutputResult, RunResult, Verdict, Workbench
from harness.tensors import hash_array, host_fingerprint
from harness.worker.protocol import EngineFacts, Fingerprint, LayerInfo

if TYPE_CHECKING:
    import pandas as pd

_OF_ENGINE = tuple(item.name for item in fields(Fingerprint))[1:]
_METRICS = ("error", *(item.name for item in fields(Metrics) if item.name in NAMES))
_OF_HOST = ("harness", "onnxruntime", "host_cpu")
MADE_WITH = (*_OF_ENGINE, *_OF_HOST)
"""The columns that say what the numbers of a row were made with."""

#: What a case says besides the question: another model, seed or build option is another question, these are not.
_BESIDES = frozenset({"path", "description", "tags", "waivers", "requires", "runs", "tolerances", "findings"})


HASH_DIGITS = 16
MOST_EVIDENCE = 4

Tensors = Mapping[str, np.ndarray]


@dataclass
class Recording:
    """The tensors of one build, sample by sample: of the unobserved engine, and of the observed one."""

    unobserved: list[Tensors] = field(default_factory=list)
    observed: list[Tensors] = field(default_factory=list)

    def output_hash(self, tensor: str, sample: int) -> str:
        """The hash of an output in one sample."""
        return _hash(self.unobserved[sample], tensor)[:HASH_DIGITS]

    def layer_hash(self, tensor: str) -> str:
        """The hash of an observed tensor over all samples."""
        digests = "".join(_hash(tensors, tensor) for tensors in self.observed)
        return hashlib.sha256(digests.encode()).hexdigest()[:HASH_DIGITS]

    def output_distance(self, other: Recording, tensor: str, sample: int) -> float | None:
        """Root mean square difference of an output from that of `other`; None if `other` lacks it."""
        return _distance(self.unobserved[sample : sample + 1], other.unobserved[sample : sample + 1], tensor)

    def layer_distance(self, other: Recording, tensor: str) -> float | None:
        """Root mean square difference of an observed tensor over all samples; None if `other` lacks it."""
        return _distance(self.observed, other.observed, tensor)


def _hash(tensors: Tensors, tensor: str) -> str:
    """The hash of a tensor; one that could not be computed has the same in every build."""
    found = tensors.get(tensor)
    return hashlib.sha256(b"not computed").hexdigest() if found is None else hash_array(np.asarray(found))


def _distance(mine: Sequence[Tensors], others: Sequence[Tensors], tensor: str) -> float | None:
    if not others or len(mine) != len(others):
        return None
    if any(tensor not in tensors for tensors in (*mine, *others)):
        return None
    total, count = 0.0, 0
    for one, other in zip(mine, others, strict=True):
        difference = compare_tensors(np.asarray(one[tensor]), np.asarray(other[tensor]))
        if difference.incomparable:
            return math.inf
        total += difference.rmse**2 * difference.count
        count += difference.count
    return math.sqrt(total / count) if count else 0.0


def hash_case(case: Case, *, whole: bool = False) -> str:
    """SHA-256 of what decides the numbers of a case: model, inputs, samples, seed, build options; `whole`: of all."""
    document = case.model_dump(mode="json", exclude={"path"} if whole else set(_BESIDES))
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def rows_of(
    result: RunResult, bench: Workbench, recording: Recording, first: Recording | None, common: Row
) -> list[Row]:
    """All rows of one judged build.

    Args:
        result: what the judge says.
        bench: the case with its model.
        recording: the tensors of this build.
        first: the tensors of the first build of the first release; None if there is none to compare with.
        common: the columns that all rows share: run, release, build, …
    """
    engine = None if result.engine is None else result.engine.fingerprint
    if engine is not None:
        common = replace(common, **{name: getattr(engine, name) for name in _OF_ENGINE})
    observed = frozenset(layer.tensor for layer in result.layers)
    return [
        _engine(common, result, bench),
        *(_output(common, output, bench, recording, first, observed) for output in result.outputs),
        *_layers(common, result, bench, recording, first),
    ]


def common_columns(case: Case, bench: Workbench | None, run: str) -> Row:
    """What the rows of one case share."""
    host = host_fingerprint()
    return Row(
        run=run,
        time=datetime.datetime.now(datetime.UTC),
        case=case.name,
        case_path=case.model.path if case.path is None else str(case.path),
        inputs=json.dumps(shapes) if (shapes := case.shape_arguments) else None,
        case_sha256=hash_case(case),
        model_sha256=None if bench is None else bench.model.sha256,
        seed=case.seed,
        harness=host.harness,
        onnxruntime=host.onnxruntime,
        host_cpu=host.cpu,
    )


def fingerprint_in(records: pd.DataFrame) -> MadeWith:
    """What the numbers of `records` were made with, put together again from their columns.

    Args:
        records: rows of one run, with `release` and MADE_WITH.
    """
    engines = records[records["tensorrt"].notna()].drop_duplicates("release")
    environments = {
        str(release): Fingerprint(str(release), *found)
        for release, *found in _texts(engines, "release", *_OF_ENGINE)
    }
    for harness, onnxruntime, cpu in _texts(records.head(1), *_OF_HOST):
        return MadeWith(
            harness=harness or "", onnxruntime=onnxruntime or "", cpu=cpu or "", environments=environments
        )
    return MadeWith()


def _texts(rows: pd.DataFrame, *columns: str) -> Iterator[list[str | None]]:
    for values in rows[list(columns)].astype(object).itertuples(index=False, name=None):
        yield [value if isinstance(value, str) else None for value in values]


def _engine(common: Row, result: RunResult, bench: Workbench) -> Row:
    facts = result.engine or EngineFacts()
    latency = facts.latency
    judged = result.verdict not in (Verdict.ERROR, Verdict.SKIP)
    return replace(
        common,
        kind=RowKind.ENGINE,
        sample=-1,
        index=-1,
        verdict=MISTAKE if result.mistake else result.verdict.value,
        cause=result.cause,
        why=write_reason(result.why),
        evidence=result.evidence[-MOST_EVIDENCE:],
        passed=all(output.passed for output in result.outputs) if judged else None,
        faithful=result.faithful,
        build_seconds=facts.build_seconds,
        engine_bytes=facts.engine_bytes,
        latency_ms=None if latency is None else latency.median_ms,
        latency_p99_ms=None if latency is None else latency.p99_ms,
        typing=facts.typing,
        structure=write_layers(_built(facts.layers, bench)) if facts.layers else None,
    )


def _built(layers: Sequence[LayerInfo], bench: Workbench) -> list[BuiltLayer]:
    ops = {node.name: node.op for node in bench.model.nodes}
    return [
        BuiltLayer(
            name=layer.name,
            kind=layer.kind,
            onnx_nodes=layer.onnx_nodes,
            precision=layer.precision or None,
            tactic=layer.tactic or None,
            outputs=layer.outputs,
            ops=tuple(ops.get(node, "") for node in layer.onnx_nodes),
        )
        for layer in layers
    ]


def _output(
    common: Row,
    output: OutputResult,
    bench: Workbench,
    recording: Recording,
    first: Recording | None,
    observed: frozenset[str],
) -> Row:
    node = bench.model.producer(output.tensor)
    own = (output.tensor,) if output.tensor in observed else ()
    distance = None if first is None else recording.output_distance(first, output.tensor, output.sample)
    row = replace(
        common,
        kind=RowKind.OUTPUT,
        tensor=output.tensor,
        sample=output.sample,
        index=-1 if node is None else node.index,
        node=None if node is None else node.name,
        op=None if node is None else node.op,
        reads=own or (_nearest(output.tensor, bench.model.predecessors, observed) if observed else None),
        hash=recording.output_hash(output.tensor, output.sample),
        distance=_relative(distance, output.metrics),
    )
    return _measured(row, output.metrics, output.gates)


def _layers(
    common: Row, result: RunResult, bench: Workbench, recording: Recording, first: Recording | None
) -> Iterator[Row]:
    if not result.layers:  # nor need there be a model
        return
    observed = frozenset(layer.tensor for layer in result.layers)
    for layer in result.layers:
        distance = None if first is None else recording.layer_distance(first, layer.tensor)
        row = replace(
            common,
            kind=RowKind.LAYER,
            tensor=layer.tensor,
            sample=-1,
            index=layer.index,
            node=layer.node,
            op=layer.op,
            reads=_nearest(layer.tensor, bench.model.predecessors, observed),
            hash=recording.layer_hash(layer.tensor),
            distance=_relative(distance, layer.metrics),
            introduced=None if layer.introduced is None else layer.introduced.error,
            origin=layer.origin,
        )
        yield _measured(row, layer.metrics, layer.gates)


def _nearest(
    tensor: str, predecessors: Mapping[str, tuple[str, ...]], observed: Collection[str]
) -> tuple[str, ...]:
    """The nearest observed tensors that a tensor was computed from, sorted."""
    return tuple(sorted(look_behind(tensor, predecessors, observed)[1]))


def _measured(row: Row, metrics: Metrics, gates: tuple[GateResult, ...]) -> Row:
    gate = _decisive(gates)
    return replace(
        row,
        **{name: getattr(metrics, name) for name in _METRICS},
        overflow=metrics.overflow_count,
        gate=None if gate is None else gate.metric,
        limit=None if gate is None else gate.limit,
        passed=all(gate.passed for gate in gates),
    )


def _decisive(gates: tuple[GateResult, ...]) -> GateResult | None:
    """The first gate that fails, else the first that is on a metric."""
    failing = [gate for gate in gates if not gate.passed]
    plain = [gate for gate in gates if gate.metric != NONFINITE.metric]
    return next(iter([*failing, *plain, *gates]), None)


def _relative(distance: float | None, metrics: Metrics) -> float | None:
    if distance is None:
        return None
    if distance == 0:
        return 0.0
    return distance / metrics.reference_rms if metrics.reference_rms else math.inf
