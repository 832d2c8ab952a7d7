"""docs/check.md lists every cure: after a change, `python tests/conversion/test_cures_docs.py` writes it anew."""

from __future__ import annotations

from pathlib import Path

from harness.conversion.cures import CURES

PAGE = Path(__file__).parents[2] / "docs" / "check.md"
START, END = "<!-- cures -->\n", "<!-- end of cures -->"


def table() -> str:
    """One row a cure, in the order in which they are tried."""
    lines = ["| code | against | operators | does | needs | source |", "|---|---|---|---|---|---|"]
    for cure in CURES:
        operators = ", ".join(cure.operators) or "any"
        lines.append(
            f"| `{cure.code}` | {cure.against.value} | {operators} | {cure.does} | {cure.needs} | {cure.source} |"
        )
    return "\n".join(lines) + "\n"


def test_the_page_lists_every_cure_as_it_is():
    text = PAGE.read_text()
    assert text[text.index(START) + len(START) : text.index(END)] == table()


if __name__ == "__main__":
    old = PAGE.read_text()
    PAGE.write_text(old[: old.index(START) + len(START)] + table() + old[old.index(END) :])
