"""The packages of the history import each other in one direction, and its reports show themselves in short."""

from __future__ import annotations

from html.parser import HTMLParser

from drift_reports import drift_report, mixed, run_rows
from test_tree import all_imports

ORDER = ("types", "store", "matrix", "judgement", "nightly", "baselines", "api")
"""From the lowest up."""


def place(module: str) -> int | None:
    """Where a module of the history stands in ORDER; None for a module of another package."""
    parts = module.split(".")
    return ORDER.index(parts[1]) if parts[0] == "history" and len(parts) > 1 else None


def test_packages_import_downwards_only() -> None:
    found = [(item, place(item.module), place(item.target)) for item in all_imports()]
    wrong = [
        str(item) for item, here, there in found if here is not None and there is not None and there > here
    ]
    assert not wrong, "\n".join(wrong)


def test_a_report_fits_in_one_line() -> None:
    text = repr(mixed())
    assert text == (
        "DriftReport(old → new, 7 runs: 1 error, 1 new failure, 1 regressed, 1 xfail, 1 improved, 2 within noise)"
    )
    assert repr(drift_report(run_rows("calm", "fp16", ("old", "new"))).runs[0]).startswith(
        "RunDrift(calm::fp16::new: within noise, "
    )


class Cells(HTMLParser):
    """The cells of a table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


def test_a_notebook_shows_the_worst_runs_and_no_markup_of_theirs() -> None:
    rows = [run_rows(f"<b>{number}", "fp16", ("old", "new")) for number in range(22)]
    shown = Cells(drift_report(*rows, run_rows("worse", "fp16", ("old", "new"), factor=3.0))._repr_html_())
    assert set(shown.tags) == {"p", "table", "tr", "th", "td"}
    assert shown.tags.count("tr") == 1 + 20
    assert shown.cells.index("worse") < shown.cells.index("<b>0")
    assert shown.cells[-1] == "and 3 more runs"
