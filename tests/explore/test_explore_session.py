"""A session by its answers: what each command does, and what diagnoses make of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import onnx
import pytest
from engines import FakeEngine, when_lowered
from models import ISLAND

from harness.diagnosis import Lab, Notebook, Options, island_problem
from harness.diagnosis.api import _diagnose
from harness.errors import JournalError, NothingSelectedError, UsageError
from harness.explore import Session
from harness.explore.commands import Order
from harness.search import Journal, Outcome, Verdict
from harness.tensors import Precision


def test_on_entry_it_says_what_fails_where_and_what_to_do(session: Session) -> None:
    welcome = session.welcome()
    assert welcome.attempt.outcome is Outcome.FAIL
    assert welcome.attempt.badness is not None
    assert welcome.attempt.badness > 1
    assert [layer.node for layer in welcome.origins] == ["b1_sq"]
    assert "beyond 65504, the largest FP16 value" in welcome.reason
    assert welcome.suggested == "b1_*"
    assert 0 < welcome.diverged < welcome.layers


def test_keep_try_lower_and_undo(session: Session) -> None:
    changed = session.keep(["b1_*"])
    assert (len(changed.added), len(changed.kept), changed.known) == (11, 11, None)
    assert session.attempt().passed
    assert session.known() is Outcome.PASS
    assert session.lower(["b1_sq"]).removed == ("b1_sq",)
    assert not session.attempt().passed
    assert not session.passes
    assert session.undo().known is Outcome.PASS
    assert session.undo().kept == ()
    with pytest.raises(UsageError, match="nothing to undo"):
        session.undo()


def test_keeping_what_is_kept_is_no_step(session: Session) -> None:
    session.keep(["b1_sq"])
    again = session.keep(["b1_sq"])
    assert (again.added, again.removed) == ((), ())
    session.undo()
    assert session.kept == frozenset()


def test_try_says_by_how_much_and_how_long_it_took(session: Session) -> None:
    session.keep(ISLAND)
    attempt = session.attempt()
    assert attempt.kept == ISLAND
    assert attempt.gate is not None
    assert (attempt.gate.metric, attempt.gate.limit) == ("nrmse", 1e-2)
    assert 0 < attempt.gate.value < 1e-2
    assert attempt.seconds > 0


def test_a_mistake_leaves_what_is_kept(session: Session) -> None:
    session.keep(["b1_sq"])
    for mistake in (["b9_*"], ["nothing"]):
        with pytest.raises(NothingSelectedError):
            session.keep(mistake)
        with pytest.raises(NothingSelectedError):
            session.bisect(mistake)
    assert session.kept == {"b1_sq"}


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
        Order.HEADROOM: lambda row: row.result.metrics.headroom,
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
    assert rows[0].held.flushed > 0.5


def test_why_tells_the_ranges_and_what_the_node_does_alone(session: Session) -> None:
    told = session.why("b1_sq")
    assert "squares of values up to" in told.reason
    assert [tensor.others[0].name for tensor in told.reads if tensor.others] == ["b1_scale"]
    assert told.writes[0].share > 1
    assert told.writes[0].held.overflowing > 0
    assert [node.name for node in told.writes[0].others] == ["b1_mean"]
    assert told.alone is not None
    assert told.alone > 1
    assert told.layer is not None
    assert told.layer.origin
    sound = session.why("b0_up")
    assert sound.alone is not None
    assert sound.alone < 1


def test_why_says_the_same_as_a_diagnosis(session: Session) -> None:
    diagnosis = _diagnose(Lab(session.subject), Options(), None)
    assert session.why("b1_sq").reason == diagnosis.origins[0].why


# --- bisect -----------------------------------------------------------------------------------------------------------


def test_bisect_finds_and_keeps_the_fewest(session: Session) -> None:
    found = session.bisect()
    assert (found.found, found.minimal, found.asked) == (ISLAND, True, 33)
    assert session.kept == set(ISLAND)
    assert found.attempt is not None
    assert found.attempt.passed
    session.undo()
    assert session.kept == frozenset()


def test_bisect_narrows_what_is_kept_if_that_passes(session: Session) -> None:
    session.keep(["b1_*", "b0_up"])
    found = session.bisect()
    assert (found.asked, found.found) == (12, ISLAND)


def test_bisect_searches_everything_if_what_is_kept_fails(session: Session) -> None:
    session.keep(["b0_*"])
    found = session.bisect()
    assert (found.asked, found.found) == (33, ISLAND)
    assert session.kept == set(ISLAND)


def test_bisect_of_a_pattern_leaves_the_others_as_they_are(session: Session) -> None:
    session.keep(["b1_mean", "b1_addeps", "b1_sqrt", "b2_up"])
    found = session.bisect(["b1_s*"])
    assert found.found == ("b1_sq", "b1_sqrt")
    assert found.fixed == 3
    assert session.kept == {*ISLAND, "b2_up"}


def test_bisect_of_nodes_that_do_not_help_says_so_at_once(session: Session) -> None:
    found = session.bisect(["b0_*"])
    assert found.verdict is Verdict.LOST
    assert not found.answered
    assert found.evaluations <= 3
    assert session.kept == frozenset()


def test_bisect_drops_what_is_not_needed(session: Session) -> None:
    session.keep([*ISLAND, "b0_up"])
    found = session.bisect(["b0_up"])
    assert found.verdict is Verdict.NONE
    assert session.kept == set(ISLAND)


def test_nothing_is_bisected_where_nothing_fails(open_small) -> None:
    with pytest.raises(UsageError, match="nothing fails on the emulator"):
        open_small(scale=1.0).bisect()


def test_a_precision_that_lowers_nothing_is_refused(open_small) -> None:
    with pytest.raises(UsageError, match="choose fp16"):
        open_small(precision=Precision.FP32)


def test_a_cancelled_bisect_changes_nothing_and_is_gone_on_with(session: Session, monkeypatch) -> None:
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
    assert session.plot().path == tmp_path / "out" / "growth-2.png"
    session.keep(ISLAND)
    text = session.plot(str(tmp_path / "mine.svg")).path.read_text()
    assert "4 nodes in FP32" in text
    with pytest.raises(UsageError, match=r"\.png or a \.svg"):
        session.plot("x.pdf")


def test_export_writes_what_a_diagnosis_hands_over(session: Session, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing is kept"):
        session.export()
    session.keep(ISLAND)
    told = session.export(str(tmp_path / "there"))
    assert set(told.files) == {"keep_fp32.py", "layers.json", "model.onnx", "recipes.sh", "typed.onnx"}
    listed = json.loads((tmp_path / "there" / "layers.json").read_text())
    assert [entry["node"] for entry in listed["fp32"]] == list(ISLAND)
    onnx.checker.check_model(onnx.load(tmp_path / "there" / "typed.onnx"))
    commands = dict(told.commands)
    assert "--layerPrecisions=b1_sq:fp32," in commands["trtexec"]
    assert commands["trtexec"] in (tmp_path / "there" / "recipes.sh").read_text()
    assert told.attempt.passed


def test_a_folder_that_is_a_file_is_told(session: Session, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    session.keep(ISLAND)
    with pytest.raises(UsageError, match="cannot be written"):
        session.export(str(tmp_path / "file"))


# --- the journal ------------------------------------------------------------------------------------------------------


def journal_of(session: Session, name: str = "islands") -> dict[frozenset[str], Outcome]:
    path = session.notebook.folder / f"{name}.journal"
    with Journal.resume(path, island_problem(session.lab.subject)) as journal:
        return {record.treated: record.trial.outcome for record in journal.records}


def test_every_configuration_is_in_the_journal_of_a_diagnosis(session: Session) -> None:
    session.attempt()
    session.keep(ISLAND)
    session.attempt()
    session.attempt()
    written = journal_of(session)
    assert written == {frozenset(): Outcome.FAIL, frozenset(ISLAND): Outcome.PASS}
    session.bisect(["b1_*"])
    assert len(journal_of(session)) > len(written)


def test_another_session_goes_on_where_the_first_ended(open_small) -> None:
    first = open_small()
    first.keep(ISLAND)
    first.attempt()
    second = open_small()
    assert second.welcome().earlier[0].best == ISLAND
    assert second.keep(ISLAND).known is Outcome.PASS
    assert second.past().tried == ()


def test_what_a_diagnosis_evaluated_is_known(open_small, tmp_path: Path) -> None:
    first = open_small()
    _diagnose(Lab(first.subject, notebook=first.notebook), Options(), None)
    assert open_small().welcome().earlier[0].best == ISLAND


def test_a_diagnosis_goes_on_with_what_was_built_by_hand(open_small) -> None:
    def engine(model):
        return FakeEngine(model, "b1_up", lambda build: False)

    by_hand = open_small(engine=engine)
    assert not by_hand.attempt(engine=True).passed
    by_hand.keep(ISLAND)
    assert by_hand.attempt(engine=True).passed
    assert by_hand.attempt(engine=True).remembered

    later = open_small(engine=engine)
    subject = later.lab.subject
    notebook = Notebook(later.notebook.folder, subject, resume=True)
    diagnosis = _diagnose(Lab(subject, notebook=notebook), Options(timed=False), None)
    assert diagnosis.culprits == ISLAND
    assert diagnosis.confirmed
    unobserved = [plan for plan in subject.candidate.plans if plan.observation == "none"]
    assert unobserved == []
    assert diagnosis.cost.builds == by_hand.lab.cost.builds + len(subject.candidate.plans)


def test_the_journal_is_free_between_commands_and_said_to_be_taken_otherwise(session: Session) -> None:
    session.keep(ISLAND)
    path = session.notebook.folder / "islands.journal"
    with Journal.resume(path, island_problem(session.subject)), pytest.raises(JournalError, match="another"):
        session.attempt()
    assert session.attempt().passed


def test_an_engine_that_cannot_be_built_is_no_failure_of_the_numbers(open_small) -> None:
    def engine(model):
        return FakeEngine(model, "b1_up", when_lowered("b1_up"), breaks=lambda plan: bool(plan.islands))

    session = open_small(engine=engine)
    session.keep(ISLAND)
    attempt = session.attempt(engine=True)
    assert attempt.outcome is Outcome.UNRESOLVED
    assert "no implementation" in attempt.note
    assert attempt.evidence == ("[E] no implementation",)
    assert journal_of(session) == {}  # a resumed search is to ask again
    assert session.attempt().passed  # the emulator is another matter


def test_without_an_environment_there_is_nowhere_to_build(session: Session) -> None:
    with pytest.raises(UsageError, match="nowhere to build"):
        session.attempt(engine=True)
