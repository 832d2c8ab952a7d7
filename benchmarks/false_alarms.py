"""How often a clean model gets an alarm: a gate on a part or a slice, a hidden fault, a ruined file, a selection.

Every model is judged as a user would have it judged, `harness run MODEL`, at FP16 and bfloat16 on the emulator. One
that fails a gate on a whole tensor is not clean: it is counted apart, by name.

Run: python -m benchmarks.false_alarms [--quick] [--nodes N] [--only SOURCE] [--scheduler ADDRESS] [--out FILE]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnx

from benchmarks.clean import collect
from benchmarks.record import record
from benchmarks.spread import add_scheduler, each_answer
from harness.judge import RunResult, Verdict, run

PRECISIONS = ("fp16", "bf16")
SOURCES: dict[str, Callable[[int, int], Iterator[collect.Clean]]] = {
    "bundled cases": lambda nodes, count: collect.bundled(),
    "clean twins": lambda nodes, count: collect.twins(nodes),
    "onnx wheel": lambda nodes, count: collect.onnx_wheel(),
    "onnxscript": lambda nodes, count: collect.onnxscript_models(),
    "generators": lambda nodes, count: collect.generated(count),
    "torch exports": lambda nodes, count: collect.exported(),
}
"""By name: the largest clean twins, and how many of each generator."""


@dataclass(frozen=True)
class Found:
    """What was said of one model at one precision.

    Args:
        source: where the model comes from.
        name: what it is called there.
        precision: the precision.
        judged: `clean`, `not clean`, `skipped` or `error`.
        alarms: what was said that is no fault.
        layers: how many layers were compared, and how many only a slice is beyond the gate of.
    """

    source: str
    name: str
    precision: str
    judged: str
    alarms: tuple[str, ...] = ()
    layers: tuple[int, int] = (0, 0)


@cache
def models(source: str, nodes: int, count: int) -> tuple[collect.Clean, ...]:
    """The models of a source, none of them made yet."""
    return tuple(SOURCES[source](nodes, count))


def judge(place: tuple[str, int, int, int]) -> list[Found]:
    """What is said of one model: that of a source, as `models` takes it, at a place."""
    *source, number = place
    clean = models(*source)[number]
    try:
        made = clean.make()
        with tempfile.TemporaryDirectory() as folder:
            path = made
            if isinstance(made, onnx.ModelProto):
                path = Path(folder, "model.onnx")
                onnx.save(made, path)
            return [look_at(clean, result) for result in run([path], precisions=PRECISIONS).results]
    except Exception:  # a model that cannot be made or loaded says nothing of alarms
        error = traceback.format_exc().strip().splitlines()[-1]
        return [Found(clean.source, clean.name, "-", "error", (error,))]


def look_at(clean: collect.Clean, result: RunResult) -> Found:
    found = Found(clean.source, clean.name, result.precision.value, "clean")
    if result.verdict in (Verdict.SKIP, Verdict.ERROR):
        word = "skipped" if result.verdict is Verdict.SKIP else "error"
        return Found(found.source, found.name, found.precision, word, (result.reason,))
    failed = [gate for output in result.outputs for gate in output.gates if not gate.passed]
    if any(gate.part is None and gate.metric != "slice_nrmse" for gate in failed):
        return Found(found.source, found.name, found.precision, "not clean", (result.reason,))
    alarms = [result.reason] if result.verdict is not Verdict.PASS else []
    alarms += [f"hidden at {each.node}: {each.how}" for each in result.hidden]
    sliced = sum(
        layer.diverged and all(gate.passed or gate.metric == "slice_nrmse" for gate in layer.gates)
        for layer in result.layers
    )
    return Found(
        found.source, found.name, found.precision, "clean", tuple(alarms), (len(result.layers), sliced)
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few of each source")
    parser.add_argument("--nodes", type=int, default=2000, help="the largest clean twins (2000)")
    parser.add_argument("--only", help="one source, to a file of its own")
    parser.add_argument("--out", type=Path, help="where to write the result instead of benchmarks/results")
    add_scheduler(parser)
    options = parser.parse_args()
    nodes, count = (100, 2) if options.quick else (options.nodes, 12)
    places = [
        (source, nodes, count, number)
        for source in ([options.only] if options.only else SOURCES)
        for number in range(len(models(source, nodes, count)))
    ]
    said: dict[tuple[str, int, int, int], list[Found]] = {}
    reported = started = time.monotonic()
    for place, these in each_answer(judge, places, options.scheduler):
        said[place] = these
        if time.monotonic() - reported > 20:
            reported = time.monotonic()
            print(f"{reported - started:.0f} s: {len(said)} of {len(places)}", file=sys.stderr, flush=True)
    found = [one for place in places for one in said[place]]
    for one in found:
        if one.alarms or one.layers[1]:
            print(f"{one.judged}: {one.source} {one.name} {one.precision} {one.layers}: {one.alarms}")
    name = "false_alarms" + (f"_{options.only.replace(' ', '_')}" if options.only else "")
    path = record(name, numbers(found), out=options.out, module="false_alarms")
    alarms = sum(one.judged == "clean" and bool(one.alarms) for one in found)
    print(f"{alarms} alarms in {sum(one.judged == 'clean' for one in found)} runs; written to {path}")
    return int(alarms > 0)


def numbers(found: list[Found]) -> dict[str, Any]:
    """By source: models and runs that are clean, what was said of them, and what was not counted."""
    rows: dict[str, Any] = {}
    for source in dict.fromkeys(each.source for each in found):
        of_it = [each for each in found if each.source == source]
        clean = [each for each in of_it if each.judged == "clean"]
        rows[source] = {
            "models": len({each.name for each in clean}),
            "runs": len(clean),
            "alarms": [f"{e.name} {e.precision}: {text}" for e in clean for text in e.alarms],
            "layers": sum(each.layers[0] for each in clean),
            "layers of which only a slice is beyond": sum(each.layers[1] for each in clean),
            "others": dict(Counter(each.judged for each in of_it if each.judged != "clean")),
            "not clean": sorted({f"{e.name} {e.precision}" for e in of_it if e.judged == "not clean"}),
        }
    clean = [each for each in found if each.judged == "clean"]
    return {
        "precisions": list(PRECISIONS),
        "models": len({(each.source, each.name) for each in clean}),
        "runs": len(clean),
        "alarms": sum(bool(each.alarms) for each in clean),
        "sources": rows,
    }


if __name__ == "__main__":
    sys.exit(main())
