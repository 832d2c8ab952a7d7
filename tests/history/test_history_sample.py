"""The sample in reports/sample, and the script that makes it: every number of its page is in its Parquet."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import harness
from harness.history.judgement.noise import student
from harness.history.types import FLOORS
from harness.tensors import Precision
from harness.text import number

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "reports" / "sample"
FILES = {"drift.html", "drift.json", "drift.md", "drift.parquet"}
OLD, NEW = "emulator:fp16,noise=0.2,seed=1", "emulator:fp16,noise=0.2,seed=2,plant=square@bf16"
UNITS = {"latency": "ms", "engine size": "bytes", "build time": "s"}
COLUMNS = {"latency": "latency_ms", "engine size": "engine_bytes", "build time": "build_seconds"}


class Tables(HTMLParser):
    """The cells of all tables of a page, by the names of their columns."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.tables[-1][-1][-1] += data

    def rows(self, column: str) -> list[dict[str, str]]:
        """The rows of the table that has `column`."""
        for names, *rows in self.tables:
            if column in names:
                return [dict(zip(names, row, strict=True)) for row in rows]
        return []


def level(errors: pd.Series) -> float:
    finite = errors[np.isfinite(errors)]
    return math.inf if 2 * len(finite) < len(errors) else float(finite.mean())


def trace(folder: Path) -> int:
    """Compare every number of the page's tables with the Parquet; return how many rows there were."""
    history = harness.load_history(folder / "drift.parquet")
    page = Tables((folder / "drift.html").read_text(encoding="utf-8"))
    old, *newer = json.loads((folder / "drift.json").read_text())["releases"]
    by_run = dict(iter(history.groupby(["case", "precision"], observed=True)))
    tensors, engines = page.rows("rms apart"), page.rows("newer / older")
    for row in tensors:
        new = next(name for name in newer if row.get("release", name) in name)
        trace_tensor(row, by_run[row["case"], row["precision"]], old, new)
    for row in engines:
        new = next(name for name in newer if row.get("release", name) in name)
        mine = by_run[row["case"], row["precision"]]
        for side, release in (("older", old), ("newer", new)):
            values = mine.loc[(mine["kind"] == "engine") & (mine["release"] == release)]
            mean = values[COLUMNS[row["quantity"]]].astype(float).mean()
            size = f"{mean / 1e6:.3g} MB" if row["quantity"] == "engine size" else None
            assert row[side] == (size or f"{number(mean)} {UNITS[row['quantity']]}"), row
    for run in json.loads((folder / "drift.json").read_text())["runs"]:
        trace_run(run, by_run[run["case"], run["precision"]])
    return len(tensors) + len(engines)


def trace_run(run: dict[str, Any], rows: pd.DataFrame) -> None:
    """Compare what is said of each build with the Parquet: whether it fails, its error, its precisions."""
    failing = {}
    for side in ("old", "new"):
        mine = rows[rows["release"] == run[side]]
        engines = mine[(mine["kind"] == "engine") & ~mine["verdict"].isin(["error", "skip", "mistake"])]
        assert [build["number"] for build in run["builds"][side]] == engines["build"].tolist()
        failing[side] = engines[engines["verdict"].isin(["fail", "xfail"])]
        assert [build["failed"] for build in run["builds"][side]] == engines["verdict"].isin(
            ["fail", "xfail"]
        ).tolist()
        for build, structure in zip(run["builds"][side], engines["structure"], strict=True):
            layers = json.loads(structure) if isinstance(structure, str) else []
            assert build["layers"] == dict(
                Counter(layer["precision"] for layer in layers if "precision" in layer)
            )
        worst, outputs = run["worst"], mine[mine["kind"] == "output"]
        if worst is not None and worst["sample"] >= 0 and len(outputs):
            shown = outputs[(outputs["tensor"] == worst["tensor"]) & (outputs["sample"] == worst["sample"])]
            assert [float(build["error"]) for build in run["builds"][side]] == pytest.approx(
                shown["error"].tolist()
            )
    names = {(False, False): "none", (True, False): "older", (False, True): "newer", (True, True): "both"}
    assert run["fails_on"] == names[len(failing["old"]) > 0, len(failing["new"]) > 0], run
    verdicts = [*failing["old"]["verdict"], *failing["new"]["verdict"]]
    assert run["expected"] == (bool(verdicts) and set(verdicts) == {"xfail"})


def trace_tensor(row: dict[str, str], rows: pd.DataFrame, old: str, new: str) -> None:
    tensor, sample = row["tensor"], -1
    if row["kind"] == "output":
        tensor, _, place = tensor.rpartition(" [")
        sample = int(place.rstrip("]"))
    mine = rows[(rows["kind"] == row["kind"]) & (rows["tensor"] == tensor) & (rows["sample"] == sample)]
    before, after = mine[mine["release"] == old], mine[mine["release"] == new]
    errors = [side["error"].astype(float) for side in (before, after)]
    levels = [level(side) for side in errors]
    assert [row["old error"], row["new error"]] == [number(value) for value in levels], row
    held = [f"{int(side['passed'].sum())}/{len(side)}" for side in (before, after)]
    assert row["gates held"] == " → ".join(held)
    broken = after[~after["passed"].astype(bool)]
    gate = (broken if len(broken) else after).iloc[0]
    if gate["gate"] == "nonfinite":
        assert (row["gate"], row["error limit"]) == ("all finite", "–")
    else:
        assert row["gate"] == f"{gate['gate']} ≤ {number(float(gate['limit']))}", row
        share = 1.0 if gate["gate"] == "nrmse" else float(gate["reference_rms"])
        limit = float(gate["limit"]) / share
        assert float(row["error limit"]) == pytest.approx(limit, rel=0.06), row
    floor = max(0.25 * levels[0], FLOORS[Precision(row["precision"])])
    assert row["floor"] == number(floor), row
    finite = [side[np.isfinite(side)] for side in errors]
    freedom = [max(len(side) - 1, 0) for side in finite]
    if any(freedom):
        spread = math.sqrt(1 / max(len(finite[0]), 1) + 1 / max(len(finite[1]), 1))
        squares = [free * side.var() if free else 0.0 for free, side in zip(freedom, finite, strict=True)]
        band = student(sum(freedom), 0.99) * math.sqrt(sum(squares) / sum(freedom)) * spread
        if freedom[0]:
            band = max(band, student(freedom[0], 0.99) * finite[0].std() * spread)
        shown = 0.0 if row["noise ±"] == "0" else float(row["noise ±"])
        assert shown == pytest.approx(band, rel=0.06, abs=1e-15), row
    else:
        assert row["noise ±"] == "not measured"
    apart = after["distance"].astype(float).mean()
    assert row["rms apart"].split(" ")[0] == ("–" if math.isnan(apart) else number(apart)), row


@pytest.mark.skipif(not (KEPT / "drift.parquet").exists(), reason="no sample is kept")
def test_every_number_of_the_kept_sample_is_in_the_parquet_beside_it() -> None:
    assert {path.name for path in KEPT.iterdir()} - {"README.md"} == FILES
    assert trace(KEPT) > 0
    assert all(path.stat().st_size <= 1 << 20 for path in KEPT.iterdir())
    history = harness.load_history(KEPT / "drift.parquet")
    document = json.loads((KEPT / "drift.json").read_text())
    runs = {(run["case"], run["precision"]) for run in document["runs"]}
    assert runs == set(map(tuple, history[["case", "precision"]].drop_duplicates().astype(str).to_numpy()))
    assert document["run"] in (KEPT / "drift.html").read_text(encoding="utf-8")


@pytest.mark.skipif(not (KEPT / "drift.parquet").exists(), reason="no sample is kept")
def test_the_kept_sample_says_what_fails_and_which_builds_differ() -> None:
    history = harness.load_history(
        KEPT / "drift.parquet", columns=["case", "release", "kind", "verdict", "passed"]
    )
    engines = history[history["kind"] == "engine"]
    failing = (
        engines[engines["verdict"].isin(["fail", "xfail"])]
        .groupby("case", observed=True)["release"]
        .nunique()
    )
    both = sorted(failing[failing == 2].index)
    runs = {run["case"]: run for run in json.loads((KEPT / "drift.json").read_text())["runs"]}
    assert both == sorted(case for case, run in runs.items() if run["fails_on"] == "both")
    page, summary = ((KEPT / name).read_text(encoding="utf-8") for name in ("drift.html", "drift.md"))
    for text in (page, summary):
        assert f"{len(both)} runs fail on both releases, as expected" in text
    for case, run in runs.items():
        (row,) = (line for line in summary.splitlines() if line.split(" | ")[1:2] == [case])
        assert ("fails on both, as expected" in row) == (case in both), "the Markdown"
        assert ("builds differ in precision" in row) == run["builds"]["differ"]
    assert runs["densenet"]["builds"]["differ"], "8.5.3.1 built it twice in FP32 and once in FP16"
    assert "layers of trt-8.5.3.1: build 0: fp32 ×26; build 1: fp32 ×26; build 2: fp16 ×25, fp32 ×3" in page
    assert "trt-8.5.3.1: 5.8e-8, 5.6e-8, 3.5e-4" in page


@pytest.mark.skipif(not (KEPT / "drift.parquet").exists(), reason="no sample is kept")
def test_the_kept_sample_names_the_largest_error_of_the_outputs_as_progress_does() -> None:
    history = harness.load_history(KEPT / "drift.parquet", columns=["case", "release", "kind", "error"])
    outputs = history[(history["kind"] == "output") & (history["case"] == "lstm")]
    largest = outputs.groupby("release", observed=True)["error"].max()
    runs = {run["case"]: run for run in json.loads((KEPT / "drift.json").read_text())["runs"]}
    worst = runs["lstm"]["worst"]
    assert [worst["old"], worst["new"]] == pytest.approx([largest["trt-8.5.3.1"], largest["trt-8.6.0"]])
    assert f"sample {worst['sample']}: error {number(worst['old'])}" in runs["lstm"]["reason"]


def make_sample(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.drift_sample", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_script_goes_on_where_it_stopped_and_its_sample_can_be_traced(tiny_cases, tmp_path: Path) -> None:
    folder = tiny_cases("clean", "expected", "failing")
    asked = [
        "--cases",
        folder,
        "--history",
        tmp_path / "h",
        "--out",
        tmp_path / "s",
        "--env",
        OLD,
        "--env",
        NEW,
    ]
    stopped = make_sample(*asked, "--minutes", 0)
    assert (stopped.returncode, stopped.stderr) == (4, ""), stopped
    assert "the time is up" in stopped.stdout
    done = make_sample(*asked, "--without", "failing")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "s").iterdir()} == FILES
    assert trace(tmp_path / "s") > 4
    page = (tmp_path / "s" / "drift.html").read_text(encoding="utf-8")
    changed = page.replace(next(row["new error"] for row in Tables(page).rows("rms apart")), "0.123")
    (tmp_path / "s" / "drift.html").write_text(changed, encoding="utf-8")
    with pytest.raises(AssertionError):
        trace(tmp_path / "s")
    again = make_sample("--parquet", tmp_path / "s" / "drift.parquet", "--out", tmp_path / "s")
    assert again.returncode == 0, again.stderr
    assert trace(tmp_path / "s") > 4
    unknown = make_sample(*asked, "--case", "nowhere")
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)
    assert "no case is called 'nowhere'" in unknown.stderr
