"""The benchmark of releases: what is there is not run again, and every failure has its diagnosis."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import releases

HARNESS = """
import json, sys
words, out = sys.argv[1:], sys.argv[sys.argv.index("--json") + 1]
open("asked.txt", "a").write(" ".join(words[:-2]) + "\\n")
name, env = words[1].split("/")[-1].removesuffix(".case.yaml"), words[words.index("--env") + 1]
same = {"case": name, "candidate": env, "verdict": "fail" if name == "failing" else "pass", "fingerprint": {}}
if words[0] == "run":
    run = {**same, "reason": "gates", "outputs": [], "layers": [], "facts": {}, "warnings": [], "evidence": []}
    run |= {"faithful": True, "timings": {"total": 1.0}}
    results = [{**run, "precision": precision} for precision in ("fp32", "fp16", "bf16")]
    json.dump({"fingerprint": {"environments": {env: {}}}, "results": results}, open(out, "w"))
else:
    found = {**same, "precision": words[3], "verdict": "precision", "summary": "it overflows", "origins": []}
    found |= {"culprits": ["n"], "confirmed": True, "faithful": True, "price": None}
    json.dump({**found, "cost": {"builds": 3, "seconds": 2.0}}, open(out, "w"))
"""


def test_it_goes_on_where_it_stopped_and_explains_each_failure(
    tiny_cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "harness_double.py").write_text(HARNESS)
    monkeypatch.setattr(releases, "HARNESS", (sys.executable, str(tmp_path / "harness_double.py")))
    monkeypatch.setattr(releases, "CASES", tiny_cases("clean", "failing"))
    monkeypatch.setattr(releases, "BESIDES", ())
    asked = tmp_path / "asked.txt"
    out = tmp_path / "out"
    releases.run_cases(["old", "new"], 2, out)
    lines = asked.read_text().splitlines()
    assert sum(line.startswith("run ") for line in lines) == 4
    assert sum(line.startswith("diagnose ") for line in lines) == 6
    (out / "runs" / "old-clean.json").unlink()
    asked.unlink()
    releases.run_cases(["old", "new"], 2, out)
    (line,) = asked.read_text().splitlines()
    assert "clean.case.yaml -p fp32 -p fp16 -p bf16 --env old" in line
    releases.collect(out, tmp_path / "results")
    runs = json.loads((tmp_path / "results" / "engines_rtx.json").read_text())["cases"]["runs"]
    told = {(run["case"], run["explained"]) for run in runs}
    assert told == {("clean", "gates"), ("failing", "precision: it overflows")}
    found = json.loads((tmp_path / "results" / "diagnose_rtx.json").read_text())
    assert len(found["diagnoses"]) == 6
    assert set(found["fingerprint"]["environments"]) == {"old", "new"}
