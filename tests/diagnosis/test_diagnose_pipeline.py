"""The table of stages: a breach names the stage, and a spent budget ends only what spends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from models import feeds, rmsnorm

from harness.diagnosis import Context, DiagnosisOptions, Stage, Subject
from harness.diagnosis.context import Seen, make_bench
from harness.diagnosis.pipeline import PIPELINE, PipelineStage, run_stages, start
from harness.errors import BudgetExhaustedError, StageError
from harness.search import Outcome
from harness.tensors import Precision


@pytest.fixture
def context() -> Context:
    model = rmsnorm(scale=600.0)
    bench = make_bench(model, feeds(model))
    return Context(Subject(bench, Precision.FP16, bench.emulator))


def stage(name: str) -> PipelineStage:
    return next(each for each in PIPELINE if each.name == name)


def test_the_stages_have_names_of_their_own_and_end_with_the_handover() -> None:
    names = [each.name for each in PIPELINE]
    assert len(set(names)) == len(names)
    assert names[0] == "gates"
    assert names[-2:] == ["attribute", "hand over"]


def test_a_stage_that_lacks_what_it_requires_is_named(context: Context) -> None:
    with pytest.raises(StageError, match=r"stage .hand over. of the diagnosis requires conclusion") as caught:
        run_stages(start(context, DiagnosisOptions()), context, [stage("hand over")])
    assert (caught.value.stage, caught.value.which, caught.value.broken) == (
        "hand over",
        "requires",
        ("conclusion",),
    )


@pytest.mark.parametrize("name", ["gates", "predict", "island of the emulator", "attribute"])
def test_a_stage_that_breaks_what_it_ensures_is_named(context: Context, name: str) -> None:
    """Each stage of a diagnosis on the emulator, replaced by one that does nothing."""

    table = [
        replace(each, run=lambda seen, context: seen) if each.name == name else each for each in PIPELINE
    ]
    with pytest.raises(StageError) as caught:
        run_stages(start(context, DiagnosisOptions()), context, table)
    assert caught.value.stage == name


def no_island(seen: Seen) -> Seen:
    assert seen.cure is not None
    return replace(seen, cure=replace(seen.cure, island=()))


def no_culprits(seen: Seen) -> Seen:
    assert seen.conclusion is not None
    return replace(seen, conclusion=replace(seen.conclusion, culprits=()))


def no_failure(seen: Seen) -> Seen:
    passed = replace(seen.predicted.trial, outcome=Outcome.PASS)
    return replace(seen, prediction=replace(seen.predicted, trial=passed))


@pytest.mark.parametrize(
    ("name", "spoil", "broken"),
    [
        ("predict", no_failure, "that the emulator fails again"),
        ("island of the emulator", no_island, "a cure that names nodes"),
        ("attribute", no_culprits, "that what is confirmed names a cure"),
    ],
)
def test_what_a_stage_says_is_checked(
    context: Context, name: str, spoil: Callable[[Seen], Seen], broken: str
) -> None:
    table = [
        replace(each, run=lambda seen, context, run=each.run: spoil(run(seen, context)))
        if each.name == name
        else each
        for each in PIPELINE
    ]
    with pytest.raises(StageError) as caught:
        run_stages(start(context, DiagnosisOptions()), context, table)
    assert (caught.value.stage, caught.value.which, caught.value.broken) == (name, "ensures", (broken,))


def test_a_stage_never_takes_evidence_away(context: Context) -> None:
    forgetful = replace(
        stage("predict"), run=lambda seen, context: replace(stage("predict").run(seen, context), evidence=())
    )
    with pytest.raises(StageError, match=r"'predict' .* ensures the evidence of the stages before"):
        run_stages(start(context, DiagnosisOptions()), context, [stage("gates"), forgetful])


def test_a_spent_budget_ends_what_spends_and_nothing_else(context: Context) -> None:
    def spend(seen: Seen, context: Context) -> Seen:
        raise BudgetExhaustedError("the budget of 1 builds is spent")

    table = [replace(each, run=spend) if each.name == "island of the emulator" else each for each in PIPELINE]
    seen = run_stages(start(context, DiagnosisOptions()), context, table)
    assert seen.stopped == "the budget of 1 builds is spent"
    assert seen.conclusion is not None
    assert seen.handover is not None
    stopped = [each for each in seen.evidence if each.text == "stopped: the budget of 1 builds is spent"]
    assert [each.stage for each in stopped] == [Stage.CURE]


def test_what_was_seen_before_a_stage_is_left_as_it_was(context: Context) -> None:
    before = run_stages(start(context, DiagnosisOptions()), context, [stage("gates")])
    copy = replace(before)
    after = run_stages(before, context, [stage("predict")])
    assert before == copy
    assert after.evidence[: len(before.evidence)] == before.evidence
