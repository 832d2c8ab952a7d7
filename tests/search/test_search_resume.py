"""A search that is really killed, at every step, and gone on with."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from search_oracles import KILLED_CULPRITS, KILLED_OPTIONS, Counting, conjunction, killed_problem

from harness.errors import BudgetExhaustedError
from harness.search import Budget, Journal, Outcome, SearchOptions, SearchVerdict, Trial, search

PROBLEM = killed_problem()
UNITS = PROBLEM.units
CULPRITS = KILLED_CULPRITS
OPTIONS = KILLED_OPTIONS

CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from search_oracles import KILLED_CULPRITS, KILLED_OPTIONS, conjunction, killed_problem
from harness.search import Journal, search
left = int(sys.argv[2])
truth = conjunction(KILLED_CULPRITS)
problem = killed_problem()

def oracle(treated):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return truth(treated)

with Journal.resume(Path(sys.argv[1]), problem) as journal:
    search(problem, oracle, options=KILLED_OPTIONS, journal=journal)
"""


def undisturbed():
    return dataclasses.replace(search(PROBLEM, conjunction(CULPRITS), options=OPTIONS), seconds=0.0)


def test_kill_9_at_every_step_changes_nothing_and_repeats_one_evaluation_at_most(tmp_path: Path):
    expected = undisturbed()
    assert expected.culprits == CULPRITS
    for step in range(expected.evaluations):
        path = tmp_path / f"{step}.jsonl"
        command = [sys.executable, "-c", CHILD, str(path), str(step), str(Path(__file__).parent)]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        assert child.returncode == -signal.SIGKILL, child.stderr
        oracle = Counting(conjunction(CULPRITS))
        with Journal.resume(path, PROBLEM) as journal:
            resumed = search(PROBLEM, oracle, options=OPTIONS, journal=journal)
        assert dataclasses.replace(resumed, seconds=0.0) == expected
        assert resumed.replayed == step
        assert step + 1 + len(oracle.asked) <= expected.evaluations + 1


def test_one_journal_survives_a_kill_after_each_single_evaluation(tmp_path: Path):
    expected = undisturbed()
    path = tmp_path / "journal.jsonl"
    kills = 0
    while True:
        command = [sys.executable, "-c", CHILD, str(path), "3", str(Path(__file__).parent)]
        if subprocess.run(command, check=False).returncode == 0:
            break
        kills += 1
    assert kills == (expected.evaluations - 1) // 3
    with Journal.resume(path, PROBLEM) as journal:
        resumed = search(
            PROBLEM, lambda treated: pytest.fail("nothing is left"), options=OPTIONS, journal=journal
        )
    assert dataclasses.replace(resumed, seconds=0.0) == expected


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_passes_through_and_leaves_a_valid_journal(
    tmp_path: Path, error: type[BaseException]
):
    path = tmp_path / "journal.jsonl"
    truth = conjunction(CULPRITS)
    calls = 0

    def oracle(treated: frozenset[str]) -> Trial:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise error
        return truth(treated)

    with pytest.raises(error), Journal.create(path, PROBLEM) as journal:
        search(PROBLEM, oracle, options=OPTIONS, journal=journal)
    with Journal.resume(path, PROBLEM) as journal:
        assert len(journal.records) == 5
        resumed = search(PROBLEM, truth, options=OPTIONS, journal=journal)
    assert dataclasses.replace(resumed, seconds=0.0) == undisturbed()


def test_each_resumption_has_its_seconds_again(tmp_path: Path):
    def oracle(treated: frozenset[str]) -> Trial:
        return dataclasses.replace(conjunction(CULPRITS)(treated), seconds=10.0)

    expected = search(PROBLEM, oracle, options=OPTIONS)
    budget = Budget(seconds=25.0)
    for done in range(0, expected.evaluations, 3):
        with Journal.resume(tmp_path / "journal.jsonl", PROBLEM) as journal:
            assert len(journal.records) == done
            result = search(PROBLEM, oracle, options=OPTIONS, journal=journal, budget=budget)
    assert result == expected


def test_an_oracle_without_a_budget_ends_the_search_as_its_own_does(tmp_path: Path):
    oracle = Counting(conjunction(CULPRITS))

    def limited(treated: frozenset[str]) -> Trial:
        if len(oracle.asked) == 8:
            raise BudgetExhaustedError("the hour is over")
        return oracle(treated)

    result = search(PROBLEM, limited, options=OPTIONS)
    assert (result.verdict, result.evaluations) == (SearchVerdict.BUDGET, 8)
    assert result.best == search(PROBLEM, conjunction(CULPRITS), budget=Budget(evaluations=8)).best
    assert result.log[-1].text == "the hour is over"


def test_repeated_evaluations_are_replayed_in_their_order(tmp_path: Path):
    outcomes = iter([Outcome.FAIL, Outcome.FAIL, Outcome.PASS])
    path = tmp_path / "journal.jsonl"
    options = SearchOptions(repeats=3)
    with Journal.create(path, PROBLEM) as journal:
        first = search(PROBLEM, lambda treated: Trial(next(outcomes)), options=options, journal=journal)
    with Journal.resume(path, PROBLEM) as journal:
        again = search(PROBLEM, lambda treated: pytest.fail("replayed"), options=options, journal=journal)
    assert first == again
    assert first.verdict is SearchVerdict.FLAKY


def test_trials_that_others_appended_answer_the_search(tmp_path: Path):
    """A person's own experiments are in the same journal as the search that follows them."""
    path = tmp_path / "journal.jsonl"
    truth = conjunction(CULPRITS)
    with Journal.create(path, PROBLEM) as journal:
        for treated in (frozenset(), frozenset(UNITS[:7]), frozenset(UNITS)):
            journal.append(treated, truth(treated))
    oracle = Counting(truth)
    with Journal.resume(path, PROBLEM) as journal:
        result = search(PROBLEM, oracle, options=OPTIONS, journal=journal)
    assert result.culprits == CULPRITS
    assert result.replayed == 2
    assert len(oracle.asked) == result.evaluations - 2
