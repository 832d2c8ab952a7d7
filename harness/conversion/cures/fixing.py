"""Cures for a model, each proved before it stays; what could not be proved is left out, and said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.compiler import ReportCache, compile_model
from harness.conversion.cures.applying import Rewrite, apply
from harness.conversion.cures.cure import Cure
from harness.conversion.cures.proof import Feeds, Proof, prove
from harness.conversion.cures.rules import CURES
from harness.environments import Environment
from harness.errors import HarnessError
from harness.model import Model, save_model
from harness.tensors import Precision
from harness.worker.protocol import CompileReport

Profile = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
_ROUNDS = 4


@dataclass(frozen=True)
class AppliedCure:
    """A cure that stays.

    Args:
        code: of the cure.
        does: what it wrote instead.
        source: where it is from.
        nodes: names of the nodes that it replaced.
        proof: how its answers were compared with those before.
        taken_by: names of the environments whose compiler took it.
    """

    code: str
    does: str
    source: str
    nodes: tuple[str, ...]
    proof: Proof
    taken_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    """A cure that applied and does not stay.

    Args:
        code: of the cure.
        does: what it would write instead.
        nodes: names of the nodes that it would replace.
        why: one clause without a full stop.
    """

    code: str
    does: str
    nodes: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Fixed:
    """What cures made of a model.

    Args:
        model: the new model; the old one if no cure stays.
        applied: what stays, in the order in which it was applied.
        left_out: what does not.
        reports: by environment, what its compiler makes of the new model.
    """

    model: Model
    applied: tuple[AppliedCure, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    reports: Mapping[str, CompileReport] = field(default_factory=dict)


@dataclass
class _Compilers:
    """The environments that are asked, and what they said of the model as it stands."""

    environments: Sequence[Environment]
    profiles: Mapping[str, Profile]
    precision: Precision
    cache: ReportCache | None

    def reports(self, model: Model) -> dict[str, CompileReport]:
        return {
            environment.name: compile_model(
                model, self.precision, environment, profiles=self.profiles, cache=self.cache
            )
            for environment in self.environments
        }


def fix(
    model: Model,
    environments: Sequence[Environment] = (),
    *,
    feeds: Sequence[Feeds] = (),
    profiles: Mapping[str, Profile] | None = None,
    refused: frozenset[str] | None = None,
    precision: Precision = Precision.FP32,
    cache: ReportCache | None = None,
) -> Fixed:
    """Apply every cure that is proved, until none applies.

    Args:
        model: stays as it is.
        environments: whose compilers must take what a cure writes; without any, a cure is proved by its answers alone.
        feeds: inputs that the proofs try first.
        profiles: (minimum, optimum, maximum) shape of each input with a dynamic axis.
        refused: names of nodes that are known to be refused, where no environment is asked.
        precision: at which the compilers are asked.
        cache: of the compilers' reports; by default harness's.

    Raises:
        CandidateError: an environment cannot be used.
    """
    compilers = _Compilers(environments, profiles or {}, precision, cache)
    applied: list[AppliedCure] = []
    left_out: dict[tuple[str, tuple[str, ...]], LeftOut] = {}
    reports = compilers.reports(model)
    for _ in range(_ROUNDS):
        before = model
        for cure in CURES:
            blamed = _refused(model, reports) if environments else refused
            rewrite = _rewritten(cure, model, blamed)
            if rewrite is None or (cure.code, rewrite.nodes) in left_out:
                continue
            proof = prove(model, rewrite.model, feeds, batch=rewrite.batch, where_finite=cure.where_finite)
            after = compilers.reports(rewrite.model) if proof.holds else {}
            why = proof.why_not or _not_taken(model, rewrite.model, reports, after)
            if why:
                left_out[cure.code, rewrite.nodes] = LeftOut(cure.code, cure.does, rewrite.nodes, why)
                continue
            model, reports = rewrite.model, after
            applied.append(AppliedCure(cure.code, cure.does, cure.source, rewrite.nodes, proof, tuple(after)))
        if model is before:
            break
    return Fixed(model, tuple(applied), tuple(left_out.values()), reports)


def write_fixed(fixed: Fixed, path: Path) -> Path | None:
    """Write the new model, if a cure stays, and if ONNX's checker takes it; None where there is nothing to write."""
    return save_model(fixed.model, path) if fixed.applied else None


def propose_cures(model: Model, refused: frozenset[str] | None = None) -> tuple[Rewrite, ...]:
    """Every cure that applies to `model` as it stands, with the model that it makes; nothing is proved.

    Args:
        model: stays as it is.
        refused: names of the nodes that a compiler refuses; None: nobody knows.
    """
    rewrites = (_rewritten(cure, model, refused) for cure in CURES)
    return tuple(rewrite for rewrite in rewrites if rewrite is not None)


def _rewritten(cure: Cure, model: Model, refused: frozenset[str] | None) -> Rewrite | None:
    if cure.where_refused and not refused:
        return None
    try:
        return apply(cure, model, refused)
    except HarnessError:
        return None  # the graph that came out is none


def _refused(model: Model, reports: Mapping[str, CompileReport]) -> frozenset[str]:
    """Names of the nodes that a compiler refuses; all of them where it fails at the build and names none."""
    found = {node.name for report in reports.values() for node in report.refused}
    if any(report.failure is not None for report in reports.values()):
        found.update(node.name for node in model.nodes)
    return frozenset(found)


def _not_taken(
    old: Model, new: Model, before: Mapping[str, CompileReport], after: Mapping[str, CompileReport]
) -> str:
    """Which compiler does not take what was written; empty where all take it."""
    known = {node.name for node in old.nodes}
    for name, report in after.items():
        compiler = f"{report.product} {report.release}"
        made = [node for node in report.refused if node.name not in known]
        if made:
            return f"{compiler} refuses {made[0].op} in what it writes: {made[0].message}"
        if before[name].built and not report.built:
            said = report.failure.message if report.failure else report.refused[0].message
            return f"{compiler} built the model before: {said}"
    return ""
