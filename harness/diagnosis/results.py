"""What a diagnosis says: the verdict, where, why, what to do, and everything it rests on."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

from harness.comparison import GateResult
from harness.judge import (
    Emulation,
    HiddenFault,
    LayerResult,
    MadeWith,
    OutputResult,
    RunResult,
    Selection,
    ShapeResult,
)
from harness.tensors import NEVER, UNLESS_DEFAULT, Precision, to_json
from harness.text import shorten

if TYPE_CHECKING:
    import pandas as pd

DIAGNOSIS_SCHEMA = "harness.diagnosis/1"

A_FEW = 12
"""More nodes than these that must go back to FP32 are needed together, rather than each for itself."""

EMULATOR, CANDIDATE = "emulator", "candidate"
"""On what something was shown: on the emulator that stands for an engine, or on the candidate itself."""

Fact: TypeAlias = "str | int | float | bool | Sequence[Fact] | Mapping[str, Fact] | None"
"""A number, a name or a list of them, behind a sentence."""


class DiagnosisVerdict(StrEnum):
    """What kind of fault it is.

    `conversion`: the candidate is wrong in FP32 without TF32 already, or, where it cannot do without, by more than the
    emulated TF32. `tf32`: it is right without TF32, or, where it cannot do without, as right as the emulated TF32.
    `precision`: returning some nodes to FP32 cures it. `fusion`: separating layers cures it, at the same
    precision. `tactic`: builds that differ in their tactics differ in the outcome. `nondeterministic`: the same
    build differs in the outcome. `reference`: the reference itself is unsound. `file`: FP16, bfloat16 or Q/DQ pairs
    that the file itself has make its outputs wrong. `shape`: another shape of the declared profile is wrong.
    `none`: nothing is wrong.
    `unresolved`: what was shown does not decide between these.
    """

    CONVERSION = "conversion"
    TF32 = "tf32"
    PRECISION = "precision"
    FUSION = "fusion"
    TACTIC = "tactic"
    NONDETERMINISTIC = "nondeterministic"
    REFERENCE = "reference"
    FILE = "file"
    SHAPE = "shape"
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


class EvidenceKind(StrEnum):
    """What a piece of evidence is about, and in which stage it is found."""

    stage: Stage

    def __new__(cls, value: str, stage: Stage) -> Self:
        """A kind with its stage."""
        kind = str.__new__(cls, value)
        kind._value_, kind.stage = value, stage
        return kind

    REFERENCE = "reference", Stage.GATES
    OWN_ROUNDINGS = "own roundings", Stage.GATES
    BASELINE = "baseline", Stage.GATES
    STABILITY = "stability", Stage.GATES
    SET_ASIDE = "set aside", Stage.GATES
    FP32 = "fp32", Stage.GATES
    EMULATOR = "emulator", Stage.PREDICT
    OUTLIERS = "outliers", Stage.PREDICT
    OBSERVED = "observed", Stage.OBSERVE
    NOT_OBSERVED = "not observed", Stage.OBSERVE
    STARTS = "starts", Stage.OBSERVE
    SEARCH = "search", Stage.CURE
    ISLAND = "island", Stage.CURE
    FP32_SUMS = "fp32 sums", Stage.CURE
    OBEYED = "obeyed", Stage.CURE
    UNSEEN = "unseen inputs", Stage.CURE
    REGIONS = "regions", Stage.CURE
    CASTS = "casts", Stage.CURE
    HIDDEN = "hidden", Stage.ATTRIBUTE
    ACCUMULATION = "accumulation", Stage.ATTRIBUTE
    REPETITION = "repetition", Stage.ATTRIBUTE
    TACTICS = "tactics", Stage.ATTRIBUTE
    DIVERGENCE = "divergence", Stage.ATTRIBUTE
    ALONE = "alone", Stage.ATTRIBUTE
    MARKS = "marks", Stage.ATTRIBUTE
    DECISION = "decision", Stage.ATTRIBUTE
    STOPPED = "stopped", Stage.ATTRIBUTE
    TYPED_MODEL = "typed model", Stage.HAND_OVER
    REPEATED_NAMES = "repeated names", Stage.HAND_OVER
    AUTOCAST = "autocast", Stage.HAND_OVER
    REPRO = "repro", Stage.HAND_OVER
    PINS = "pins", Stage.HAND_OVER


class Recipe(StrEnum):
    """What can be handed over: a command by tool, or the path of a file."""

    TRTEXEC = "trtexec"
    POLYGRAPHY = "polygraphy"
    STRONGLY_TYPED = "trtexec_strongly_typed"
    TENSORRT_RTX = "tensorrt_rtx"
    AUTOCAST = "autocast"
    BUILD_PINNED = "build_pinned"
    LAYER_LIST = "layer_list"
    TYPED_MODEL = "typed_model"
    PINS = "pins"

    @property
    def is_file(self) -> bool:
        """Whether it is a file to read or to build from, not a command to run."""
        return self in (Recipe.LAYER_LIST, Recipe.TYPED_MODEL, Recipe.PINS)

    @property
    def builds(self) -> bool:
        """Whether it is a command that builds the cured engine."""
        return self in (Recipe.TENSORRT_RTX, Recipe.STRONGLY_TYPED, Recipe.TRTEXEC, Recipe.POLYGRAPHY)


@dataclass(frozen=True)
class Evidence:
    """One thing that was shown, or tried in vain.

    Args:
        stage: which stage found it.
        kind: what it is about.
        text: one sentence for a person.
        facts: the numbers behind it, plain types.
    """

    stage: Stage
    kind: EvidenceKind
    text: str
    facts: Mapping[str, Fact] = field(default_factory=dict)

    @classmethod
    def of(cls, kind: EvidenceKind, text: str, **facts: Fact) -> Evidence:
        """Evidence of the stage that its kind belongs to."""
        return cls(kind.stage, kind, text, facts)


class Mend(StrEnum):
    """What else mends an origin than FP32 there."""

    LARGE_CONSTANT = "large constant"
    """A constant beyond the format that is added, or bounds or masks: clamp it."""
    SMALL_CONSTANT = "small constant"
    """One that vanishes in the format: raise it."""
    FACTOR = "factor"
    """A constant that scales, and that the format does not hold: merge it with the factors around it."""
    LAYER_NORM = "layer norm"
    RMS_NORM = "rms norm"
    """A norm in primitives that an operator is the same as, which computes in FP32: export it as that."""


@dataclass(frozen=True)
class Origin:
    """A node where the error starts.

    Args:
        node: name of the node.
        op: its operator type.
        tensor: the tensor that it writes.
        why: what happens there, in physical terms.
        introduced: nrmse of the node lowered alone on the reference's tensors; None where it was not measured.
        accumulates: no single node is at fault; this is where the gates begin to fail.
        draws: the node draws random numbers, other ones in each run.
        mend: what else mends it than FP32 there; None if nothing that is known.
    """

    node: str
    op: str
    tensor: str
    why: str
    introduced: float | None = None
    accumulates: bool = False
    draws: bool = False
    mend: Mend | None = field(default=None, metadata=UNLESS_DEFAULT)


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


@dataclass(frozen=True)
class Price:
    """What the island costs in latency, in milliseconds (median of timed inferences on the GPU)."""

    before_ms: float
    after_ms: float

    ALSO_IN_JSON: ClassVar = ("ratio",)

    @property
    def ratio(self) -> float:
        """The cured engine's latency over the faulty one's."""
        return self.after_ms / self.before_ms if self.before_ms else float("nan")


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


@dataclass(frozen=True)
class ReproOutput:
    """What one output of a repro shows.

    Args:
        nonfinite: how many elements are not finite where the reference is.
        nrmse: the error of the others.
        max_abs: the largest error of the others; None where it was not measured.
    """

    nonfinite: int
    nrmse: float
    max_abs: float | None = field(default=None, metadata=UNLESS_DEFAULT)


@dataclass(frozen=True)
class Repro:
    """A folder that shows the fault by itself.

    Args:
        folder: where it is.
        nodes: how many nodes the subgraph has.
        shows: whether it was run in a clean process and showed the same fault.
        signature: what it showed, by output.
        note: why it does not show the fault, or how far it is from the whole.
    """

    folder: Path
    nodes: int
    shows: bool
    signature: Mapping[str, ReproOutput] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class LayerRow:
    """One layer of the run that fails, as documents and tables have it.

    Args:
        index: position of its node in topological order.
        node: name of the node.
        op: its operator type.
        tensor: the tensor that it writes.
        accumulated: nrmse, the candidate fed its own tensors.
        introduced: nrmse of the node alone, fed the reference's; None where it was not measured.
        cured: nrmse with the culprits in FP32; None where it was not measured.
        headroom: largest reference value over the largest number of the dtype.
        diverged: whether a gate fails.
        origin: whether the error starts here.
        culprit: whether the node must go back to FP32.
    """

    index: int
    node: str
    op: str
    tensor: str
    accumulated: float
    introduced: float | None
    cured: float | None
    headroom: float
    diverged: bool
    origin: bool
    culprit: bool


@dataclass(frozen=True)
class OutputNumbers:
    """What documents say of an output of one run."""

    nrmse: float
    max_abs: float
    nonfinite: int
    passed: bool
    gates: tuple[GateResult, ...]


@dataclass(frozen=True)
class OutputRow:
    """One output of the failing and of the cured run; None where it was not measured."""

    tensor: str
    sample: int
    before: OutputNumbers | None = field(default=None, metadata=UNLESS_DEFAULT)
    after: OutputNumbers | None = field(default=None, metadata=UNLESS_DEFAULT)


_FIRST = (
    *("case", "case_path", "precision", "candidate", "verdict", "summary", "origins", "culprits"),
    *("confirmed", "minimal", "minimal_on", "faithful", "islands"),
)
"""What documents begin with."""


@dataclass(frozen=True)
class Blame:
    """What is at fault, and how surely.

    Args:
        verdict: what kind of fault it is.
        origins: where the error starts, in topological order.
        culprits: the nodes at fault, which must go back to FP32, in topological order.
        confirmed: the unobserved candidate was seen to pass with what is proposed.
        minimal_on: on what each culprit alone was seen to be needed: `candidate`, or `emulator` where it stands for an
            engine; else None.
        separations: for `fusion`: the tensors that must not be fused away.
    """

    verdict: DiagnosisVerdict
    origins: tuple[Origin, ...] = ()
    culprits: tuple[str, ...] = ()
    confirmed: bool = False
    minimal_on: str | None = None
    separations: tuple[Separation, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Diagnosis(Blame):
    """The answer.

    Args:
        case: name of the case.
        precision: the precision under test.
        candidate: `emulator` or the name of an environment.
        summary: the answer in one or two sentences.
        minimal: each culprit alone was seen to be needed by the unobserved candidate.
        faithful: whether the observed engine's outputs equal the unobserved one's; None if not applicable.
        islands: the culprits as connected parts of the graph.
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
        fresh_samples: how many inputs that no search has seen the island was tried on; 0 if there were none.
        fresh_passed: on how many of them it cures.
        widened: by how many nodes it was widened before, for others on which it failed.
        wider: where many small errors add up and the island is fitted to its sample: one that cures on all of them.
        hidden: what is lost behind outputs that pass, with the culprits in FP32.
        hidden_island: with these nodes in FP32, the culprits among them, nothing is lost; empty if that was not shown.
        selections: nodes that choose otherwise for near ties, which is no fault.
        emulation: what the emulator assumed of engines.
        fp32_sums: in place of an island: the products that are added up in FP32, between Casts, which costs no latency
            where the compiler makes one kernel of it.
        shapes: for `shape`, the shapes that are wrong.
        own_types: for `file`: the model's own float16 or bfloat16 is at fault.
    """

    case: str
    precision: Precision
    candidate: str
    summary: str
    minimal: bool = False
    faithful: bool | None = None
    islands: tuple[tuple[str, ...], ...] = ()
    cost: Cost = field(default_factory=Cost)
    evidence: tuple[Evidence, ...] = ()
    advice: tuple[str, ...] = ()
    recipes: Mapping[Recipe, str] = field(default_factory=dict)
    price: Price | None = None
    repro: Repro | None = field(default=None, metadata=NEVER)
    before: RunResult | None = field(default=None, metadata=NEVER)
    after: RunResult | None = field(default=None, metadata=NEVER)
    case_path: str | None = None
    journal: str | None = None
    fingerprint: MadeWith = field(default_factory=MadeWith)
    casts: bool = False
    cured: tuple[OutputResult, ...] = field(default=(), metadata=NEVER)
    beside: tuple[str, ...] = ()
    own_types: bool = False
    shapes: tuple[ShapeResult, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    fresh_samples: int = field(default=0, metadata=UNLESS_DEFAULT)
    fresh_passed: int = field(default=0, metadata=UNLESS_DEFAULT)
    widened: int = field(default=0, metadata=UNLESS_DEFAULT)
    wider: tuple[str, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    hidden: tuple[HiddenFault, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    hidden_island: tuple[str, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    selections: tuple[Selection, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    fp32_sums: tuple[str, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    emulation: Emulation = field(default=Emulation(), metadata=UNLESS_DEFAULT)

    def __repr__(self) -> str:
        """`Diagnosis(mlp::fp16: precision, At b7_sq (Mul), …)`."""
        return f"Diagnosis({self.case}::{self.precision}: {self.verdict}, {shorten(self.summary, 120)})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the summary, where it starts, and what to do."""
        rows = [
            ("what", f"{self.case} at {self.precision} on {self.candidate}: {self.verdict}"),
            ("summary", self.summary),
            *(("starts at", f"{origin.node} ({origin.op})") for origin in self.origins),
            ("back to FP32", ", ".join(self.culprits)),
            ("added up in FP32", ", ".join(self.fp32_sums)),
            *(("do", advice) for advice in self.advice),
        ]
        cells = "".join(f"<tr><th>{key}</th><td>{html.escape(text)}</td></tr>" for key, text in rows if text)
        return f"<table>{cells}</table>"

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
        return {DiagnosisVerdict.NONE: 0, DiagnosisVerdict.UNRESOLVED: 4}.get(self.verdict, 1)

    @property
    def layers(self) -> tuple[LayerResult, ...]:
        """The layers of the run that fails; empty if none were observed."""
        return () if self.before is None else self.before.layers

    def to_dict(self) -> dict[str, Any]:
        """The document of schema `harness.diagnosis/1`: plain types, non-finite numbers as strings."""
        document = to_json(self)
        return {
            "schema": DIAGNOSIS_SCHEMA,
            **{name: document[name] for name in _FIRST},
            **document,
            "repro": None if self.repro is None else str(self.repro.folder),
            "repro_shows": None if self.repro is None else self.repro.shows,
            "outputs": to_json(_outputs(self.before, self.outputs_after)),
            "after_on": self.after_on if self.outputs_after else None,
            "layers": to_json(self._layer_rows()),
        }

    def to_frame(self) -> pd.DataFrame:
        """One row a layer: the fields of LayerRow."""
        import pandas as pd

        columns = [column.name for column in fields(LayerRow)]
        return pd.DataFrame(map(vars, self._layer_rows()), columns=columns)

    def _layer_rows(self) -> list[LayerRow]:
        cured = {layer.tensor: layer.metrics.nrmse for layer in (self.after.layers if self.after else ())}
        origins = {origin.tensor for origin in self.origins}
        return [
            LayerRow(
                layer.index,
                layer.node,
                layer.op,
                layer.tensor,
                accumulated=layer.metrics.nrmse,
                introduced=None if layer.introduced is None else layer.introduced.nrmse,
                cured=cured.get(layer.tensor),
                headroom=layer.metrics.headroom,
                diverged=layer.diverged,
                origin=layer.tensor in origins,
                culprit=layer.node in self.culprits,
            )
            for layer in self.layers
        ]


def _outputs(before: RunResult | None, after: Sequence[OutputResult]) -> list[OutputRow]:
    """The outputs of the failing and of the cured run side by side."""
    rows: dict[tuple[str, int], OutputRow] = {}
    for output in () if before is None else before.outputs:
        rows[output.tensor, output.sample] = OutputRow(output.tensor, output.sample, before=_numbers(output))
    for output in after:
        row = rows.get((output.tensor, output.sample), OutputRow(output.tensor, output.sample))
        rows[output.tensor, output.sample] = replace(row, after=_numbers(output))
    return list(rows.values())


def _numbers(output: OutputResult) -> OutputNumbers:
    metrics = output.metrics
    return OutputNumbers(metrics.nrmse, metrics.max_abs, metrics.nonfinite, output.passed, output.gates)
