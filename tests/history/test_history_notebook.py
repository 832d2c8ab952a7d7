"""docs/notebook.py runs, and shows what it says."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from harness.history import DriftVerdict

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
    assert run.verdict is DriftVerdict.WORSE
    assert [origin.node for origin in run.origins] == ["b3_up"]
    assert {"b3_up"} <= set(shown["moved"]["node"])
    assert len(shown["rows"]) > 700
    assert 0 < shown["spread"]["std"].median() < 1e-4
    assert {"drift.html", "growth.png", "history"} == {path.name for path in shown["scratch"].iterdir()}
    assert "starts at ['b3_up']" in capsys.readouterr().out


@pytest.mark.parametrize("mark", ["# %% [markdown]", "# %%\n"])
def test_the_notebook_is_in_percent_format(mark: str) -> None:
    assert NOTEBOOK.read_text().count(mark) >= 5
