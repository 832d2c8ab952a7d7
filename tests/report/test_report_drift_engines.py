"""What reports say of engines: in one line, and that layers which are not known were not compared."""

from __future__ import annotations

from drift_reports import drift_report, fused, run_rows
from page_reader import Page

from harness.report.drift_engines import engines_line
from harness.report.drift_page import drift_page

PAIR = ("old", "new")
NOTHING = "No fusion, precision or tactic changed"


def test_engines_are_only_said_to_be_alike_where_they_were_compared() -> None:
    alike = drift_report(run_rows("net", "fp16", PAIR, structure=(fused("conv+add"), fused("conv+add"))))
    assert NOTHING in Page(drift_page(alike)).text
    one_side = drift_report(run_rows("net", "fp16", PAIR, structure=(None, fused("conv"))))  # type: ignore[arg-type]
    text = Page(drift_page(one_side)).text
    assert NOTHING not in text
    assert "layers not compared, old keeps no structure" in text
    assert engines_line(one_side).endswith("; layers not compared, old keeps no structure")
    unknown = Page(drift_page(drift_report(run_rows("net", "fp16", PAIR)))).text
    assert "The engines' layers are not known here." in unknown
