"""What a diagnosis says: the verdict, where, why, what to do, and everything it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.judge import LayerResult, OutputResult, RunResult, jsonable
from harness.tensors import Precision
from harness.text import shorten

if TYPE_CHECKING:
    import pandas as pd

DIAGNOSIS_SCHEMA = "harness.diagnosis/1"

FILES = frozenset({"layer_list", "typed_model", "pins"})
"""Recipes that are files to read or to build from, not commands to run."""

A_FEW = 12
"""More nodes than these that must go back to FP32 are needed together, rather than each for itself."""

NOBODY = "no single node is to blame"
"""How the reason begins for an error that accumulates; its origins are then where gates begin to fail."""


class Verdict(StrEnum):
    """What kind of fault it is.

    `conversion`: the candidate is wrong in FP32 without TF32 already. `tf32`: it is right without TF32.
    `precision`: returning some nodes to FP32 cures it. `fusion`: separating layers cures it, at the same
    precision. `tactic`: builds that differ in their tactics differ in the outcome. `nondeterministic`: the same
    build differs in the outcome. `reference`: there is nothing to be held against. `none`: nothing is wrong.
    `unresolved`: what was shown does not decide between these.
    """

    CONVERSION = "conversion"
    TF32 = "tf32"
    PRECISION = "precision"
    FUSION = "fusion"
    TACTIC = "tactic"
    NONDETERMINISTIC = "nondeterministic"
    REFERENCE = "reference"
    NONE = "none"
    UNRESOLVED = "unresolved"


class Stage(StrEnum):
    """The stages, in their order."""

    GATES = "gates"
    PREDICT = "predict"
    OBSERVE = "observe"
    CURE = "cure"
    ATTRIBUTE = "attribute"
    HAND_OVER = "hand over"


@dataclass(frozen=True)
class Evidence:
    """One thing that was shown, or tried in vain.

    Args:
        stage: which stage found it.
        text: one sentence for a person.
        facts: the numbers behind it, plain types.
    """

    stage: Stage
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """`stage`, `text` and `facts`."""
        return {"stage": self.stage.value, "text": self.text, "facts": jsonable(self.facts)}


@dataclass(frozen=True)
class Origin:
    """A node where the error starts.

    Args:
        node: name of the node.
        op: its operator type.
        tensor: the tensor that it writes.
        why: what happens there, in physical terms.
        introduced: nrmse of the node lowered alone on the reference's tensors; None where it was not measured.
    """

    node: str
    op: str
    tensor: str
    why: str
    introduced: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields; a number that is not finite is a string."""
        return {
            "node": self.node,
            "op": self.op,
            "tensor": self.tensor,
            "why": self.why,
            "introduced": jsonable(self.introduced),
        }


@dataclass(frozen=True)
class Cost:
    """What was spent, by this diagnosis and by those that it resumed.

    Args:
        builds: engines that were built.
        emulations: evaluations of the emulator.
        seconds: wall time.
        stages: by stage, the seconds of it that this process spent there.
    """

    builds: int = 0
    emulations: int = 0
    seconds: float = 0.0
    stages: Mapping[Stage, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """`builds`, `emulations`, `seconds`, and `stages`."""
        return {
            "builds": self.builds,
            "emulations": self.emulations,
            "seconds": round(self.seconds, 4),
            "stages": {stage.value: round(seconds, 4) for stage, seconds in self.stages.items()},
        }


@dataclass(frozen=True)
class Price:
    """What the island costs in latency, in milliseconds (median of timed inferences on the GPU)."""

    before_ms: float
    after_ms: float

    @property
    def ratio(self) -> float:
        """The cured engine's latency over the faulty one's."""
        return self.after_ms / self.before_ms if self.before_ms else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """`before_ms`, `after_ms` and `ratio`."""
        return {"before_ms": self.before_ms, "after_ms": self.after_ms, "ratio": jsonable(self.ratio)}


@dataclass(frozen=True)
class Separation:
    """A tensor that must not be fused away: marking it cures.

    Args:
        tensor: the tensor.
        producer: the node that writes it.
        readers: the nodes that read it.
    """

    tensor: str
    producer: str
    readers: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields."""
        return {"tensor": self.tensor, "producer": self.producer, "readers": list(self.readers)}


@dataclass(frozen=True)
class Repro:
    """A folder that shows the fault by itself.

    Args:
        folder: where it is.
        nodes: how many nodes the subgraph has.
        shows: whether it was run in a clean process and showed the same fault.
        signature: what it showed: `nonfinite`, `nrmse`, `max_abs` by output.
        note: why it does not show the fault, or how far it is from the whole.
    """

    folder: Path
    nodes: int
    shows: bool
    signature: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """The answer.

    Args:
        case: name of the case.
        precision: the precision under test.
        candidate: `emulator` or the name of an environment.
        verdict: what kind of fault it is.
        summary: the answer in one or two sentences.
        origins: where the error starts, in topological order.
        culprits: the nodes that must go back to FP32, in topological order.
        confirmed: the unobserved candidate was seen to pass with what the diagnosis proposes.
        minimal: each culprit alone was seen to be needed by the unobserved candidate.
        minimal_on: on what that was shown: `candidate`, or `emulator` where it stands for an engine; else None.
        faithful: whether the observed engine's outputs equal the unobserved one's; None if not applicable.
        islands: the culprits as connected parts of the graph.
        separations: for `fusion`: the tensors that must not be fused away.
        cost: what was spent.
        evidence: what was shown, in the order of the stages.
        advice: what to do next, one command or sentence each.
        recipes: how to keep the culprits in FP32, by tool.
        price: what that costs in latency; None where nothing was timed.
        repro: the repro folder; None if there is none.
        before: the run that fails, with its layers as far as they were observed.
        after: the run with the culprits in FP32, its layers as far as they were asked for.
        case_path: the case file, if there is one.
        journal: folder of the journals, if one was kept.
        fingerprint: what the numbers were made with.
        casts: the culprits cure where Casts hold them in the graph: build from the typed model.
        cured: the outputs of the unobserved engine with the culprits in FP32; empty where they are not known.
        beside: a sentence on each output that the reference does not decide, where the others are diagnosed.
        own_types: for `reference`: the model's own float16 or bfloat16 overflows.
    """

    case: str
    precision: Precision
    candidate: str
    verdict: Verdict
    summary: str
    origins: tuple[Origin, ...] = ()
    culprits: tuple[str, ...] = ()
    confirmed: bool = False
    minimal: bool = False
    minimal_on: str | None = None
    faithful: bool | None = None
    islands: tuple[tuple[str, ...], ...] = ()
    separations: tuple[Separation, ...] = ()
    cost: Cost = field(default_factory=Cost)
    evidence: tuple[Evidence, ...] = ()
    advice: tuple[str, ...] = ()
    recipes: Mapping[str, Any] = field(default_factory=dict)
    price: Price | None = None
    repro: Repro | None = None
    before: RunResult | None = None
    after: RunResult | None = None
    case_path: str | None = None
    journal: str | None = None
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    casts: bool = False
    cured: tuple[OutputResult, ...] = ()
    beside: tuple[str, ...] = ()
    own_types: bool = False

    def __repr__(self) -> str:
        """`Diagnosis(mlp::fp16: precision, At b7_sq (Mul), …)`."""
        return f"Diagnosis({self.case}::{self.precision}: {self.verdict}, {shorten(self.summary, 120)})"

    @property
    def outputs_after(self) -> tuple[OutputResult, ...]:
        """The outputs with the culprits in FP32: the engine's own, or else the emulator's."""
        return self.cured or (() if self.after is None else self.after.outputs)

    @property
    def after_on(self) -> str:
        """What `outputs_after` are of."""
        return self.candidate if self.cured or self.after is None else self.after.candidate

    @property
    def exit_code(self) -> int:
        """Exit status: 0 nothing is wrong, 4 unexplained, else 1: a fault was found."""
        return {Verdict.NONE: 0, Verdict.UNRESOLVED: 4}.get(self.verdict, 1)

    @property
    def layers(self) -> tuple[LayerResult, ...]:
        """The layers of the run that fails; empty if none were observed."""
        return () if self.before is None else self.before.layers

    def to_dict(self) -> dict[str, Any]:
        """The document of schema `harness.diagnosis/1`: plain types, non-finite numbers as strings."""
        return {
            "schema": DIAGNOSIS_SCHEMA,
            "case": self.case,
            "case_path": self.case_path,
            "precision": self.precision.value,
            "candidate": self.candidate,
            "verdict": self.verdict.value,
            "summary": self.summary,
            "beside": list(self.beside),
            "own_types": self.own_types,
            "origins": [origin.to_dict() for origin in self.origins],
            "culprits": list(self.culprits),
            "islands": [list(island) for island in self.islands],
            "separations": [separation.to_dict() for separation in self.separations],
            "confirmed": self.confirmed,
            "minimal": self.minimal,
            "minimal_on": self.minimal_on,
            "casts": self.casts,
            "faithful": self.faithful,
            "cost": self.cost.to_dict(),
            "price": None if self.price is None else self.price.to_dict(),
            "evidence": [evidence.to_dict() for evidence in self.evidence],
            "advice": list(self.advice),
            "recipes": jsonable(self.recipes),
            "repro": None if self.repro is None else str(self.repro.folder),
            "repro_shows": None if self.repro is None else self.repro.shows,
            "outputs": _outputs(self.before, self.outputs_after),
            "after_on": self.after_on if self.outputs_after else None,
            "layers": self._layer_rows(),
            "journal": self.journal,
            "fingerprint": jsonable(self.fingerprint),
        }

    def to_frame(self) -> pd.DataFrame:
        """One row a layer: index, node, op, tensor, accumulated, introduced, cured, headroom, origin, culprit."""
        import pandas as pd

        columns = ["index", "node", "op", "tensor", "accumulated", "introduced", "cured", "headroom"]
        rows = self._layer_rows(spell=False)
        return pd.DataFrame(rows, columns=[*columns, "diverged", "origin", "culprit"])

    def _layer_rows(self, *, spell: bool = True) -> list[dict[str, Any]]:
        cured = {layer.tensor: layer.metrics.nrmse for layer in (self.after.layers if self.after else ())}
        origins = {origin.tensor for origin in self.origins}
        culprits = set(self.culprits)
        rows = [
            {
                "index": layer.index,
                "node": layer.node,
                "op": layer.op,
                "tensor": layer.tensor,
                "accumulated": layer.metrics.nrmse,
                "introduced": None if layer.introduced is None else layer.introduced.nrmse,
                "cured": cured.get(layer.tensor),
                "headroom": layer.metrics.headroom,
                "diverged": layer.diverged,
                "origin": layer.tensor in origins,
                "culprit": layer.node in culprits,
            }
            for layer in self.layers
        ]
        return jsonable(rows) if spell else rows


def _outputs(before: RunResult | None, after: Sequence[OutputResult]) -> list[dict[str, Any]]:
    """The outputs of the failing and of the cured run side by side."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for label, outputs in (("before", () if before is None else before.outputs), ("after", after)):
        for output in outputs:
            row = rows.setdefault(
                (output.tensor, output.sample), {"tensor": output.tensor, "sample": output.sample}
            )
            row[label] = _numbers(output)
    return list(rows.values())


def _numbers(output: OutputResult) -> dict[str, Any]:
    metrics = output.metrics
    return {
        "nrmse": jsonable(metrics.nrmse),
        "max_abs": jsonable(metrics.max_abs),
        "nonfinite": metrics.nonfinite,
        "passed": output.passed,
        "gates": [jsonable(gate.to_dict()) for gate in output.gates],
    }
