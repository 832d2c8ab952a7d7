"""The planted-fault benchmark: its ground truth is true, and its scores say what they should."""

import hashlib
import json
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest

from benchmarks.faults import __main__ as command
from benchmarks.faults import run as runner
from benchmarks.faults.families import Family
from benchmarks.faults.generate import FAULTS, SIZES, generate, grid, sample
from benchmarks.faults.kinds import Kind
from benchmarks.faults.partial import OtherRunError, Partial
from benchmarks.faults.planted import Spec
from benchmarks.faults.report import numbers_of, page, scores_of, table
from benchmarks.faults.score import Answer, goals, nearest_truth, score
from benchmarks.faults.truth import Emulation, optimum, verify

SMALL = sample(60)


def _spec(kind: Kind, faults: int = 1, *, family: Family = Family.MLP, nodes: int = 100) -> Spec:
    return Spec(family, kind, faults, nodes)


def _answer(*culprits: str, verdict: str = "precision") -> Answer:
    return Answer(verdict, frozenset(culprits), evaluations=7, search_evaluations=3, seconds=0.5)


@pytest.mark.parametrize("spec", SMALL[::3], ids=lambda spec: spec.name)
def test_ground_truth_holds_on_the_emulator(spec):
    assert verify(generate(spec), brute_force=spec.nodes <= 50) == []


@pytest.mark.parametrize("spec", SMALL, ids=lambda spec: spec.name)
def test_harness_finds_what_was_planted_and_nothing_else(spec):
    found = runner.judge(spec)
    assert not found.error
    assert found.verdict_right
    assert (found.recall, found.precision) in [(1.0, 1.0), (None, None)]
    assert found.ratio <= 1.3


def test_the_sample_has_every_family_kind_and_number_of_faults():
    assert len(set(SMALL)) == 60
    assert {spec.family for spec in SMALL} == set(Family)
    assert {spec.kind for spec in SMALL} == set(Kind)
    assert {spec.faults for spec in SMALL} >= {0, 1, 2, 5}


def test_the_grid_has_a_thousand_cases_of_every_size_and_each_its_clean_twin():
    specs = set(grid())
    assert len(specs) >= 1000
    assert {spec.nodes for spec in specs} == set(SIZES)
    assert {spec.faults for spec in specs} == {0, *FAULTS}
    assert all(replace(spec, faults=0) in specs for spec in specs)


@pytest.mark.parametrize("kind", [Kind.PAIR, Kind.ACCUMULATED])
def test_a_case_is_the_same_bytes_every_time(kind):
    spec = _spec(kind, nodes=200)
    first, second = (generate(spec) for _ in range(2))
    digests = {
        hashlib.sha256(case.model.SerializeToString(deterministic=True)).digest() for case in (first, second)
    }
    assert len(digests) == 1
    assert np.array_equal(first.feeds["x"], second.feeds["x"])


@pytest.mark.parametrize("family", Family)
def test_a_clean_twin_differs_in_constants_only(family):
    faulty, clean = (generate(_spec(Kind.BEHIND, faults, family=family)) for faults in (1, 0))
    assert faulty.model.graph.node == clean.model.graph.node
    assert np.array_equal(faulty.feeds["x"], clean.feeds["x"])
    assert clean.truth == frozenset()
    assert len(faulty.clauses) == 2


@pytest.mark.parametrize("family", Family)
def test_models_are_valid_and_about_as_large_as_asked(family):
    model = generate(_spec(Kind.SQUARES, family=family, nodes=500)).model
    onnx.checker.check_model(model, full_check=True)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert len(names) == pytest.approx(500, rel=0.1)


def test_more_faults_than_blocks_are_refused():
    with pytest.raises(ValueError, match="20 faults do not fit"):
        generate(_spec(Kind.SQUARES, 20))


def test_verify_finds_a_node_too_many_one_too_few_and_a_fault_that_is_none():
    case = generate(_spec(Kind.SQUARES))
    ((nodes,),) = case.clauses
    assert verify(replace(case, clauses=((nodes | {"head"},),))) == [
        "head need not go back to FP32",
        "head lowered alone passes",
    ]
    missing = sorted(nodes)[0]
    problems = verify(replace(case, clauses=((nodes - {missing},),)), brute_force=True)
    assert f"{missing} is part of no fault, and fails alone" in problems
    assert any("leave an error of" in problem for problem in problems)
    clean = generate(_spec(Kind.SQUARES, 0))
    assert verify(replace(clean, clauses=case.clauses))[0].startswith("everything lowered has an error of")


def test_an_accumulated_error_has_no_single_culprit_and_an_optimum_that_cures():
    case = generate(_spec(Kind.ACCUMULATED, nodes=200))
    emulation = Emulation(case)
    assert case.truth is None
    assert not emulation.passes(())
    assert all(emulation.passes(emulation.units - place) for place in case.places)
    assert 2 < optimum(case) < 2 * len(case.places)


def test_a_pair_fails_only_together():
    case = generate(_spec(Kind.PAIR))
    ((left, right),) = case.clauses
    emulation = Emulation(case)
    assert not emulation.passes(())
    assert emulation.passes(left)
    assert emulation.passes(right)
    assert emulation.passes(emulation.units - left)


def test_a_fault_behind_another_shows_only_when_the_first_is_cured():
    case = generate(_spec(Kind.BEHIND))
    (first,), (second,) = case.clauses
    emulation = Emulation(case)
    assert np.isfinite(emulation.error(()))
    assert np.isinf(emulation.error(first))
    assert emulation.passes(first | second)


def test_score_of_a_right_answer():
    case = generate(_spec(Kind.SQUARES))
    found = score(case, _answer(*case.truth))
    assert (found.verdict_right, found.precision, found.recall, found.ratio) == (True, 1.0, 1.0, 1.0)


def test_score_counts_what_is_missing_and_what_is_too_much():
    case = generate(_spec(Kind.SQUARES))
    half = sorted(case.truth)[:2]
    found = score(case, _answer(*half, "head"))
    assert found.recall == 0.5
    assert found.precision == pytest.approx(2 / 3)
    assert found.ratio == 0.75


def test_score_of_a_clean_twin():
    case = generate(_spec(Kind.SQUARES, 0))
    right, wrong = score(case, _answer(verdict="none")), score(case, _answer("head"))
    assert (right.verdict_right, right.precision, right.recall, right.ratio) == (True, 1.0, 1.0, 1.0)
    assert (wrong.verdict_right, wrong.precision) == (False, 0.0)
    assert wrong.ratio == float("inf")


def test_either_side_of_a_pair_is_right():
    case = generate(_spec(Kind.PAIR))
    for side in case.clauses[0]:
        assert nearest_truth(case.clauses, side) == side
        assert score(case, _answer(*side)).recall == 1.0


def test_goals_name_what_is_missed():
    squares, clean = generate(_spec(Kind.SQUARES)), generate(_spec(Kind.SQUARES, 0))
    good = [score(squares, _answer(*squares.truth)), score(clean, _answer(verdict="none"))]
    assert all(goal.reached for goal in goals(good))
    bad = [score(squares, _answer("head")), score(clean, _answer("head"))]
    missed = {goal.text for goal in goals(bad) if not goal.reached}
    assert missed == {
        "verdict right",
        "culprit recall, separated faults",
        "culprit precision, separated faults",
        "culprits on clean twins",
    }


def test_table_has_a_row_for_each_kind_present():
    squares, clean = generate(_spec(Kind.SQUARES)), generate(_spec(Kind.SQUARES, 0))
    text = table([score(squares, _answer(*squares.truth)), score(clean, _answer(verdict="none"))])
    names = [line.split("|")[1].strip() for line in text.splitlines()]
    assert names == ["fault", "---", "squares", "clean twins", "all"]


def test_a_diagnosis_that_raises_is_a_wrong_answer(monkeypatch):
    def broken(*_):
        raise RuntimeError("lost, its way")

    monkeypatch.setattr(runner, "diagnose", broken)
    found = runner.judge(_spec(Kind.SQUARES))
    assert (found.verdict_right, found.recall) == (False, 0.0)
    assert found.error == "RuntimeError: lost, its way"


def test_command_prints_the_table_and_keeps_the_result(monkeypatch, capsys, tmp_path):
    out = tmp_path / "faults.json"
    monkeypatch.setattr(sys, "argv", ["faults", "--sample", "6", "--jobs", "2", "--out", str(out)])
    assert command.main() == 0
    document = json.loads(out.read_text())
    assert "| all | 6 |" in capsys.readouterr().out
    assert document["cases"] == len(document["rows"]) == 6
    columns = document["columns"].split(",")
    assert all(len(row.split(",")) == len(columns) for row in document["rows"])


def test_command_misses_its_goals_with_exit_status_1(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["faults", "--sample", "4"])
    monkeypatch.setattr(runner, "diagnose", lambda *_: _answer("head"))
    assert command.main() == 1
    assert "MISS verdict right" in capsys.readouterr().out


def test_a_stopped_run_goes_on_where_it_was_and_keeps_the_order(monkeypatch, capsys, tmp_path):
    out = tmp_path / "faults.json"
    specs = sample(6)
    judged = []

    def stopping(spec):
        judged.append(spec)
        if len(judged) == 4:
            raise KeyboardInterrupt
        return runner.judge(spec)

    monkeypatch.setattr(command, "judge", stopping)
    monkeypatch.setattr(sys, "argv", ["faults", "--sample", "6", "--out", str(out)])
    with pytest.raises(KeyboardInterrupt):
        command.main()
    partial = out.with_name("faults.json.partial")
    assert not out.exists()
    with partial.open("a") as file:
        file.write('{"score": {"na')  # killed while it wrote
    assert command.main() == 0
    assert judged == [*specs[:4], *specs[3:]]
    assert not partial.exists()
    document = json.loads(out.read_text())
    assert [found.name for found in scores_of(document)] == [spec.name for spec in specs]


def test_scores_of_other_sources_are_not_mixed_in(monkeypatch, capsys, tmp_path):
    out = tmp_path / "faults.json"
    Partial(out).keep(score(generate(_spec(Kind.SQUARES)), _answer("head")), 1.0)
    monkeypatch.setattr("benchmarks.faults.partial.state", lambda: "another")
    with pytest.raises(OtherRunError, match="delete it to start again"):
        Partial(out)
    monkeypatch.setattr(sys, "argv", ["faults", "--sample", "2", "--out", str(out)])
    assert command.main() == 2
    assert "delete it" in capsys.readouterr().err


def test_a_kept_result_is_shown_as_the_tables_of_its_scores(monkeypatch, capsys, tmp_path):
    squares, clean = generate(_spec(Kind.SQUARES)), generate(_spec(Kind.SQUARES, 0))
    odd = score(clean, _answer(verdict="error"), error='lost, "its" way\nhome')
    scores = [score(squares, _answer(*squares.truth)), odd]
    document = {
        **numbers_of(scores, seconds=62.0, jobs=4),
        "fingerprint": {"onnxruntime": "1.30", "cpu": "a processor"},
    }
    assert scores_of(json.loads(json.dumps(document))) == [
        scores[0],
        replace(odd, error='lost, "its" way home'),
    ]
    kept = tmp_path / "faults.json"
    kept.write_text(json.dumps(document))
    monkeypatch.setattr(sys, "argv", ["faults", "--table", str(kept)])
    assert command.main() == 0
    shown = capsys.readouterr().out
    assert shown == page(document) + "\n"
    assert "2 cases in 62 s with 4 processes of one thread each" in shown
    assert table(scores) in shown
    assert "| verdict right | 0.5 | ≥ 0.99 | **missed** |" in shown
