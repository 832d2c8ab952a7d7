"""The README's commands, as a newcomer types them from the top."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from harness.cli import main

ROOT = Path(__file__).parents[2]
CASES = ROOT / "cases"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_shapes_stand_in_quotes_as_brackets_are_globs_to_a_shell() -> None:
    given = re.findall(r"^(?:\$ )?harness .*--input (.*)", README, re.MULTILINE)
    assert given
    assert all(re.match(r"'[^']+:\[[\d,]+\]'", shape) for shape in given)


def sample_after(command: str) -> str:
    """What the README shows below a command, as a pattern: … stands for anything, seconds for any number."""
    shown = README.split(f"$ {command}\n", 1)[1].split("\n```", 1)[0].split("\n$ ", 1)[0]
    pattern = re.escape(" ".join(shown.split())).replace("…", ".*?")
    return re.sub(r"[\d.\\]+\\ s\b", r"[\\d.]+\\ s", pattern)


def test_a_failing_case_looks_as_shown(tmp_path: Path, monkeypatch, capsys) -> None:
    text = (CASES / "rmsnorm-overflow.case.yaml").read_text(encoding="utf-8")
    shutil.copytree(CASES, tmp_path / "mine")
    lines = [line for line in text.splitlines() if not re.search("expect:|reason:|origin:", line)]
    (tmp_path / "mine" / "mlp.case.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "mine")
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["run", "mlp.case.yaml", "--precision", "fp16"]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(sample_after("harness run mlp.case.yaml --precision fp16"), printed), printed


def test_a_diagnosis_looks_as_shown(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    case, out = str(CASES / "rmsnorm-overflow.case.yaml"), str(tmp_path / "d")
    assert main(["diagnose", case, "--precision", "fp16", "--out", out]) == 1
    printed = " ".join(capsys.readouterr().out.split()).replace(out, "/tmp/d")
    shown = sample_after("harness diagnose cases/rmsnorm-overflow.case.yaml --precision fp16 --out /tmp/d")
    assert re.search(shown, printed), printed
