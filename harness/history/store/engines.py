"""Engines as the history keeps them: the layers of each build as JSON, and what is known of a build as a row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.history.store.schema import COMPILED, MISTAKE, NOT_BUILT
from harness.history.types import CaseRun, DriftStatus
from harness.judge import RunReason, Verdict
from harness.tensors import UNLESS_DEFAULT, from_json, to_json
from harness.worker.protocol import TENSORRT_RTX

if TYPE_CHECKING:
    import pandas as pd

UNJUDGED = {
    Verdict.ERROR.value: DriftStatus.ERROR,
    Verdict.SKIP.value: DriftStatus.SKIP,
    MISTAKE: DriftStatus.MISTAKE,
    NOT_BUILT: DriftStatus.FAIL,
}
"""The verdicts of engine rows whose builds could not be judged, and the status that each comes to."""

_COLUMNS = (
    *("case", "precision", "run", "build", "verdict", "why", "evidence"),
    *("case_path", "inputs", "tensorrt", "product", "faithful", "structure"),
)


@dataclass(frozen=True)
class BuiltLayer:
    """A layer of an engine.

    Args:
        name: the release's own name for it.
        kind: its type, in the release's words; None if unknown.
        onnx_nodes: the ONNX nodes that it computes.
        precision: the precision that it computes in; None if unknown.
        tactic: what it runs; None if unknown.
        outputs: the tensors that it writes.
        ops: the operators of `onnx_nodes`, one for one; empty where the model is not known.
    """

    name: str = field(default="", metadata=UNLESS_DEFAULT)
    kind: str | None = field(default=None, metadata=UNLESS_DEFAULT)
    onnx_nodes: tuple[str, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    precision: str | None = field(default=None, metadata=UNLESS_DEFAULT)
    tactic: str | None = field(default=None, metadata=UNLESS_DEFAULT)
    outputs: tuple[str, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    ops: tuple[str, ...] = ()


def write_layers(layers: Sequence[BuiltLayer]) -> str:
    """The layers of one engine as the column `structure` has them."""
    return json.dumps(to_json(layers), ensure_ascii=False, separators=(",", ":"))


def read_layers(structure: str) -> tuple[BuiltLayer, ...]:
    """The layers of one engine from the column `structure`.

    Raises:
        ValueError: it is not what `write_layers` writes.
    """
    return from_json(tuple[BuiltLayer, ...], json.loads(structure))


def read_inputs(inputs: str) -> tuple[str, ...]:
    """The shapes that a bare model was given, from the column `inputs`.

    Raises:
        ValueError: it is not a list of texts.
    """
    return from_json(tuple[str, ...], json.loads(inputs))


def write_reason(reason: RunReason) -> str | None:
    """What decided a verdict as the column `why` has it; None if nothing did."""
    return (
        None
        if reason == RunReason()
        else json.dumps(to_json(reason), ensure_ascii=False, separators=(",", ":"))
    )


def read_reason(why: str | float | None) -> RunReason:
    """What decided a verdict from the column `why`; its `str` is a sentence.

    Args:
        why: a value of that column; None or NaN where nothing was decided.

    Raises:
        ValueError: it is not what harness writes.
    """
    return from_json(RunReason, json.loads(why)) if isinstance(why, str) else RunReason()


@dataclass(frozen=True)
class EngineRow:
    """What the history says of one build.

    Args:
        run: id of the run.
        build: number of the build in its run, from 0.
        verdict: as `harness run` gives it, or `mistake`.
        why: what decided the verdict.
        evidence: what supports an error: the last lines of its log.
        case_path: the case file, or the model itself.
        inputs: the shapes that such a model was given.
        tensorrt: version of TensorRT, which ranges of waivers are of; None on the emulator and for TensorRT for RTX.
        faithful: whether observing left the outputs alone; None if nothing was observed.
        layers: the layers of the engine; None if they are not known.
    """

    run: str
    build: int
    verdict: str
    why: RunReason = field(default=RunReason())
    evidence: tuple[str, ...] = ()
    case_path: str | None = None
    inputs: tuple[str, ...] = ()
    tensorrt: str | None = None
    faithful: bool | None = None
    layers: tuple[BuiltLayer, ...] | None = None

    @property
    def compiled(self) -> bool:
        """Whether it was compiled, or could not be, and nothing was run."""
        return self.verdict in (COMPILED, NOT_BUILT)

    @property
    def unjudged(self) -> DriftStatus | None:
        """The status of a build that could not be judged; None if it was."""
        return UNJUDGED.get(self.verdict)


def engine_rows(rows: pd.DataFrame) -> dict[CaseRun, list[EngineRow]]:
    """Engine rows of the history by case and precision, in their order.

    Args:
        rows: rows of kind `engine`; columns that it lacks are unknown.
    """
    found: dict[CaseRun, list[EngineRow]] = {}
    columns = [
        rows[name].astype(object).where(rows[name].notna(), None).tolist()
        if name in rows
        else [None] * len(rows)
        for name in _COLUMNS
    ]
    for case, precision, run, build, verdict, *rest in zip(*columns, strict=True):
        why, evidence, path, inputs, tensorrt, product, faithful, structure = rest
        row = EngineRow(
            run=run,
            build=int(build),
            verdict=verdict,
            why=read_reason(why),
            evidence=() if evidence is None else tuple(evidence),
            case_path=path,
            inputs=() if inputs is None else read_inputs(inputs),
            tensorrt=None if product == TENSORRT_RTX else tensorrt,
            faithful=None if faithful is None else bool(faithful),
            layers=None if structure is None else read_layers(structure),
        )
        found.setdefault((case, precision), []).append(row)
    return found
