"""docs/notebook.py runs, and shows what it says."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import harness
from harness.history import DriftVerdict
from harness.history.judgement.tensors import JUDGED
from harness.history.store.schema import COLUMNS

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "notebook.py"


def test_the_notebook_runs_and_shows_what_it_says(monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    shown = runpy.run_path(str(NOTEBOOK))
    assert [layer.node for layer in shown["fp16"].origins] == ["b7_sq"]
    assert set(shown["layers"].loc[shown["layers"]["culprit"], "node"]) >= {"b7_sq"}
    (run,) = shown["drifted"].runs
    assert run.verdict is DriftVerdict.REGRESSED
    assert [origin.node for origin in run.origins] == ["b3_up"]
    assert {"b3_up"} <= set(shown["moved"]["node"])
    assert len(shown["rows"]) > 700
    assert 0 < shown["spread"]["std"].median() < 1e-4
    assert {"drift.html", "growth.png", "history"} == {path.name for path in shown["scratch"].iterdir()}
    assert "starts at ['b3_up']" in capsys.readouterr().out


@pytest.mark.parametrize("mark", ["# %% [markdown]", "# %%\n"])
def test_the_notebook_is_in_percent_format(mark: str) -> None:
    assert NOTEBOOK.read_text().count(mark) >= 5


def test_the_frames_have_the_columns_that_are_documented(tiny_cases, tmp_path: Path) -> None:
    sections = (ROOT / "docs" / "python.md").read_text(encoding="utf-8").split("\n## ")[1:]
    documented = {
        section.splitlines()[0]: [
            name
            for line in section.splitlines()
            if line.startswith("| `")
            for name in line.split(" | ")[0].removeprefix("| ").replace("`", "").split(", ")
        ]
        for section in sections
    }
    folder = tiny_cases("expected", "skipped")
    case = folder / "expected.case.yaml"
    drifted = harness.drift(
        case, environments=["emulator:fp16", "emulator:bf16"], history=tmp_path / "h",
        options=harness.DriftOptions(repeats=1),
    )  # fmt: skip
    frames = {
        "harness.run": harness.run(folder).to_frame(),
        "harness.diagnose": harness.diagnose(case, precision="fp16").to_frame(),
        "harness.drift": drifted.to_frame(),
        "harness.load_history": harness.load_history(tmp_path / "h"),
    }
    assert {name: list(frame.columns) for name, frame in frames.items()} == documented
    assert harness.run(folder / "skipped.case.yaml").to_frame().columns.tolist() == documented["harness.run"]


def test_each_column_is_explained_once() -> None:
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    meanings = [*JUDGED.items(), *((column.name, column.meaning) for column in COLUMNS)]
    assert [name for name, meaning in meanings if f"| `{name}` | {meaning} |" not in text] == []


def test_diagnose_is_the_function_whoever_imported_its_package_first() -> None:
    for first in (
        "import harness.diagnosis",
        "from harness.diagnosis import DiagnosisOptions",
        "import harness",
    ):
        code = f"{first}\nimport harness, inspect\nassert inspect.isfunction(harness.diagnose)"
        subprocess.run([sys.executable, "-c", code], check=True)
