"""A session by its answers: what each command does, and what diagnoses make of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import onnx
import pytest
from engines import FakeEngine, when_lowered
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import ISLAND

from harness.diagnosis import Context, DiagnosisJournal, DiagnosisOptions, badness, island_problem
from harness.diagnosis.api import investigate
from harness.errors import JournalError, NothingSelectedError, UsageError
from harness.explore import Session
from harness.explore.commands import Order
from harness.search import Journal, Outcome, SearchVerdict
from harness.tensors import Precision


def test_the_welcome_says_what_fails_where_and_what_to_do(session: Session) -> None:
    welcome = session.welcome()
    assert welcome.start.evaluation.outcome is Outcome.FAIL
    assert badness(welcome.start.evaluation.outputs) > 1
    assert [layer.node for layer in welcome.origins] == ["b1_sq"]
    assert "beyond 65504, the largest FP16 value" in welcome.reason
    assert welcome.suggested == "b1_*"
    assert 0 < welcome.diverged < welcome.layers


def test_keep_try_lower_and_undo(session: Session) -> None:
    changed = session.keep(["b1_*"])
    assert (len(changed.added), len(changed.kept), changed.outcome) == (11, 11, None)
    assert session.evaluate().passed
    assert session.known() is Outcome.PASS
    assert session.lower(["b1_sq"]).removed == ("b1_sq",)
    assert not session.evaluate().passed
    assert not session.passes
    assert session.undo().outcome is Outcome.PASS
    assert session.undo().kept == ()
    with pytest.raises(UsageError, match="nothing to undo"):
        session.undo()


def test_keeping_kept_nodes_changes_nothing(session: Session) -> None:
    session.keep(["b1_sq"])
    again = session.keep(["b1_sq"])
    assert (again.added, again.removed) == ((), ())
    session.undo()
    assert session.kept == frozenset()


def test_try_says_by_how_much_and_how_long_it_took(session: Session) -> None:
    session.keep(ISLAND)
    result = session.evaluate()
    assert result.kept == ISLAND
    assert result.evaluation.worst is not None
    gate = result.evaluation.worst[1]
    assert (gate.metric, gate.limit) == ("nrmse", 1e-2)
    assert 0 < gate.value < 1e-2
    assert result.evaluation.seconds > 0


def test_a_mistake_changes_nothing(session: Session) -> None:
    session.keep(["b1_sq"])
    for mistake in (["b9_*"], ["nothing"]):
        with pytest.raises(NothingSelectedError):
            session.keep(mistake)
        with pytest.raises(NothingSelectedError):
            session.bisect(mistake)
    assert session.kept == {"b1_sq"}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.booleans(), st.sets(st.sampled_from(ISLAND), min_size=1))))
def test_undo_takes_back_each_change_and_nothing_else(
    session: Session, changes: list[tuple[bool, set[str]]]
) -> None:
    seen = [session.kept]
    for keeps, nodes in changes:
        (session.keep if keeps else session.lower)(sorted(nodes))
        if session.kept != seen[-1]:
            seen.append(session.kept)
    for expected in reversed(seen[:-1]):
        session.undo()
        assert session.kept == expected
    with pytest.raises(UsageError, match="nothing to undo"):
        session.undo()


# --- layers and reasons -----------------------------------------------------------------------------------------------


def test_layers_without_a_pattern_are_those_around_the_origin(session: Session) -> None:
    shown = session.layers()
    assert shown.matching == 33
    assert len(shown.rows) == 16
    assert shown.around == "b1_sq"
    assert any(row.result.origin for row in shown.rows)
    assert len(session.layers(["*"]).rows) == 33


@pytest.mark.parametrize("order", list(Order))
def test_layers_are_sorted_the_largest_first(session: Session, order: Order) -> None:
    keys = {
        Order.INTRODUCED: lambda row: row.result.introduced.nrmse,
        Order.ACCUMULATED: lambda row: row.result.metrics.nrmse,
        Order.MAX: lambda row: row.result.metrics.headroom,
    }
    rows = session.layers(["*"], order).rows
    values = [math.inf if math.isnan(keys[order](row)) else keys[order](row) for row in rows]
    assert values == sorted(values, reverse=True)
    assert rows[0].result.node == "b1_sq"


def test_layers_are_those_of_what_is_kept_now(session: Session) -> None:
    def accumulated() -> float:
        return session.layers(["b2_add"]).rows[0].result.metrics.nrmse

    assert accumulated() > 1e-2
    session.keep(ISLAND)
    assert accumulated() < 1e-2
    assert [row.kept for row in session.layers(["b1_sq", "b1_up"]).rows] == [True, False]
    session.undo()
    assert accumulated() > 1e-2


def test_layers_know_what_underflows(open_small) -> None:
    rows = open_small(scale=1e-4).layers(["b1_sq"]).rows
    assert rows[0].range.flushed > 0.5


def test_why_shows_the_ranges_and_the_effect_of_the_node_alone(session: Session) -> None:
    found = session.why("b1_sq")
    assert "squares of values up to" in found.reason
    assert [tensor.neighbours[0].name for tensor in found.reads if tensor.neighbours] == ["b1_scale"]
    assert found.writes[0].share > 1
    assert found.writes[0].range.overflowing > 0
    assert [node.name for node in found.writes[0].neighbours] == ["b1_mean"]
    assert found.alone is not None
    assert found.alone > 1
    assert found.layer is not None
    assert found.layer.origin
    sound = session.why("b0_up")
    assert sound.alone is not None
    assert sound.alone < 1


def test_why_gives_the_reason_that_a_diagnosis_gives(session: Session) -> None:
    diagnosis = investigate(Context(session.subject), DiagnosisOptions())
    assert session.why("b1_sq").reason == diagnosis.origins[0].why


# --- bisect -----------------------------------------------------------------------------------------------------------


def test_bisect_finds_and_keeps_the_fewest(session: Session) -> None:
    found = session.bisect()
    assert (found.found, found.minimal, found.among) == (ISLAND, True, 33)
    assert session.kept == set(ISLAND)
    assert found.result is not None
    assert found.result.passed
    session.undo()
    assert session.kept == frozenset()


def test_bisect_narrows_what_is_kept_if_that_passes(session: Session) -> None:
    session.keep(["b1_*", "b0_up"])
    found = session.bisect()
    assert (found.among, found.found) == (12, ISLAND)


def test_bisect_searches_everything_if_what_is_kept_fails(session: Session) -> None:
    session.keep(["b0_*"])
    found = session.bisect()
    assert (found.among, found.found) == (33, ISLAND)
    assert session.kept == set(ISLAND)


def test_bisect_of_a_pattern_leaves_the_others_as_they_are(session: Session) -> None:
    session.keep(["b1_mean", "b1_addeps", "b1_sqrt", "b2_up"])
    found = session.bisect(["b1_s*"])
    assert found.found == ("b1_sq", "b1_sqrt")
    assert found.fixed == 3
    assert session.kept == {*ISLAND, "b2_up"}


def test_bisect_of_nodes_that_do_not_help_says_so_at_once(session: Session) -> None:
    found = session.bisect(["b0_*"])
    assert found.verdict is SearchVerdict.LOST
    assert not found.answered
    assert found.evaluations <= 3
    assert session.kept == frozenset()


def test_bisect_drops_what_is_not_needed(session: Session) -> None:
    session.keep([*ISLAND, "b0_up"])
    found = session.bisect(["b0_up"])
    assert found.verdict is SearchVerdict.NONE
    assert session.kept == set(ISLAND)


def test_nothing_is_bisected_where_nothing_fails(open_small) -> None:
    with pytest.raises(UsageError, match="nothing fails on the emulator"):
        open_small(scale=1.0).bisect()


def test_a_precision_that_lowers_nothing_is_refused(open_small) -> None:
    with pytest.raises(UsageError, match="choose fp16"):
        open_small(precision=Precision.FP32)


def test_a_cancelled_bisect_changes_nothing_and_continues_later(session: Session, monkeypatch) -> None:
    session.keep(["b1_*"])
    runs = session.subject.bench.emulator.run
    left = 8

    def run(*arguments, **options):
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        return runs(*arguments, **options)

    monkeypatch.setattr(session.subject.bench.emulator, "run", run)
    with pytest.raises(KeyboardInterrupt):
        session.bisect(["b1_*"])
    assert session.kept == set(session.names.all_of(["b1_*"]))
    assert session.bisect(["b1_*"]).found == ISLAND


# --- files ------------------------------------------------------------------------------------------------------------


def test_plots_do_not_replace_each_other(session: Session, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "growth-1.png").write_text("mine")
    assert session.plot() == tmp_path / "out" / "growth-2.png"
    session.keep(ISLAND)
    text = session.plot(str(tmp_path / "mine.svg")).read_text()
    assert "4 nodes in FP32" in text
    with pytest.raises(UsageError, match=r"\.png or a \.svg"):
        session.plot("x.pdf")


def test_export_writes_what_a_diagnosis_hands_over(session: Session, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing is kept"):
        session.export()
    session.keep(ISLAND)
    written = session.export(str(tmp_path / "there"))
    assert set(written.files) == {"keep_fp32.py", "layers.json", "model.onnx", "recipes.sh", "typed.onnx"}
    listed = json.loads((tmp_path / "there" / "layers.json").read_text())
    assert [entry["node"] for entry in listed["fp32"]] == list(ISLAND)
    onnx.checker.check_model(onnx.load(tmp_path / "there" / "typed.onnx"))
    commands = dict(written.commands)
    assert "--layerPrecisions=b1_sq:fp32," in commands["trtexec"]
    assert commands["trtexec"] in (tmp_path / "there" / "recipes.sh").read_text()
    assert written.result.passed


def test_a_folder_that_is_a_file_is_an_error(session: Session, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    session.keep(ISLAND)
    with pytest.raises(UsageError, match="cannot be written"):
        session.export(str(tmp_path / "file"))


# --- the journal ------------------------------------------------------------------------------------------------------


def journal_of(session: Session, name: str = "islands") -> dict[frozenset[str], Outcome]:
    path = session.context.journal.folder / f"{name}.journal"
    with Journal.resume(path, island_problem(session.context.subject)) as journal:
        return {record.treated: record.evaluation.outcome for record in journal.records}


def test_every_configuration_is_in_the_journal_of_a_diagnosis(session: Session) -> None:
    session.evaluate()
    session.keep(ISLAND)
    session.evaluate()
    session.evaluate()
    written = journal_of(session)
    assert written == {frozenset(): Outcome.FAIL, frozenset(ISLAND): Outcome.PASS}
    session.bisect(["b1_*"])
    assert len(journal_of(session)) > len(written)


def test_another_session_continues_where_the_first_ended(open_small) -> None:
    first = open_small()
    first.keep(ISLAND)
    first.evaluate()
    second = open_small()
    assert second.welcome().earlier[0].best == ISLAND
    assert second.keep(ISLAND).outcome is Outcome.PASS
    assert second.results().tried == ()


def test_what_a_diagnosis_evaluated_is_known(open_small, tmp_path: Path) -> None:
    first = open_small()
    investigate(Context(first.subject, journal=first.context.journal), DiagnosisOptions())
    assert open_small().welcome().earlier[0].best == ISLAND


def test_a_diagnosis_continues_from_engines_built_by_hand(open_small) -> None:
    def engine(model):
        return FakeEngine(model, "b1_up", lambda build: False)

    by_hand = open_small(engine=engine)
    assert not by_hand.evaluate(engine=True).passed
    by_hand.keep(ISLAND)
    assert by_hand.evaluate(engine=True).passed
    assert by_hand.evaluate(engine=True).evaluation.recalled

    later = open_small(engine=engine)
    subject = later.context.subject
    journal = DiagnosisJournal(later.context.journal.folder, subject, resume=True)
    diagnosis = investigate(Context(subject, journal=journal), DiagnosisOptions(timed=False))
    assert diagnosis.culprits == ISLAND
    assert diagnosis.confirmed
    unobserved = [plan for plan in subject.candidate.plans if plan.observation == "none"]
    assert unobserved == []
    assert diagnosis.cost.builds == by_hand.context.cost.builds + len(subject.candidate.plans)


def test_the_journal_is_locked_only_during_a_command(session: Session) -> None:
    session.keep(ISLAND)
    path = session.context.journal.folder / "islands.journal"
    with Journal.resume(path, island_problem(session.subject)), pytest.raises(JournalError, match="another"):
        session.evaluate()
    assert session.evaluate().passed


def test_an_engine_that_cannot_be_built_is_not_a_numerical_failure(open_small) -> None:
    def engine(model):
        return FakeEngine(model, "b1_up", when_lowered("b1_up"), breaks=lambda plan: bool(plan.islands))

    session = open_small(engine=engine)
    session.keep(ISLAND)
    evaluation = session.evaluate(engine=True).evaluation
    assert evaluation.outcome is Outcome.UNRESOLVED
    assert "no implementation" in evaluation.note
    assert evaluation.evidence == ("[E] no implementation",)
    assert journal_of(session) == {}  # a resumed search is to ask again
    assert session.evaluate().passed  # the emulator is another matter


def test_without_an_environment_there_is_nowhere_to_build(session: Session) -> None:
    with pytest.raises(UsageError, match="nowhere to build"):
        session.evaluate(engine=True)
