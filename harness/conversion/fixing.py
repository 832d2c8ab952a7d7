"""`check --fix`: the cures of one model, and the file of what they make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from harness.case import Case, make_feeds, one_or_more
from harness.cluster import OnStage
from harness.compiler import ReportCache
from harness.conversion.cures import CALIBRATED_ON, fix, write_fixed
from harness.conversion.examination import outcome_of
from harness.conversion.exports import by_exporter, exported
from harness.conversion.findings import EnvironmentOutcome, Finding, FixResult
from harness.conversion.subject import STOPS, CheckedModel
from harness.environments import load, select
from harness.errors import BuilderError, HarnessError, UsageError
from harness.judge import Target, select_cases
from harness.model import Model, guess_fills, load_model_of
from harness.tensors import Precision
from harness.text import names


def fix_case(
    targets: Sequence[Target] | Target,
    path: Path,
    *,
    precision: Precision | str | None = None,
    environments: Sequence[str] | str = (),
    inputs: Mapping[str, Sequence[int]] | None = None,
    tags: Sequence[str] | str = (),
    progress: OnStage | None = None,
    cache: ReportCache | None = None,
) -> FixResult:
    """Apply each cure that is proved to one model, and write what comes of it to `path` if a cure stays.

    Args:
        targets: one case, or one .onnx file.
        path: the new .onnx file.
        precision: at which compilers are asked; None: the file as it is written.
        environments: names from harness.toml whose compilers must take what a cure writes; without one, a cure is
            proved by its answers alone.
        inputs: shapes for the inputs of an .onnx file.
        tags: only cases with one of these tags.
        progress: called with what goes on.
        cache: where compilers' reports are kept; by default harness's cache folder.

    Raises:
        UsageError: there is more than one model, or `path` is the model itself.
        CaseFileError, ModelError, NothingSelectedError, EnvironmentConfigError, CandidateError: as `check`.
        BuilderError: no exporter of PyTorch makes a model of it that computes the same.
    """
    known = load()
    asked = [select(name, known) for name in one_or_more(environments)]
    cases = select_cases(targets, inputs=inputs, tags=tags)
    if len(cases) > 1:
        raise UsageError(
            f"one model is fixed at a time, and these are {len(cases)}: {names([case.name for case in cases])}"
        )
    case, model = _first(cases)
    if model.path is not None and path.exists() and model.path.samefile(path):
        raise UsageError("the model itself is never overwritten", where=path, hint="name another file")
    tell = progress or (lambda _: None)
    tell(f"cures of {case.name}")
    wanted = None if precision is None else Precision(precision)
    subject = CheckedModel.of(case, model, wanted, is_asked=bool(asked))
    feeds = _samples(case, model)
    stopped = {match.node.name for match in subject.matches if match.node and match.rule.kind in STOPS}
    fixed = fix(
        model,
        asked,
        feeds=feeds,
        profiles=subject.profiles,
        refused=frozenset(stopped),
        given=bool(case.data),
        precision=wanted or Precision.FP32,
        cache=cache,
    )
    builds = [
        EnvironmentOutcome(name, report.product, report.release, outcome_of(report))
        for name, report in fixed.reports.items()
    ]
    written = write_fixed(fixed, path)
    file = None if written is None else str(written)
    return FixResult(case.name, file, fixed.applied, fixed.left_out, tuple(builds))


def _samples(case: Case, model: Model) -> list[dict[str, np.ndarray]]:
    """The inputs of the case; of a model that scales at run time enough of them to calibrate on."""
    if not case.data and any(node.op == "DynamicQuantizeLinear" for node in model.nodes):
        case = case.model_copy(update={"samples": max(case.samples or 1, CALIBRATED_ON)})
    try:
        return make_feeds(case, model.inputs, guess_fills(model))
    except HarnessError:
        return []  # a shape that is open: the proofs draw inputs of their own


def _first(cases: Sequence[Case]) -> tuple[Case, Model]:
    """The case with its model, or of a PyTorch module the first export that computes the same."""
    found: tuple[Finding, ...] = ()
    for case in by_exporter(cases):
        sized, model, faults = exported(case) if case.model.torch else (case, load_model_of(case), ())
        if model is not None and not any(each.kind.is_failure for each in faults):
            return sized, model
        found += faults
    raise BuilderError(found[0].said, hint=found[0].advice or None)
