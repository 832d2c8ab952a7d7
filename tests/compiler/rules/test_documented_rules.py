"""docs/check.md lists every rule with its releases and source. To write the table anew, run this file."""

from __future__ import annotations

from pathlib import Path

from harness.compiler import RULES, Rule

PAGE = Path(__file__).parents[3] / "docs" / "check.md"
START, END = "<!-- rules -->\n", "<!-- end of rules -->"


def row(rule: Rule) -> str:
    ops = ", ".join(rule.ops) if rule.ops else ("the model" if rule.of_model else "any")
    releases = ", ".join(map(text, rule.releases))
    return f"| `{rule.code}` | {rule.kind} | {ops} | {rule.explanation} | {releases} | {rule.source} |"


def text(releases) -> str:
    first, last = releases.first, releases.last
    span = (
        f" {first} to {last}"
        if first and last
        else f" from {first}"
        if first
        else f" to {last}"
        if last
        else ""
    )
    return f"{releases.product}{span}"


def page() -> str:
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    lines = [
        "| code | kind | operators | what | releases | source |",
        "|---|---|---|---|---|---|",
        *map(row, RULES),
    ]
    return head + START + "\n".join(lines) + "\n" + END + rest.partition(END)[2]


def test_every_rule_is_documented_as_it_is():
    assert PAGE.read_text(encoding="utf-8") == page(), (
        f"run `python {Path(__file__).name}` to write the table anew"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
