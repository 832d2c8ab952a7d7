"""What harness answers, recorded through its command line, so that a change of its insides can be compared with it.

    python -m benchmarks.answers --write                       record what this tree answers
    python -m benchmarks.answers --check [--only run,drift]    run all again and list every difference
    python -m benchmarks.answers --check --scheduler ADDRESS   ask on the workers of a dask scheduler

Parts: `run` (the bundled cases, one that fails unexpectedly, three mistakes), `drift` (the README's
demonstration), `diagnose` (the planted bundled cases and two clean ones), `faults` (a sample of planted faults).
Answers are what a user decides by: verdicts, statuses, nodes, exit statuses; errors to two digits, no seconds and no
sentences. Exit status: 0 nothing differs, 1 something does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, record
from benchmarks.spread import add_scheduler, each_answer

ROOT = Path(__file__).parents[1]
OVERFLOWS = "attention-overflow conv-overflow rmsnorm-overflow softmax-overflow"
OTHERS = "residual-growth rmsnorm-underflow attention rmsnorm-mlp"  # the last two are clean
SAMPLE = 60
NEWER = "emulator:fp16,noise=0.2,seed=2,plant=b7_up@fp8"
DRIFT = ("--tag", "mlp", "-p", "fp16", "-e", "emulator:fp16,noise=0.2,seed=1", "-e", NEWER)
SEPARATOR = " | "

Rows = dict[str, str]
"""Answers by name: the cells of the part's columns, one string each, so that files compare line by line."""
Questions = Iterator[tuple[str, list[str]]]
"""Commands of harness, each with the name of its row where its document does not name the rows."""


@dataclass(frozen=True)
class Shape:
    """Where the answers are in a JSON document; the only place that knows its field names.

    A path is keys between dots. `key[]` is every entry of a list, `key[flag]` those whose `flag` is true and
    `key[!flag]` those whose `flag` is false. A path with brackets gives the sorted names that it leads to, each once.
    """

    rows: str  # path of the objects that answer one question each; empty is the document itself
    key: tuple[str, ...]  # fields that name a row
    columns: Mapping[str, str]  # paths in a row; of a name that starts with `worst`, the largest number


# fmt: off
SHAPES = {
    "run": Shape("results[]", ("case", "precision"), {
        "verdict": "verdict", "failed gates": "outputs[].gates[!passed].metric",
        "origins": "layers[origin].node", "worst nrmse": "outputs[].metrics.nrmse",
    }),
    "drift": Shape("runs[]", ("case", "precision"), {
        "status": "status", "verdict": "verdict", "fails on": "fails_on", "expected": "expected",
        "starts at": "origins[].node", "changed nodes": "structure[].nodes[]",
        "worst error old": "worst.old", "worst error new": "worst.new",
    }),
    "diagnose": Shape("", (), {
        "verdict": "verdict", "origins": "origins[].node", "culprits": "culprits[]", "confirmed": "confirmed",
        "minimal": "minimal", "repro shows it": "repro_shows", "evaluations": "cost.emulations",
    }),
}
# fmt: on
SHAPES["faults"] = SHAPES["diagnose"]


def find(document: Any, path: str) -> list[Any]:
    """Every value that `path` leads to; see Shape.

    Raises:
        KeyError: a key of the path is not there: the JSON has changed, and Shape has to follow.
    """
    found = [document]
    for step in path.split(".") if path else ():
        key, _, flag = step.rstrip("]").partition("[")
        found = [each[key] for each in found if each is not None]
        if step.endswith("]"):
            entries = [entry for each in found for entry in each]
            wanted, name = not flag.startswith("!"), flag.removeprefix("!")
            found = [entry for entry in entries if not name or bool(entry[name]) == wanted]
    return found


def cell(row: Any, name: str, path: str) -> str:
    values = find(row, path)
    if name.startswith("worst"):
        numbers = [float(value) for value in values if value is not None]
        # NaN compares with nothing; one of them is the worst there is.
        return f"{max(numbers, key=lambda n: (n != n, n)):.2g}" if numbers else "-"
    if "[" in path:
        return " ".join(sorted({str(value) for value in values})) or "-"
    return "-" if not values or values[0] is None else str(values[0])


def rows_of(part: str, name: str, document: Any, status: int) -> Rows:
    """The rows of one document; `name` names a row that the document does not, and None is no document."""
    shape = SHAPES[part]
    rows = find(document, shape.rows) if document is not None else []
    answers = {
        " ".join(str(row[key]) for key in shape.key) or name: [cell(row, *c) for c in shape.columns.items()]
        for row in rows
    } or {name: ["-"] * len(shape.columns)}
    return {key: SEPARATOR.join([*cells, str(status)]) for key, cells in answers.items()}


def ask(part: str, scratch: Path, question: tuple[str, list[str]]) -> Rows:
    """Run one command in this tree, and take its rows from the JSON that it wrote."""
    name, arguments = question
    out = scratch / f"{part}-{name}.json"
    command = [sys.executable, "-m", "harness", *arguments, "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    document = json.loads(out.read_text(encoding="utf-8")) if out.exists() else None
    if not 0 <= done.returncode < 70:
        print(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr}", file=sys.stderr)
    return rows_of(part, name, document, done.returncode)


def run_questions(scratch: Path) -> Questions:
    copy = scratch / "cases"
    shutil.copytree(ROOT / "cases", copy)
    text = (copy / "rmsnorm-overflow.case.yaml").read_text(encoding="utf-8")
    expectations = ("expect:", "reason:", "origin:")
    kept = [line for line in text.splitlines() if not line.strip().startswith(expectations)]
    (copy / "unexpected.case.yaml").write_text("\n".join(kept) + "\n", encoding="utf-8")
    yield "bundled cases", ["run", "cases/"]
    yield "unexpected failure", ["run", str(copy / "unexpected.case.yaml")]
    yield "no such file", ["run", "cases/missing.case.yaml"]
    yield "no such tag", ["run", "cases/", "--tag", "missing"]
    yield "no such precision", ["run", "cases/", "--precision", "fp61"]


def drift_questions(scratch: Path) -> Questions:
    yield "demonstration", ["drift", "cases/", *DRIFT, "--history", str(scratch / "history")]


def diagnose_questions(scratch: Path) -> Questions:
    for name in f"{OVERFLOWS} {OTHERS}".split():
        yield name, ["diagnose", f"cases/{name}.case.yaml", "-p", "fp16", "--out", str(scratch / name)]


def fault_questions(scratch: Path) -> Questions:
    """The sample of `benchmarks.faults`, each model written as a case whose inputs are files."""
    import numpy as np
    import onnx

    from benchmarks.faults.generate import generate, sample

    for spec in sample(SAMPLE):
        planted = generate(spec)
        folder = scratch / "faults" / spec.name
        folder.mkdir(parents=True)
        onnx.save(planted.model, folder / "model.onnx")
        inputs = {}
        for name, values in planted.feeds.items():
            np.save(folder / f"{name}.npy", values)
            inputs[name] = {"fill": {"kind": "file", "path": f"{name}.npy"}}
        runs = [planted.precision.value]
        case = {"model": {"path": "model.onnx"}, "inputs": inputs, "samples": 1, "runs": runs}
        path = folder / f"{spec.name}.case.yaml"  # a name of its own: journals of diagnoses are kept by name
        path.write_text(json.dumps(case), encoding="utf-8")  # JSON is YAML
        yield spec.name, ["diagnose", str(path)]


PARTS: dict[str, Callable[[Path], Questions]] = {
    "run": run_questions,
    "drift": drift_questions,
    "diagnose": diagnose_questions,
    "faults": fault_questions,
}


def answers(part: str, jobs: int, scheduler: str | None = None) -> dict[str, Any]:
    """The columns of a part, and its rows by name; for workers the files lie in the working folder, which they see."""
    shared = None if scheduler is None else Path.cwd()
    with tempfile.TemporaryDirectory(dir=shared) as folder, ThreadPoolExecutor(jobs) as pool:
        scratch = Path(folder)
        questions, asked = list(PARTS[part](scratch)), partial(ask, part, scratch)
        rows: Rows = {}
        if scheduler is None:
            for found in pool.map(asked, questions):
                rows |= found
        else:
            for _, found in each_answer(asked, questions, scheduler):
                rows |= found
    columns = SEPARATOR.join([*SHAPES[part].columns, "exit status"])
    return {"columns": columns, "rows": dict(sorted(rows.items()))}


def differences(part: str, recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Every cell that differs, as (part, row, column, recorded, now); a row on one side only is one difference."""
    then_columns, now_columns = (side["columns"].split(SEPARATOR) for side in (recorded, now))
    found = []
    for name in sorted({*recorded["rows"], *now["rows"]}):
        then, new = recorded["rows"].get(name), now["rows"].get(name)
        if then is None or new is None:
            found.append((part, name, "row", then or "missing", new or "missing"))
            continue
        before = dict(zip(then_columns, then.split(SEPARATOR), strict=True))
        after = dict(zip(now_columns, new.split(SEPARATOR), strict=True))
        for column in dict.fromkeys((*before, *after)):
            old, changed = before.get(column, "missing"), after.get(column, "missing")
            if old != changed:
                found.append((part, name, column, old, changed))
    return found


def check(parts: list[str], jobs: int, path: Path, scheduler: str | None = None) -> int:
    recorded = json.loads(path.read_text(encoding="utf-8"))
    found: list[tuple[str, ...]] = []
    for part in parts:
        now = answers(part, jobs, scheduler)
        different = differences(part, recorded["parts"][part], now)
        print(f"{part}: {len(now['rows'])} answers, {len(different)} differences", flush=True)
        found += different
    if found:
        table = [("part", "row", "what", "recorded", "now"), *found]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)][:3]
        for *names, old, new in table:
            name = "  ".join(text.ljust(width) for text, width in zip(names, widths, strict=True))
            print(f"{name}  {old} → {new}")
    return 1 if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.answers", description=__doc__.split("\n")[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--write", action="store_true", help="record the answers of this tree")
    which.add_argument("--check", action="store_true", help="list what differs from the recorded answers")
    parser.add_argument("--only", help=f"check these parts alone, between commas: {','.join(PARTS)}")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="commands at a time")
    parser.add_argument("--file", type=Path, default=RESULTS / "answers.json", help="of the answers")
    add_scheduler(parser)
    options = parser.parse_args()
    parts = options.only.split(",") if options.only else list(PARTS)
    if unknown := sorted({*parts} - {*PARTS}):
        parser.error(f"--only: {', '.join(unknown)}: not one of {', '.join(PARTS)}")
    if options.check:
        return check(parts, options.jobs, options.file, options.scheduler)
    if options.only:
        parser.error("--only goes with --check: a file has the answers of one tree")
    numbers = {"parts": {part: answers(part, options.jobs, options.scheduler) for part in parts}}
    print(record("answers", numbers, out=options.file))
    return 0


if __name__ == "__main__":
    sys.exit(main())
