"""The drift page in a real browser: laid out for a desk and for a phone, sorted and searched."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from browser import browse, browse_framed, needs_browser, with_script
from drift_reports import mixed

from harness.report import drift_page

pytestmark = needs_browser

#: Runs after the page's own script and hands on what it sees; the policy of the page would not let it in.
PROBE = """
<script>
addEventListener("load", () => {
  const seen = {};
  const root = document.documentElement;
  seen.wide = [root.scrollWidth, root.clientWidth];
  const height = one => Math.round(one.getBoundingClientRect().height);
  seen.pictures = [...document.querySelectorAll(".picture svg")].map(height);
  const whole = [...document.querySelectorAll(".box:not(.tall)")];
  seen.cut = whole.filter(box => box.scrollHeight > box.clientHeight).length;
  seen.tall = [...document.querySelectorAll(".tall")].map(box => box.previousElementSibling?.textContent);
  seen.searching = !document.getElementById("searching").hidden;
  const tables = [...document.querySelectorAll("table.data")];
  const table = tables.find(one => one.tHead.textContent.includes("old error"));
  const head = [...table.tHead.rows[0].cells].find(one => one.textContent === "new error");
  const column = head.cellIndex;
  const values = () => [...table.tBodies[0].rows].slice(0, 4).map(row => row.cells[column].textContent);
  head.click(); seen.ascending = values();
  head.click(); seen.descending = values();
  seen.sorted = head.getAttribute("aria-sort");
  const search = document.getElementById("search");
  const rows = [...document.querySelectorAll(".matrix tbody tr")];
  const shown = () => rows.filter(row => !row.hidden).map(row => row.cells[0].textContent);
  search.value = "NEW failure"; search.dispatchEvent(new Event("input"));
  seen.found = shown();
  seen.count = table.dataset.found;
  search.value = ""; search.dispatchEvent(new Event("input"));
  seen.all = shown().length;
  const text = JSON.stringify(seen);
  parent === window ? document.body.dataset.seen = text : parent.postMessage(text, "*");
});
</script>
"""


def look(tmp_path: Path, width: int) -> dict[str, Any]:
    page = with_script(drift_page(mixed()), PROBE)
    seen: dict[str, Any] = json.loads(browse_framed(page, tmp_path, width))
    return seen


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_fits_sorts_and_searches(tmp_path: Path, width: int) -> None:
    seen = look(tmp_path, width)
    scroll, client = seen["wide"]
    assert client == width
    assert scroll <= width, "tables and pictures scroll in their own boxes"
    assert len(seen["pictures"]) == 6
    assert all(height > 80 for height in seen["pictures"][:3]), "pictures of open runs are visible"
    assert seen["searching"]
    numbers = [float(text) for text in seen["ascending"]]
    assert numbers == sorted(numbers)
    assert seen["descending"][0] == "inf", "sorted by number, not by letters"
    assert seen["sorted"] == "descending"
    assert seen["found"] == ["failing"]
    assert re.fullmatch(r"\d+ of 150 rows", seen["count"])
    assert seen["all"] == 6
    assert seen["cut"] == 0, "a table is shown at full length"
    assert seen["tall"] == ["150 rows: scroll in the box for the rest."], "or says that there is more"


def test_a_matrix_of_many_cases_is_shown_at_full_length() -> None:
    from drift_reports import drift_report, run_rows

    few = drift_page(drift_report(*(run_rows(f"c{n}", "fp16", ("old", "new")) for n in range(40))))
    assert "cases: scroll in the box" not in few
    many = drift_page(drift_report(*(run_rows(f"c{n}", "fp16", ("old", "new")) for n in range(61))))
    assert "61 cases: scroll in the box for the rest." in many


def test_the_policy_of_the_page_lets_its_own_script_in(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(drift_page(mixed()))
    done = browse(tmp_path / "page.html", tmp_path / "home")
    assert '<div id="searching">' in done.stdout, "the script has unhidden the search"
    assert "Content Security Policy" not in done.stderr
    assert "Refused" not in done.stderr
