"""Cures for a model, each proved before it stays; what could not be proved is left out, and said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from harness.compiler import ReportCache, compile_model
from harness.conversion.cures.applying import Rewrite, apply
from harness.conversion.cures.building import Inapplicable
from harness.conversion.cures.cure import Cure, Feeds
from harness.conversion.cures.proof import Proof, prove, prove_calibrated
from harness.conversion.cures.rules import CURES
from harness.conversion.cures.samples import draw
from harness.environments import Environment
from harness.errors import HarnessError
from harness.model import Model, load_model, save_model
from harness.tensors import Precision
from harness.worker.protocol import CompileReport, Profile

_ROUNDS = 4
CALIBRATED_ON = 64
"""So many inputs are drawn where scales are calibrated: half for the scales, half for the proof."""


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


def fix(
    model: Model,
    environments: Sequence[Environment] = (),
    *,
    feeds: Sequence[Feeds] = (),
    profiles: Mapping[str, Profile] | None = None,
    refused: frozenset[str] | None = None,
    given: bool = False,
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
        given: whether `feeds` are the user's data, and not generated.
        precision: at which the compilers are asked.
        cache: of the compilers' reports; by default harness's.

    Raises:
        CandidateError: an environment cannot be used.
    """

    def reports_of(model: Model) -> dict[str, CompileReport]:
        ask = partial(compile_model, model, precision, profiles=profiles or {}, cache=cache)
        return {environment.name: ask(environment) for environment in environments}

    applied: list[AppliedCure] = []
    left_out: dict[tuple[str, tuple[str, ...]], LeftOut] = {}
    reports = reports_of(model)
    for _ in range(_ROUNDS):
        before = model
        for cure in CURES:
            blamed = _refused(model, reports) if environments else refused
            rewrite = _rewritten(cure, model, blamed, feeds)
            if rewrite is None or (cure.code, rewrite.nodes) in left_out:
                continue
            if isinstance(rewrite, LeftOut):
                left_out[cure.code, rewrite.nodes] = rewrite
                continue
            proof = replace(
                prove_rewrite(model, rewrite, feeds), given=given and bool(rewrite.made.calibrated)
            )
            after = reports_of(rewrite.model) if proof.holds else {}
            why = proof.why_not or _not_taken(model, rewrite, reports, after)
            if why:
                left_out[cure.code, rewrite.nodes] = LeftOut(cure.code, cure.does, rewrite.nodes, why)
                continue
            model, reports = rewrite.model, after
            applied.append(AppliedCure(cure.code, cure.does, cure.source, rewrite.nodes, proof, tuple(after)))
        if model is before:
            break
    return Fixed(model, tuple(applied), tuple(left_out.values()), reports)


def write_fixed(fixed: Fixed, path: Path) -> Path | None:
    """Write the new model, if a cure stays; None where there is nothing to write."""
    return save_model(fixed.model, path) if fixed.applied else None


def prove_rewrite(model: Model, rewrite: Rewrite, feeds: Sequence[Feeds] = ()) -> Proof:
    """The proof of what a cure made of `model`; see `prove` and `prove_calibrated`."""
    cure, made = rewrite.cure, rewrite.made
    if made.plain is not None:
        plain = load_model(made.plain, name=model.name)
        return prove_calibrated(model, rewrite.model, plain, made.unseen, made.calibrated)
    return prove(
        model,
        rewrite.model,
        feeds,
        batch=made.batch,
        where_finite=cure.where_finite,
        largest=cure.largest,
    )


def _rewritten(
    cure: Cure, model: Model, refused: frozenset[str] | None, feeds: Sequence[Feeds]
) -> Rewrite | LeftOut | None:
    """What a cure makes of the model; or why it makes nothing of nodes that it is for and that need it."""
    if cure.where_refused and not refused:
        return None
    if cure.calibrate is not None and not feeds:
        feeds = draw(model, CALIBRATED_ON)
    try:
        return apply(cure, model, refused, feeds)
    except Inapplicable as reason:
        why, nodes = str(reason), reason.nodes
    except HarnessError as reason:  # the graph that came out is none
        why, nodes = f"what it writes is no model: {reason.message}", ()
    needing = {
        node.name for node in model.nodes if node.op in cure.operators and node.name in (refused or ())
    }
    nodes = nodes or tuple(node.name for node in model.nodes if node.name in needing)
    return LeftOut(cure.code, cure.does, nodes, why) if nodes else None


def _refused(model: Model, reports: Mapping[str, CompileReport]) -> frozenset[str]:
    """Names of the nodes that a compiler refuses; all of them where it fails at the build and names none."""
    found = {node.name for report in reports.values() for node in report.refused}
    if any(report.failure is not None for report in reports.values()):
        found.update(node.name for node in model.nodes)
    return frozenset(found)


def _not_taken(
    old: Model, rewrite: Rewrite, before: Mapping[str, CompileReport], after: Mapping[str, CompileReport]
) -> str:
    """Which compiler does not take what was written; empty where all take it."""
    known = {node.name for node in old.nodes}
    for name, report in after.items():
        compiler = f"{report.product} {report.release}"
        made = [node for node in report.refused if node.name not in known]
        if made:
            return f"{compiler} refuses {made[0].op} in what it writes: {made[0].message}"
        said = (
            report.failure.message if report.failure else "".join(node.message for node in report.refused[:1])
        )
        if before[name].built and not report.built:
            return f"{compiler} built the model before: {said}"
        if (
            rewrite.made.calibrated and report.failure is not None
        ):  # what needs no calibration comes behind it
            return f"{compiler} does not build it: {said}"
    return ""
