"""The verdicts and numbers of runs: what every report, the JSON and the pytest items are made from."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from harness.backends import EmulatorFacts
from harness.comparison import NONFINITE, ErrorMap, GateResult, Metrics
from harness.errors import InternalError, NothingSelectedError
from harness.golden import GoldenState
from harness.tensors import (
    NEVER,
    UNLESS_DEFAULT,
    Accumulate,
    HostFingerprint,
    Precision,
    atomic_path,
    host_fingerprint,
    to_json,
)
from harness.text import html_table, names, number, plural, shorten
from harness.worker.protocol import EngineFacts, Fingerprint

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pandas as pd

    from harness.judge.losses import HiddenFault, OwnRoundings, Selection
    from harness.tactics import Repeats

RUN_SCHEMA = "harness.run/1"
MOST_WEIGHTS = 4
MOST_ROWS = 100
"""Runs that a notebook shows of a report."""


class Verdict(StrEnum):
    """The verdict of one run."""

    PASS = "pass"
    FAIL = "fail"
    ERROR = "error"
    SKIP = "skip"
    XFAIL = "xfail"
    XPASS = "xpass"


class Cause(StrEnum):
    """What decided the verdict of a run; `RunResult.reason` says it in a sentence."""

    GATES_HOLD = "gates hold"
    GATE_FAILED = "gate failed"
    EXPECTED = "fails as expected"
    OTHER_ORIGIN = "starts elsewhere than expected"
    UNEXPECTED_PASS = "passes unexpectedly"
    WAIVED = "waived"
    WAIVER_EXPIRED = "waiver expired"
    FILE = "file itself"
    """Roundings that the model brings itself make its outputs wrong."""
    GOLDEN_CHANGED = "golden reference changed"
    SCORE = "metric dropped"
    SHAPE = "another shape fails"
    EXPORT = "export differs from the PyTorch module"
    PACKAGE = "package missing"
    RELEASE = "release not allowed"
    PRECISION = "precision not offered"
    NOTHING_TO_ROUND = "nothing to round"
    CASE = "case cannot be judged"
    """The model, the inputs or the reference of the case cannot be had, whatever the precision and the candidate."""
    RUN = "run cannot be judged"
    CANDIDATE = "candidate failed"
    INTERNAL = "internal error"
    """A fault of harness itself."""


class Judged(StrEnum):
    """What was judged of an output, or at least of every output."""

    VALUES = "values"
    FINITENESS = "finiteness"
    """Only whether every element is finite."""
    NOTHING = "nothing"


@dataclass(frozen=True)
class MadeWith(HostFingerprint):
    """What numbers were made with: the host that computed the reference, and by name the environments of engines."""

    environments: Mapping[str, Fingerprint] = field(default_factory=dict, metadata=UNLESS_DEFAULT)

    @classmethod
    def here(cls, engines: Iterable[Fingerprint | None]) -> MadeWith:
        """On this host, with the environments of `engines`; None is the emulator, which has none."""
        known = {engine.environment: engine for engine in engines if engine is not None}
        return cls(**vars(host_fingerprint()), environments=known)


@dataclass(frozen=True)
class RunError:
    """The error that a run ended with.

    Args:
        kind: name of its class in harness.errors.
        message: what is wrong, without where and what to try.
        where: file, case, tensor or environment that it is about.
        hint: what to try.
        environment: the environment whose build, inference or worker failed.
        request: what the worker was asked for, in words.
        fault: the worker's code of what went wrong, such as `build_failed`.
    """

    kind: str
    message: str
    where: str | None = None
    hint: str | None = None
    environment: str | None = None
    request: str | None = None
    fault: str | None = None


@dataclass(frozen=True)
class PartResult:
    """A tensor that was joined in an output, judged by itself.

    Args:
        tensor: its name, as the Concat that joins it reads it.
        metrics: its metrics, in the shape that it had.
        gates: those on the size of its error.
    """

    tensor: str
    metrics: Metrics
    gates: tuple[GateResult, ...]

    ALSO_IN_JSON: ClassVar = ("passed",)

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return all(gate.passed for gate in self.gates)


@dataclass(frozen=True)
class OutputResult:
    """One output of the model in one sample.

    Args:
        tensor: its name.
        sample: position of the sample.
        metrics: its metrics over the FP32 reference.
        gates: its gates, and those of the worst of its parts.
        parts: the tensors that were joined in it, each judged by itself.
    """

    tensor: str
    sample: int
    metrics: Metrics
    gates: tuple[GateResult, ...]
    parts: tuple[PartResult, ...] = field(default=(), metadata=UNLESS_DEFAULT)

    ALSO_IN_JSON: ClassVar = ("judged",)

    @property
    def error(self) -> float:
        """nrmse of the whole, or of what fails in it; infinite as soon as one element is not finite."""
        failed = [gate for gate in self.gates if not gate.passed and "nrmse" in gate.metric]
        whole = {gate.part for gate in failed if gate.slice is None}
        shown = (gate.value for gate in failed if gate.slice is None or gate.part not in whole)
        return max(self.metrics.error, *shown, 0.0)

    @property
    def judged(self) -> Judged:
        """What was judged of it: without elements nothing, and without a gate on an error only finiteness."""
        if not self.gates or (self.metrics.count == 0 and self.passed):
            return Judged.NOTHING
        return (
            Judged.VALUES
            if any(gate.metric != NONFINITE.metric for gate in self.gates)
            else Judged.FINITENESS
        )

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return all(gate.passed for gate in self.gates)


@dataclass(frozen=True)
class LayerResult:
    """One observed tensor, all samples together.

    Args:
        index: position of the node in the model's topological order.
        node: name of the node that writes the tensor.
        op: operator type of the node.
        tensor: name of the tensor.
        metrics: accumulated error: the candidate fed its own intermediate tensors.
        introduced: error of this node alone, fed the reference's tensors; None where it was not measured.
        gates: the gates of the accumulated error.
        counterpart: the tensor of the reference that it was compared with, where that has another name.
        origin: the tensor fails its gates while every tensor it was computed from passes; or it is not finite
            while all of those are, and its FP32 values do not fit. All of those were observed: else there is a
            region. Where the outputs pass, nothing starts anywhere.
    """

    index: int
    node: str
    op: str
    tensor: str
    metrics: Metrics
    introduced: Metrics | None
    gates: tuple[GateResult, ...]
    origin: bool
    counterpart: str | None = field(default=None, metadata=UNLESS_DEFAULT)

    ALSO_IN_JSON: ClassVar = ("diverged",)

    @property
    def diverged(self) -> bool:
        """Whether a gate fails."""
        return not all(gate.passed for gate in self.gates)


@dataclass(frozen=True)
class Emulation:
    """What the emulator assumed of engines, as the candidate or beside one.

    Args:
        kernels: the environment whose kernels it assumed, or `none`.
        accumulate: what products of FP16 were added up in.
    """

    kernels: str = "none"
    accumulate: Accumulate = Accumulate.FP32

    def __str__(self) -> str:
        """`kernels of rtx-1.7, FP16 sums`; empty where nothing is assumed."""
        kernels = "" if self.kernels == "none" else f"kernels of {self.kernels}"
        return ", ".join(filter(None, (kernels, "FP16 sums" if self.accumulate is Accumulate.FP16 else "")))


@dataclass(frozen=True)
class ComparedWith:
    """What candidates were compared with in place of their own model in FP32.

    Args:
        reference: the file, or the function that returns a PyTorch module.
        by_name: how many of the compared tensors have a counterpart of the same name.
        by_position: how many have one at the same place in the graph, under another name.
        unpaired: the float tensors of the model without a counterpart, in topological order: not compared.
        weights: by name of a weight of both files that differs beyond the bound on nrmse: by how much.
    """

    reference: str
    by_name: int
    by_position: int
    unpaired: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """`float.onnx: 12 tensors paired, 9 by name and 3 by position in the graph; 2 have no counterpart`."""
        counts = ((self.by_name, "name"), (self.by_position, "position in the graph"))
        pairs = " and ".join(f"{count} by {how}" for count, how in counts if count)
        how = f"{plural(self.by_name + self.by_position, 'tensor')} paired, {pairs}"
        verb = "has" if len(self.unpaired) == 1 else "have"
        rest = f"; {len(self.unpaired)} {verb} no counterpart" if self.unpaired else ""
        moved = names(
            (f"{name} (nrmse {number(error)})" for name, error in self.weights.items()), MOST_WEIGHTS
        )
        weights = f"; other values in weight {moved}" if moved else ""
        return f"{self.reference}: {how}{rest}{weights}"


@dataclass(frozen=True)
class Region:
    """Nodes among which an error starts: what was observed tells no more.

    Args:
        tensor: the observed tensor at which the error shows.
        between: the nearest tensors behind it that were observed, all of them right, and inputs of the model.
        nodes: the nodes from there to the tensor, in topological order.
        kernels: what the engine runs for them, by its own names; empty if it does not say.
    """

    tensor: str
    between: tuple[str, ...]
    nodes: tuple[str, ...]
    kernels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Observed:
    """What was observed of an engine.

    Args:
        how: `typed`, `debug` or `prefix`.
        tensors: how many tensors were observed; `layers` names them.
        not_observed: the tensors of the model that are compared where they are observed, and were not.
    """

    how: str
    tensors: int
    not_observed: tuple[str, ...] = ()


def without_origins(layers: Iterable[LayerResult]) -> tuple[LayerResult, ...]:
    """The layers of a run whose outputs pass: some may be beyond their gates, but no failure starts there."""
    return tuple(replace(layer, origin=False) if layer.origin else layer for layer in layers)


class ShapeFault(StrEnum):
    """What is wrong with another shape than that of the case."""

    REFUSED = "does not run"
    GATE = "gate failed"
    ROWS = "a batch is not its rows"
    EQUAL_ROWS = "equal rows differ"


@dataclass(frozen=True)
class Score:
    """What a metric of the user's own says.

    Args:
        metric: `module:function`.
        reference: the score of the reference.
        candidate: the score of the candidate.
        max_drop: how much worse the candidate may be.
        higher: whether a higher score is better.
    """

    metric: str
    reference: float
    candidate: float
    max_drop: float
    higher: bool = True

    ALSO_IN_JSON: ClassVar = ("drop", "passed")

    @property
    def drop(self) -> float:
        """How much worse the candidate is than the reference."""
        worse = self.reference - self.candidate
        return worse if self.higher else -worse

    @property
    def passed(self) -> bool:
        """Whether the drop is within its limit."""
        return self.drop <= self.max_drop

    def __str__(self) -> str:
        """`scoring:top1 drops by 0.03, from 0.92 to 0.89, limit 0.01`."""
        verb = "drops" if self.higher else "rises"
        moved = f"{verb} by {number(self.drop)}, from" if self.drop > 0 else "is"
        was = f"{number(self.reference)} to {number(self.candidate)}"
        was = was if self.drop > 0 else f"{number(self.candidate)}, of the reference {number(self.reference)}"
        return f"{self.metric} {moved} {was}, limit {number(self.max_drop)}"


@dataclass(frozen=True)
class Baked:
    """A node into which an export has written the batch.

    Args:
        node: its name.
        op: its operator type.
        constant: the shape or the repeats that it takes as a constant.
        reads: the tensor that it changes.
    """

    node: str
    op: str
    constant: tuple[int, ...]
    reads: str

    def __str__(self) -> str:
        """`rep_shape (Reshape to [8, 1, 1, 2])`."""
        return f"{self.node} ({self.op} {'by' if self.op == 'Tile' else 'to'} {list(self.constant)})"


@dataclass(frozen=True)
class ShapeResult:
    """Another shape of the inputs than that of the case.

    Args:
        which: `minimum`, `optimum`, `maximum` of the profile, `batch 4`, or `equal rows`.
        inputs: the shapes by input.
        fault: what is wrong; None where nothing is, or it was not run.
        reason: what was seen, in a clause; or why it was not run.
        baked: nodes into which the batch is written.
        skipped: whether it was not run.
    """

    which: str
    inputs: Mapping[str, tuple[int, ...]]
    fault: ShapeFault | None = None
    reason: str = ""
    baked: tuple[Baked, ...] = ()
    skipped: bool = False

    def fail(self, fault: ShapeFault, reason: str, baked: tuple[Baked, ...]) -> ShapeResult:
        """This shape, with what is wrong."""
        return replace(self, fault=fault, reason=reason, baked=baked)

    def skip(self, reason: str) -> ShapeResult:
        """This shape, not run."""
        return replace(self, reason=reason, skipped=True)

    def blame(self, baked: tuple[Baked, ...]) -> ShapeResult:
        """This shape, with the nodes behind its fault."""
        return replace(self, baked=baked)

    def __str__(self) -> str:
        """One line for a person."""
        shapes = ", ".join(f"{name} {list(shape)}" for name, shape in self.inputs.items())
        where = f"at the {self.which}" if self.which.endswith("mum") else f"at {self.which}"
        if self.skipped:
            return f"not run {where} ({shapes}): {self.reason}"
        if not self.baked:
            return f"{where} ({shapes}) {self.reason}"
        folds = all(each.constant[0] == 1 for each in self.baked)
        cure = "flatten(1)" if folds else "-1, expand, or the size of the input"
        baked = names(map(str, self.baked), 4)
        return f"the batch is written into {baked}: export with {cure}; {where} ({shapes}) {self.reason}"


@dataclass(frozen=True, repr=False)
class RunResult:
    """One case at one precision on one candidate.

    Args:
        case: name of the case.
        precision: the precision under test.
        candidate: `emulator` or the name of an environment.
        verdict: see Verdict.
        reason: one line for a person: why this verdict.
        outputs: the model's outputs, sample by sample.
        layers: the observed tensors in topological order; empty when nothing was observed.
        regions: where the error starts, too: among nodes that were not all observed.
        selections: nodes that choose otherwise for near ties, as the candidate does; what follows is judged by that.
        hidden: where something is lost behind outputs that pass, as far as layers were observed.
        observed: what was observed of an engine; None for the emulator, and where nothing was to be.
        faithful: whether the observed engine's outputs equal the unobserved one's; None if not applicable.
        timings: seconds by stage: `reference`, `candidate`, `compare`, `build`, …
        facts: what is known of the candidate beside its tensors; None if it was not evaluated.
        cause: what decided the verdict, as a code.
        error: the error behind the verdict `error`.
        evidence: lines that support an `error`: log tail, signal, plan.
        warnings: what the person should know although it changes no verdict (a changed golden reference, …).
        case_path: the case file, or the model itself where there is none.
        inputs: what `--input` gave to such a model: `x:[1,3,224,224]`.
        given: the other options of the command that say what is fed and compared with: `--seed 3`, word by word.
        compared_with: what stands in for the model as the reference; None for the model itself in FP32.
        golden: what the golden reference says of the fresh one; None where none is kept. A changed one fails the
            run, whatever the candidate computes.
        mistake: an `error` that is a mistake in the case, its model or its inputs, not of the candidate.
        emulation: what the emulator assumed of engines.
        judged_as: the precision whose gates it was held to, where it is not `precision`: TF32 that stays on.
        repeats: what several builds came to; None where the engine was built once. In JSON one of the facts.
        values: the candidate's outputs by name, sample by sample, where they were to be kept. Not in JSON.
        scores: what metrics of the user's own say.
        shapes: what other shapes gave than that of the case: those of its profile, and batches against their rows.
        error_map: where in the worst output the error sits; None where the outputs pass.
        own_roundings: what the model's own roundings do to it; None if it has none. In JSON one of the facts.
    """

    case: str
    precision: Precision
    candidate: str
    verdict: Verdict
    reason: str
    outputs: tuple[OutputResult, ...] = ()
    layers: tuple[LayerResult, ...] = ()
    regions: tuple[Region, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    selections: tuple[Selection, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    hidden: tuple[HiddenFault, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    observed: Observed | None = field(default=None, metadata=UNLESS_DEFAULT)
    faithful: bool | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    facts: EngineFacts | EmulatorFacts | None = None
    cause: Cause | None = None
    error: RunError | None = None
    evidence: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    case_path: str | None = None
    inputs: tuple[str, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    given: tuple[str, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    compared_with: ComparedWith | None = field(default=None, metadata=UNLESS_DEFAULT)
    golden: GoldenState | None = None
    mistake: bool = False
    judged_as: Precision | None = field(default=None, metadata=UNLESS_DEFAULT)
    emulation: Emulation = field(default=Emulation(), metadata=UNLESS_DEFAULT)
    repeats: Repeats | None = field(default=None, metadata=NEVER)
    own_roundings: OwnRoundings | None = field(default=None, metadata=NEVER)
    scores: tuple[Score, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    shapes: tuple[ShapeResult, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    error_map: ErrorMap | None = field(default=None, metadata=UNLESS_DEFAULT)
    values: tuple[Mapping[str, np.ndarray], ...] = field(default=(), compare=False, metadata=NEVER)

    ALSO_IN_JSON: ClassVar = ("judged",)

    def __repr__(self) -> str:
        """`RunResult(mlp::fp16: fail, y: nrmse 0.6, limit 0.01)`."""
        return f"RunResult({self.id}: {self.verdict}{', ' if self.reason else ''}{shorten(self.reason, 120)})"

    @property
    def judged(self) -> Judged:
        """What was judged of every output that has elements, at least."""
        order = (Judged.FINITENESS, Judged.VALUES)
        found = {output.judged for output in self.outputs}
        return next((judged for judged in order if judged in found), Judged.NOTHING)

    @property
    def id(self) -> str:
        """`case::precision`, with the candidate in front of the precision when it is an environment."""
        suffix = (
            self.precision.value if self.candidate == "emulator" else f"{self.candidate}-{self.precision}"
        )
        return f"{self.case}::{suffix}"

    @property
    def engine(self) -> EngineFacts | None:
        """What is known of the engine; None if there was none."""
        return self.facts if isinstance(self.facts, EngineFacts) else None

    @property
    def origins(self) -> tuple[LayerResult, ...]:
        """The layers where the error starts, in topological order."""
        return tuple(layer for layer in self.layers if layer.origin)

    @property
    def worst(self) -> OutputResult | None:
        """The output that is furthest beyond (or nearest to) its gates."""
        return worst_of(self.outputs)

    def with_timing(self, name: str, seconds: float) -> RunResult:
        """This result with one more timing."""
        return replace(self, timings={**self.timings, name: seconds})

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of this run: plain types only, non-finite numbers as strings."""
        more = {"repeats": self.repeats, "own_roundings": self.own_roundings}
        document: dict[str, Any] = to_json(self)
        facts = {name: to_json(value) for name, value in more.items() if value is not None}
        return {**document, "facts": {**(document["facts"] or {}), **facts}}


@dataclass(frozen=True, repr=False)
class RunReport:
    """All runs of one invocation, with the fingerprint of what they ran on; `interrupted` if some are missing."""

    fingerprint: MadeWith
    results: tuple[RunResult, ...]
    interrupted: bool = field(default=False, metadata=UNLESS_DEFAULT)

    def __repr__(self) -> str:
        """`RunReport(12 runs: 10 pass, 2 fail)`."""
        found = Counter(result.verdict for result in self.results)
        counts = ", ".join(f"{found[verdict]} {verdict}" for verdict in Verdict if verdict in found)
        return f"RunReport({plural(len(self.results), 'run')}{': ' if counts else ''}{counts})"

    def _repr_html_(self) -> str:
        """A table of the runs, for notebooks."""
        rows = [
            (result.id, result.candidate, result.verdict, _worst_error(result), result.reason)
            for result in self.results[:MOST_ROWS]
        ]
        columns = ("run", "candidate", "verdict", "nrmse", "reason")
        return html_table(repr(self), columns, rows, len(self.results) - len(rows))

    @property
    def exit_code(self) -> int:
        """Exit status: 0 as expected, 1 a failure or an unexpected pass, 2 a mistake in a case, 3 a failed build.

        5 if every run was skipped: nothing was judged, which is no success. 70 for a fault of harness itself.
        """
        if any(result.cause is Cause.INTERNAL for result in self.results):
            return InternalError.exit_code
        if any(result.mistake for result in self.results):
            return 2
        verdicts = {result.verdict for result in self.results}
        if Verdict.ERROR in verdicts:
            return 3
        if verdicts == {Verdict.SKIP}:
            return NothingSelectedError.exit_code
        return int(bool(verdicts & {Verdict.FAIL, Verdict.XPASS}))

    def to_dict(self) -> dict[str, Any]:
        """The document of schema `harness.run/1`."""
        results = [result.to_dict() for result in self.results]
        return {"schema": RUN_SCHEMA, **to_json(replace(self, results=())), "results": results}

    def save_outputs(self, path: Path) -> None:
        """Write the candidates' outputs as results of polygraphy: a runner each, named after the run.

        Raises:
            NothingSelectedError: no run has outputs that were kept.
        """
        from polygraphy.comparator import RunResults

        results = RunResults()
        for result in self.results:
            if result.values:
                results.add([dict(sample) for sample in result.values], runner_name=result.id)
        if not list(results.keys()):
            raise NothingSelectedError("no run has outputs to save")
        with atomic_path(path) as temporary:
            results.save(str(temporary))

    def to_frame(self) -> pd.DataFrame:
        """One row a run and output: case, precision, candidate, verdict, reason, tensor, sample, and all Metrics.

        A run without outputs has a row of its own, in which tensor, sample and metrics are missing.
        """
        import pandas as pd

        columns = ["case", "precision", "candidate", "verdict", "reason", "tensor", "sample"]
        columns += [metric.name for metric in fields(Metrics)]
        rows = []
        for result in self.results:
            run = {
                "case": result.case,
                "precision": result.precision.value,
                "candidate": result.candidate,
                "verdict": result.verdict.value,
                "reason": result.reason,
            }
            for output in result.outputs:
                rows.append({**run, "tensor": output.tensor, "sample": output.sample, **vars(output.metrics)})
            if not result.outputs:
                rows.append(run)
        return pd.DataFrame(rows, columns=columns)


def _worst_error(result: RunResult) -> str:
    return number(None if result.worst is None else result.worst.metrics.nrmse)


def worst_of(outputs: Iterable[OutputResult]) -> OutputResult | None:
    """The output that is furthest beyond (or nearest to) its gates."""
    return max(outputs, key=_badness, default=None)


def _badness(output: OutputResult) -> tuple[int, float]:
    failed = sum(not gate.passed for gate in output.gates)
    error = output.metrics.nrmse
    return failed, math.inf if math.isnan(error) else error
