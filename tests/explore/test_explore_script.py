"""`harness explore` with commands from a pipe: what is printed, and how it ends."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from harness.cli import main

CASES = Path(__file__).parents[2] / "cases"


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


@pytest.fixture
def run(tiny_cases, monkeypatch: pytest.MonkeyPatch, capsys):
    """Explore a tiny case with a script: its status, stdout and stderr."""
    folder = tiny_cases("clean", "failing")

    def explore(script: str, *options: object, case: str = "failing") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(script))
        target = folder / f"{case}.case.yaml"
        status = main(["explore", str(target), *map(str, options)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return explore


def test_commands_are_printed_before_their_answers(run) -> None:
    status, out, _ = run("# a cure by hand\n\nkeep square root\ntry\n")
    assert status == 0
    lines = out.splitlines()
    place = lines.index("fp16 › keep square root")
    assert lines[place + 1].startswith("2 nodes back to FP32: square, root")
    assert lines[place + 2] == "fp16 › try"
    assert lines[place + 3].startswith("PASS nrmse ")
    assert "a cure by hand" not in out


@pytest.mark.parametrize(
    ("script", "case", "status"),
    [
        ("", "clean", 0),
        ("", "failing", 1),
        ("layers\nwhy square\n", "failing", 1),
        ("keep square root\ntry\n", "failing", 0),
        ("keep root\ntry\n", "failing", 1),
        ("bisect\n", "failing", 0),
        ("bisect\nundo\ntry\nquit\nnonsense\n", "failing", 1),
        ("nonsense\n", "failing", 2),
        ("bisect\n", "clean", 2),
        ("try --engine\n", "failing", 2),
        ("bisect y\n", "failing", 4),
        ("keep nowhere\n", "failing", 5),
    ],
)
def test_the_exit_status_says_how_it_ended(run, script: str, case: str, status: int) -> None:
    assert run(script, "-p", "fp16", case=case)[0] == status


def test_a_mistake_ends_the_script_and_names_its_line(run) -> None:
    status, out, err = run("layers\n\nkep square\ntry\n")
    assert status == 2
    assert "error: line 3: there is no command `kep`" in err
    assert "hint: did you mean `keep`?" in err
    assert "fp16 › try" not in out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((CASES,), 2, "a session needs one"),
        (("missing.case.yaml",), 2, "missing.case.yaml"),
        ((CASES / "rmsnorm-mlp.case.yaml", "-p", "fp32"), 2, "choose fp16"),
        ((CASES / "rmsnorm-mlp.case.yaml", "--env", "nowhere"), 2, "nowhere"),
        ((CASES / "rmsnorm-mlp.case.yaml", "--input", "x"), 2, "--input"),
    ],
)
def test_mistakes_are_reported_before_anything_is_shown(capsys, arguments, status, message) -> None:
    assert main(["explore", *map(str, arguments)]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


def test_its_journal_is_where_a_diagnosis_looks(run, in_folder: Path, tiny_cases, capsys) -> None:
    target = tiny_cases("failing") / "failing.case.yaml"
    assert run("keep square root\ntry\n")[0] == 0
    journal = in_folder / ".harness" / "diagnose" / "failing-fp16-emulator" / "islands.journal"
    tried = journal.read_text()
    assert '"outcome": "pass"' in tried
    assert main(["diagnose", str(target), "-p", "fp16", "--resume", "--json", "-", "-q"]) == 1
    assert json.loads(capsys.readouterr().out)["culprits"] == ["square", "root"]
    assert journal.read_text().startswith(tried)  # continued, not replaced
    _, out, _ = run("")
    assert "the fewest nodes that pass: square, root" in out


def test_out_holds_the_journal_and_all_files(run, in_folder: Path) -> None:
    status, _, _ = run("bisect\nplot\nexport\n", "--out", "d")
    assert status == 0
    assert {path.name for path in (in_folder / "d").iterdir()} >= {"journal", "growth-1.png", "recipes.sh"}
    assert not (in_folder / ".harness" / "diagnose").exists()


def test_a_journal_of_another_model_is_replaced_with_a_note(run, in_folder: Path) -> None:
    assert run("bisect\n")[0] == 0
    models = in_folder / "cases" / "models.py"
    models.write_text(models.read_text().replace("[4, 8]", "[4, 16]"))
    status, out, _ = run("bisect\n")
    assert status == 0
    assert "a new one was begun" in out
    assert "a new one was begun" not in run("")[1]
