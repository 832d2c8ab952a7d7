"""The files of a command."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from harness.cli.outputs import Outputs


def test_a_page_a_summary_and_a_table_are_made_once_however_many_files_they_go_to(tmp_path: Path) -> None:
    made: list[str] = []

    def make(what: str) -> str:
        made.append(what)
        return what

    def table() -> pd.DataFrame:
        return pd.DataFrame({"made": [make("table")]})

    tables = (tmp_path / "a.csv", tmp_path / "b.csv")
    folder = tmp_path / "out"
    folder.mkdir()
    outputs = Outputs(html=tmp_path / "x.html", markdown=tmp_path / "x.md", tables=tables, folder=folder)
    outputs.write(document=dict, page=lambda: make("page"), summary=lambda: make("summary"), table=table)
    assert made == ["page", "summary", "table"]
    assert (tmp_path / "x.html").read_text() == (folder / "diagnosis.html").read_text() == "page"
    assert tables[0].read_text() == tables[1].read_text() == "made\ntable\n"
