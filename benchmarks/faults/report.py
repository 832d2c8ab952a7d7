"""Scores of many cases as a document, as Markdown tables, and back from the document."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from statistics import mean, median
from typing import Any

from benchmarks.faults.families import Family
from benchmarks.faults.kinds import Kind
from benchmarks.faults.score import Score, goals

HEADER = (
    "fault",
    "cases",
    "verdict right",
    "recall",
    "precision",
    "island / optimum",
    "evaluations",
    "seconds",
)
COLUMNS = tuple(field.name for field in fields(Score))


def numbers_of(scores: Sequence[Score], *, seconds: float, jobs: int) -> dict[str, Any]:
    """The numbers as JSON data: one string a case, so that two results can be compared line by line."""
    return {
        "cases": len(scores),
        "jobs": jobs,
        "cores": os.cpu_count(),
        "seconds": round(seconds, 1),
        "goals": [
            {"goal": goal.text, "value": goal.value, "limit": goal.limit, "reached": goal.reached}
            for goal in goals(scores)
        ],
        "families": {
            family.value: {
                name: dict(zip(HEADER[1:], _row(group), strict=True))
                for name, group in _groups([s for s in scores if s.family is family]).items()
            }
            for family in Family
        },
        "columns": ",".join(COLUMNS),
        "rows": [_line(found) for found in scores],
    }


def scores_of(document: Mapping[str, Any]) -> list[Score]:
    """The scores that `numbers_of` wrote, floats to four digits."""
    names = document["columns"].split(",")
    return [_score(dict(zip(names, row, strict=True))) for row in csv.reader(document["rows"])]


def page(document: Mapping[str, Any]) -> str:
    """Markdown of a kept result: what was run, the table by kind of fault, and the numbers to reach."""
    scores = scores_of(document)
    machine = document["fingerprint"]
    lines = [
        f"{document['cases']:,} cases in {document['seconds']:.0f} s with {document['jobs']} "
        f"process{'es' if document['jobs'] != 1 else ''} of one thread each, ONNX Runtime "
        f"{machine['onnxruntime']}, {machine['cpu']}.",
        "",
        table(scores),
        "",
        "| number to reach | measured | limit | |",
        "|---|---:|---:|---|",
    ]
    lines += [
        f"| {goal.text} | {goal.value:.4g} | {'≥' if goal.at_least else '≤'} {goal.limit:g} | "
        f"{'reached' if goal.reached else '**missed**'} |"
        for goal in goals(scores)
    ]
    return "\n".join(lines)


def table(scores: Sequence[Score]) -> str:
    """A Markdown table: a row for each kind of fault, one for the clean twins, and one for all.

    Evaluations and seconds are medians, the others means.
    """
    rows = [list(HEADER), ["---", *["---:"] * (len(HEADER) - 1)]]
    rows += [[name, *_row(group)] for name, group in _groups(scores).items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _groups(scores: Sequence[Score]) -> dict[str, list[Score]]:
    groups = {kind.value: [s for s in scores if s.kind is kind and s.faults] for kind in Kind}
    groups |= {"clean twins": [s for s in scores if not s.faults], "all": list(scores)}
    return {name: group for name, group in groups.items() if group}


def _row(scores: Sequence[Score]) -> list[str]:
    recalls = [s.recall for s in scores if s.recall is not None and s.faults]
    precisions = [s.precision for s in scores if s.precision is not None]
    ratios = [s.ratio for s in scores if s.optimum]
    return [
        f"{len(scores):,}",
        _percent([float(s.verdict_right) for s in scores]),
        _percent(recalls),
        _percent(precisions),
        f"{mean(ratios):.2f}" if ratios else "–",
        f"{median(s.evaluations for s in scores):.0f}",
        f"{median(s.seconds for s in scores):.2f}",
    ]


def _percent(shares: Sequence[float]) -> str:
    """The mean in percent; never 100.0 % where one is missing."""
    if not shares:
        return "–"
    share = mean(shares)
    return f"{min(share, 0.999):.1%}" if share < 1 else "100 %"


def _line(found: Score) -> str:
    cells = [f"{value:.4g}" if isinstance(value, float) else value for value in astuple(found)]
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(
        [cell.replace("\n", " ") if isinstance(cell, str) else cell for cell in cells]
    )
    return text.getvalue()


def _score(cells: Mapping[str, str]) -> Score:
    def number(name: str) -> float | None:
        return float(cells[name]) if cells[name] else None

    searched = number("search_evaluations")
    return Score(
        name=cells["name"],
        family=Family(cells["family"]),
        kind=Kind(cells["kind"]),
        faults=int(cells["faults"]),
        nodes=int(cells["nodes"]),
        verdict=cells["verdict"],
        verdict_right=cells["verdict_right"] == "True",
        precision=number("precision"),
        recall=number("recall"),
        island=int(cells["island"]),
        optimum=int(cells["optimum"]),
        evaluations=int(cells["evaluations"]),
        search_evaluations=None if searched is None else int(searched),
        seconds=float(cells["seconds"]),
        error=cells["error"],
    )
