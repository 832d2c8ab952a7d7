"""What reports say of engines: in one line, and that layers which are not known were not compared."""

from __future__ import annotations

import io
import json

from drift_reports import drift_report, fused, run_rows
from history_rows import engine_rows, tensor_rows
from page_reader import Page
from rich.console import Console

from harness.history import DriftReport
from harness.report import annotate, drift_markdown, drift_page, print_drift
from harness.report.drift.lines import engines_line
from harness.report.drift.words import answer

PAIR = ("old", "new")
NOTHING = "No fusion, precision or tactic changed"


def test_engines_are_only_said_to_be_alike_where_they_were_compared() -> None:
    alike = drift_report(run_rows("net", "fp16", PAIR, structure=(fused("conv+add"), fused("conv+add"))))
    assert NOTHING in Page(drift_page(alike)).text
    one_side = drift_report(run_rows("net", "fp16", PAIR, structure=(None, fused("conv"))))  # type: ignore[arg-type]
    text = Page(drift_page(one_side)).text
    assert NOTHING not in text
    assert "layers not compared, old keeps no structure" in text
    assert engines_line(one_side).startswith("engines: layers not compared, old keeps no structure")
    unknown = Page(drift_page(drift_report(run_rows("net", "fp16", PAIR)))).text
    assert "The engines' layers are not known here." in unknown


def console_text(report: DriftReport) -> str:
    stream = io.StringIO()
    print_drift(Console(file=stream, width=110, no_color=True, highlight=False, markup=False), report)
    return stream.getvalue()


def rebuilt(**facts: tuple[float, float]) -> DriftReport:
    """One run whose values have the same bits in both releases, and whose engines do not look alike."""
    rows = []
    for place, release in enumerate(PAIR):
        known = {column: both[place] for column, both in facts.items()}
        layers = fused("conv+add") if release == "old" else fused("conv", "add")
        rows.append(engine_rows(release, structure=layers, **known))
        rows.append(tensor_rows(release, [1e-3] * 3, hashes=["h"] * 3))
    return drift_report(*rows)


def test_what_moved_besides_errors_has_a_line_after_the_answer() -> None:
    report = rebuilt(latency_ms=(1.0, 3.0), engine_bytes=(100_000, 300_000), build_seconds=(5.0, 25.0))
    line_of_engines = "engines: 1 slower (×3), 1 larger (×3), 1 slower to build (×5), 1 fusion gone"
    assert answer(report) == "No error moved on new: all values have the same bits."
    assert engines_line(report) == line_of_engines
    lines = console_text(report).rstrip().splitlines()
    assert lines[-3:-1] == [answer(report), line_of_engines]
    markdown = drift_markdown(report)
    assert line_of_engines in markdown
    assert "### Structure" in markdown
    assert "| fusion vanished | net at fp16 | add, conv | add + conv (3 of 3) |" in markdown
    assert line_of_engines in Page(drift_page(report)).text
    assert list(annotate(report)) == [f"::notice title=Engines of new::{line_of_engines}"]
    assert report.exit_code == 0, "the exit status is that of the errors"


def test_the_largest_of_several_changes_is_reported_and_what_became_less_by_its_share() -> None:
    parts = [
        rebuilt(latency_ms=(1.0, new)).records.assign(case=case) for case, new in (("a", 2.0), ("b", 4.0))
    ]
    parts.append(rebuilt(latency_ms=(1.0, 0.5)).records.assign(case="c"))
    report = drift_report(*(part.to_dict("records") for part in parts))
    assert engines_line(report) == "engines: 2 slower (up to ×4), 1 faster (×0.5), 3 fusions gone"


def test_engines_that_did_not_move_need_no_line() -> None:
    report = drift_report(tensor_rows("old", [1e-3]), tensor_rows("new", [1e-3]))
    assert engines_line(report) == ""


def test_precisions_are_counted_in_nodes() -> None:
    def lowered(precision: str) -> str:
        return json.dumps(
            [{"name": name, "onnx_nodes": [name], "precision": precision} for name in ("up", "down")]
        )

    report = drift_report(run_rows("net", "fp16", PAIR, structure=(lowered("fp16"), lowered("fp8"))))
    assert engines_line(report) == "engines: 2 nodes in another precision"
