"""A diagnosis that is killed, at any step, and gone on with says the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from engines import FakeEngine, Rougher, when_lowered
from models import case_path, feeds, rmsnorm

from harness.case import Tolerance
from harness.diagnosis import Context, DiagnosisBudget, DiagnosisJournal, DiagnosisOptions, Subject, diagnose
from harness.diagnosis.api import investigate
from harness.diagnosis.context import Spending, evaluator, make_bench
from harness.errors import JournalError
from harness.tensors import Precision

ANSWER = (
    "verdict",
    "summary",
    "origins",
    "culprits",
    "islands",
    "confirmed",
    "minimal",
    "minimal_on",
    "recipes",
)
HERE = Path(__file__).parent


def test_an_island_of_hundreds_of_nodes_has_files_of_its_own(tmp_path: Path) -> None:
    model = rmsnorm()
    bench = make_bench(model, feeds(model))
    journal = DiagnosisJournal(tmp_path, Subject(bench, Precision.FP16, bench.emulator), resume=False)
    keys = [f"island {' '.join(f'block_{number}_node' for number in range(count))}" for count in (300, 301)]
    for value, key in enumerate(keys):
        journal.keep_tensors(key, [{"y": np.full(3, value, np.float32)}])
    for value, key in enumerate(keys):
        (sample,) = journal.recall_tensors(key) or []
        assert sample["y"].tolist() == [value] * 3
    bench.close()


class Killed(BaseException):
    """What a kill -9 looks like from the inside: nothing catches it, nothing is tidied up."""


class MortalMixin:
    """Dies with its host in front of, or right behind, an evaluation."""

    last: int = 1 << 30
    after: bool = False

    def evaluate(self, plan, sample, **more):  # type: ignore[no-untyped-def]
        if self.evaluations + 1 == self.last and not self.after:
            raise Killed
        found = super().evaluate(plan, sample, **more)
        if self.evaluations == self.last and self.after:
            raise Killed
        return found


class Mortal(MortalMixin, FakeEngine):
    pass


class RoughMortal(MortalMixin, Rougher):
    pass


GATE = (Tolerance(precision="fp16", nrmse=3e-4),)  # missed by half, and by no node alone


def once(engine: FakeEngine, folder: Path, *, resume: bool, budget: DiagnosisBudget | None = None) -> dict:  # type: ignore[type-arg]
    tolerances = GATE if isinstance(engine, RoughMortal) else ()
    bench = make_bench(engine.model, feeds(engine.model), tolerances=tolerances)
    subject = Subject(bench, Precision.FP16, engine)
    context = Context(subject, budget, DiagnosisJournal(folder, subject, resume=resume))
    try:
        return investigate(context, DiagnosisOptions()).to_dict()
    finally:
        bench.close()


def make(kind: str) -> Mortal | RoughMortal:
    if kind == "accumulated":
        return RoughMortal(rmsnorm(blocks=2), "b1_up", lambda build: False)
    if kind == "foreseen":
        return Mortal(rmsnorm(blocks=2, scale=600.0), "b1_up", lambda build: False)
    return Mortal(rmsnorm(blocks=2), "b1_up", when_lowered("b1_up"))


@pytest.mark.parametrize("kind", ["foreseen", "unforeseen", "accumulated"])
@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_evaluation_of_an_engine_it_goes_on(tmp_path: Path, kind: str, after: bool) -> None:
    whole = make(kind)
    expected = once(whole, tmp_path / "whole", resume=False)
    for step in range(1, whole.evaluations + 1):
        folder = tmp_path / str(step)
        first = make(kind)
        first.last, first.after = step, after
        with pytest.raises(Killed):
            once(first, folder, resume=False)
        second = make(kind)
        answer = once(second, folder, resume=True)
        assert {key: answer[key] for key in ANSWER} == {key: expected[key] for key in ANSWER}, step
        assert first.builds + second.builds <= whole.builds + 1, step  # what was under way is repeated


def test_what_an_earlier_process_built_is_charged(tmp_path: Path) -> None:
    first = make("unforeseen")
    first.last, first.after = 4, True  # the third runs the first engine again
    with pytest.raises(Killed):
        once(first, tmp_path, resume=False)
    written = first.builds - 1  # the one under way died before anybody could write it down
    second = make("unforeseen")
    answer = once(second, tmp_path, resume=True, budget=DiagnosisBudget(builds=4))
    assert answer["verdict"] == "unresolved"
    assert written + second.builds == answer["cost"]["builds"] == 4


def test_a_diagnosis_that_stopped_at_its_limit_goes_on_with_more(tmp_path: Path) -> None:
    stopped = once(make("unforeseen"), tmp_path, resume=False, budget=DiagnosisBudget(builds=3))
    assert stopped["verdict"] == "unresolved"
    answer = once(make("unforeseen"), tmp_path, resume=True, budget=DiagnosisBudget(builds=12))
    assert answer["verdict"] == "precision"
    assert answer["culprits"] == ["b1_up"]


def test_each_resumption_has_its_seconds_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation takes ten seconds; the trials of earlier processes do not take them again."""
    clock = SimpleNamespace(perf_counter=lambda: 10.0 * engine.evaluations)
    monkeypatch.setattr(Spending, "seconds", property(lambda spending: clock.perf_counter()))
    monkeypatch.setattr(evaluator, "time", clock)
    engine = make("unforeseen")
    expected = once(engine, tmp_path / "whole", resume=False)
    rounds, stages = 0, set()
    answer = {"verdict": "unresolved"}
    while answer["verdict"] == "unresolved" and rounds < 20:
        engine = make("unforeseen")
        answer = once(engine, tmp_path / "parts", resume=rounds > 0, budget=DiagnosisBudget(seconds=15.0))
        rounds += 1
        if answer["verdict"] == "unresolved":
            assert engine.evaluations == 2
            assert "its limit of 15 s (--max-seconds)" in answer["summary"]
            assert answer["advice"][-1].endswith("--resume --max-seconds 30")
            said = [
                each for each in answer["evidence"] if "the budget of 15 seconds is spent" in each["text"]
            ]
            stages |= {each["stage"] for each in said}
    assert rounds > 3
    assert "cure" in stages, "a search was stopped"
    assert {key: answer[key] for key in ANSWER} == {key: expected[key] for key in ANSWER}


def test_a_journal_of_another_model_is_refused(tmp_path: Path) -> None:
    once(make("foreseen"), tmp_path, resume=False)
    with pytest.raises(JournalError, match="another diagnosis"):
        once(make("unforeseen"), tmp_path, resume=True)
    once(make("unforeseen"), tmp_path, resume=False)  # without --resume it is replaced


def test_a_second_diagnosis_in_one_folder_is_refused_and_leaves_the_first_alone(tmp_path: Path) -> None:
    refused = []

    def second(*_: object) -> None:
        if not refused:
            with pytest.raises(JournalError, match="another diagnosis is writing to this folder") as caught:
                diagnose(case_path("rmsnorm-overflow"), precision="fp16", journal=tmp_path / "j")
            refused.append(caught.value.hint)

    first = diagnose(case_path("rmsnorm-overflow"), precision="fp16", journal=tmp_path / "j", progress=second)
    assert refused == ["wait for it to end, or write elsewhere with --out"]
    assert (tmp_path / "j" / "islands.journal").exists()
    again = diagnose(case_path("rmsnorm-overflow"), precision="fp16", journal=tmp_path / "j", resume=True)
    assert (again.verdict, again.culprits) == (first.verdict, first.culprits)


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    once(make("foreseen"), tmp_path, resume=False)
    journal = tmp_path / "diagnosis.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"key": "baseline", "val')
    engine = make("foreseen")
    once(engine, tmp_path, resume=True)
    assert engine.builds == 0
    assert journal.read_bytes().startswith(whole)
    assert all(json.loads(line) for line in journal.read_bytes().splitlines())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "2: this line of the journal is damaged"),
        ('{"spent": {}}', "2: this line of the journal is damaged"),
        ('{"key": "baseline", "value": {"spoilt": 1}}', "the entry 'baseline' is damaged: .*field required"),
    ],
)
def test_a_damaged_entry_is_one_error(tmp_path: Path, line: str, message: str) -> None:
    once(make("foreseen"), tmp_path, resume=False)
    journal = tmp_path / "diagnosis.jsonl"
    header = journal.read_text().splitlines()[0]
    journal.write_text(f"{header}\n{line}\n")
    with pytest.raises(JournalError, match=message):
        once(make("foreseen"), tmp_path, resume=True)


def test_a_search_by_hand_is_taken_over(tmp_path: Path) -> None:
    """Evaluations in the journal of the islands are not repeated, although there is no journal of a diagnosis."""
    from harness.diagnosis import island_problem
    from harness.search import Journal, Outcome, Trial

    engine = make("unforeseen")
    bench = make_bench(engine.model, feeds(engine.model))
    subject = Subject(bench, Precision.FP16, engine)
    with Journal.create(tmp_path / "islands.journal", island_problem(subject)) as journal:
        journal.append(frozenset({"b1_up"}), Trial(Outcome.PASS, 0.5, 0.5, 1.0, "by hand"))
    second = make("unforeseen")
    answer = once(second, tmp_path, resume=True)
    assert answer["culprits"] == ["b1_up"]
    assert sum(plan.islands == {"b1_up"} for plan in second.plans) == 1  # the repetition that confirms it


SCRIPT = """
import os, signal, sys
from harness.diagnosis import diagnose
from harness.diagnosis import api

seen = 0

def progress(event):
    global seen
    seen += 1
    if seen == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

diagnose(sys.argv[1], precision="fp16", journal=sys.argv[2], progress=progress)
print(seen)
"""


@pytest.mark.slow
def test_the_process_killed_at_any_step_on_the_emulator_goes_on(tmp_path: Path) -> None:
    case = case_path("residual-growth")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(folder: Path, last: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", SCRIPT, str(case), str(folder), str(last)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    whole = run(tmp_path / "whole", 1 << 30)
    assert whole.returncode == 0, whole.stderr
    expected = diagnose(case, precision="fp16", journal=tmp_path / "whole").to_dict()
    for step in range(2, int(whole.stdout), 6):
        folder = tmp_path / str(step)
        assert run(folder, step).returncode == -signal.SIGKILL
        answer = diagnose(case, precision="fp16", journal=folder, resume=True).to_dict()
        assert {key: answer[key] for key in ANSWER} == {key: expected[key] for key in ANSWER}, step
        assert (
            json.loads((folder / "diagnosis.jsonl").read_text().splitlines()[0])["schema"]
            == "harness.diagnosis-journal/1"
        )
