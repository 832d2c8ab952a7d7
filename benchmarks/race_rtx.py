"""harness diagnose against a scripted bisection with polygraphy's loaders, on TensorRT for RTX.

polygraphy's `debug precision` sets layer precisions, which no strongly typed release has. So its bisection is played
with its own loaders over typed graphs: the first (or last) k nodes of the graph in FP32 between Casts, every engine
built in one process that stays, held against the gate and the inputs that harness uses. AutoCast is ModelOpt's own,
asked in the race by a Python that has it, or else what benchmarks.race_autocast keeps of it; one build and the check
follow.

    python -m benchmarks.race_rtx --env rtx-1.6 --out DIR [--model NAME]… [--modelopt PYTHON] [--total 290]
    python -m benchmarks.race_rtx --merge DIR

Each result is written to DIR as soon as it is there, and is not raced for again. Counted are engine builds, wall
seconds, what is kept in FP32, the error that is left on the engine, and the latency of the cured engine over the
faulty one, which harness measures for all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.race_autocast import choose, kept_by_autocast
from benchmarks.race_contenders import Track, bench_of, cold, warm, work_folder, write_check
from benchmarks.race_rtx_models import MODELS, write_case
from benchmarks.race_typed_worker import ANSWER
from benchmarks.record import record
from benchmarks.spread import no_scheduler
from harness.backends import Plan, TensorRTCandidate, Timing
from harness.case import CASE_SUFFIX, load_case
from harness.environments import load, select
from harness.model import save_model, with_islands
from harness.tensors import HostFingerprint, Precision, from_json, to_json, write_text
from harness.text import plural

LEAST = 6.0  # seconds: a contender that has fewer left is not started
LIMIT = 60.0


class Typed:
    """A process of the environment's Python that builds typed graphs with polygraphy's loaders."""

    def __init__(self, track: Track, work: Path) -> None:
        import polygraphy

        lent = work / "lent"
        lent.mkdir()
        (lent / "polygraphy").symlink_to(Path(polygraphy.__file__).parent)
        paths = [str(lent), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.work = work
        self.builds: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [*track.environment.command, str(Path(__file__).with_name("race_typed_worker.py")), str(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(work / "said.txt").open("w"),
            text=True,
            env={
                **os.environ,
                **dict(track.environment.variables),
                "PYTHONPATH": os.pathsep.join(paths),
                "POLYGRAPHY_USE_TENSORRT_RTX": "1",
            },
        )

    def build(self, path: Path) -> dict[str, Any]:
        """Build and check one file."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                self.builds.append(json.loads(line.removeprefix(ANSWER)))
                return self.builds[-1]
        said = (self.work / "said.txt").read_text()[-400:]
        raise RuntimeError(f"the process of polygraphy's loaders ended: {said}")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def bisection(track: Track, direction: str) -> dict[str, Any]:
    """The first (forward) or last (reverse) k nodes in FP32: the smallest k that passes, by bisection."""
    work = work_folder(track, f"typed-{direction}")
    start = time.perf_counter()
    bench = bench_of(load_case(track.case))
    write_check(track, work)
    names = [node.name for node in bench.model.nodes]
    typed = Typed(track, work)

    def chosen(count: int) -> tuple[str, ...]:
        return tuple(names[:count] if direction == "forward" else names[len(names) - count :])

    def passes(count: int) -> bool:
        graph = with_islands(bench.model, Precision.FP16, chosen(count))
        found = typed.build(save_model(graph, work / f"first-{count}.onnx"))
        found["kept"] = count
        return bool(found["passed"])

    low, high = 0, len(names)
    try:
        answered = passes(high)
        while answered and high - low > 1 and time.perf_counter() - start < track.limit:
            middle = (low + high) // 2
            low, high = (low, middle) if passes(middle) else (middle, high)
        seconds = time.perf_counter() - start
    finally:
        typed.close()
    finished = answered and high - low == 1
    last = next((each for each in reversed(typed.builds) if each["passed"]), {})
    kept = set(chosen(high)) & {node.name for node in bench.model.lowerable}
    return {
        "seconds": seconds,
        "finished": finished,
        "builds": len(typed.builds),
        "kept_in_fp32": len(kept) if finished else None,
        "culprits": [name for name in names if name in kept] if finished else [],
        "final_max_abs": last.get("max_abs"),
        "nrmse": last.get("nrmse"),
        "checks": typed.builds,
    }


def ask_autocast(python: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What AutoCast keeps of each model: a process each, side by side, as each keeps one core busy."""
    with ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(partial(choose, python), names), strict=True))


def autocast(track: Track, asked_here: Mapping[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    """The nodes that AutoCast keeps in FP32, `asked_here` or kept, in a typed graph that is built and checked once."""
    name = track.case.name.removesuffix(CASE_SUFFIX)
    found = kept_by_autocast(name) if asked_here is None else asked_here[name]
    if found is None or "failure" in found:
        return {"skipped": "AutoCast was not asked, or failed: see benchmarks.race_autocast", "said": found}
    asked = found["seconds"] if asked_here is None else found["wall"]
    work = work_folder(track, "autocast")
    bench = bench_of(load_case(track.case))
    write_check(track, work)
    start = time.perf_counter()
    typed = Typed(track, work)
    try:
        graph = with_islands(bench.model, Precision.FP16, found["kept"])
        checked = typed.build(save_model(graph, work / "autocast.onnx"))
    finally:
        typed.close()
    return {
        "seconds": asked + time.perf_counter() - start,
        "seconds_of_autocast": asked,
        "asked_in_the_race": asked_here is not None,
        "finished": bool(checked["passed"]),
        "builds": 1,
        "kept_in_fp32": len(found["kept"]),
        "culprits": found["kept"],
        "final_max_abs": checked.get("max_abs"),
        "nrmse": checked.get("nrmse"),
        "checks": [checked],
    }


Contender = Callable[[Track], dict[str, Any]]
CONTENDERS: dict[str, Contender] = {
    "harness cold": cold,
    "harness warm": warm,
    "bisection forward": lambda track: bisection(track, "forward"),
    "bisection reverse": lambda track: bisection(track, "reverse"),
    "AutoCast": autocast,
    "latency": lambda track: latency(track),
}
_PHASES = (
    ("harness cold", "harness warm"),
    ("AutoCast",),
    ("bisection forward",),
    ("bisection reverse",),
    ("latency",),
)


def latency(track: Track) -> dict[str, Any]:
    """Median milliseconds of the faulty engine and of each contender's cured one, and what errors they have."""
    rows = {
        who: json.loads(path.read_text())["row"]
        for who in ("harness cold", "bisection forward", "bisection reverse", "AutoCast")
        if (path := track.folder / f"{who}.json").exists()
    }
    bench = bench_of(load_case(track.case))
    candidate = TensorRTCandidate(track.environment, bench.model)
    found: dict[str, Any] = {"finished": True}
    try:
        found["faulty"] = _measured(candidate, bench.feeds[0], bench.expected[0])
        for who, row in rows.items():
            island, sums = frozenset(row.get("culprits") or ()), frozenset(row.get("fp32_sums") or ())
            if island or sums:
                made = _measured(candidate, bench.feeds[0], bench.expected[0], island, sums)
                found[who] = {**made, "ratio": made["ms"] / found["faulty"]["ms"]}
    finally:
        candidate.close()
    return found


def _measured(
    candidate: TensorRTCandidate,
    feeds: Any,
    expected: Any,
    islands: frozenset[str] = frozenset(),
    sums: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    from harness.comparison import compare_tensors

    plan = Plan(Precision.FP16, islands=islands, fp32_sums=sums)
    made = candidate.evaluate(plan, feeds, timing=Timing(repeats=200, warmup=20))
    facts = made.engine
    assert facts is not None
    assert facts.latency is not None
    worst = max(compare_tensors(made.tensors[name], value).nrmse for name, value in expected.items())
    return {
        "ms": facts.latency.median_ms,
        "nrmse": worst,
        "kernels": None if facts.kernels is None else len(facts.kernels.kernels),
    }


@contextmanager
def track_of(name: str, out: Path, environment: Any, limit: float) -> Iterator[Track]:
    """A folder with the case, in which the results so far lie beside it."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        case = write_case(name, folder)
        for who in CONTENDERS:
            kept = result(out, name, who)
            if kept.exists():
                (folder / f"{who}.json").write_text(kept.read_text())
        yield Track(case, environment, limit)


def result(out: Path, name: str, who: str) -> Path:
    """Where the result of a contender lies."""
    return out / f"{name} {who}.json".replace(" ", "-")


def race(args: argparse.Namespace) -> int:
    """Race on the models that were asked for, and write each result to `args.out`."""
    environment = select(args.env, load())
    args.out.mkdir(parents=True, exist_ok=True)
    contenders = dict(CONTENDERS)
    end = time.monotonic() + args.total
    for phase in _PHASES:
        if args.modelopt and "AutoCast" in phase and (not args.contender or "AutoCast" in args.contender):
            asked = ask_autocast(args.modelopt, args.model or list(MODELS))
            contenders["AutoCast"] = partial(autocast, asked_here=asked)
        for name in args.model or MODELS:
            for who in phase:
                path, left = result(args.out, name, who), end - time.monotonic()
                if path.exists() or (args.contender and who not in args.contender):
                    continue
                if left < LEAST:
                    print(f"{name}: {who} is left for the next time")
                    continue
                with track_of(name, args.out, environment, min(LIMIT, left)) as track:
                    try:
                        row = contenders[who](track)
                    except Exception as error:  # the others are worth having
                        row = {"error": f"{type(error).__name__}: {error}"}
                document = {"model": name, "contender": who, "env": args.env, "row": row}
                write_text(path, json.dumps(document, indent=1, default=str) + "\n")
                said = {key: row[key] for key in row if key not in ("evidence", "checks", "fingerprint")}
                print(f"{name}: {who}:", json.dumps(said, default=str)[:300], flush=True)
    print("\n".join(table(read(args.out))))
    return 0


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """All results of `folder`, by model and contender."""
    rows = {
        name: {who: result(folder, name, who) for who in CONTENDERS if result(folder, name, who).exists()}
        for name in MODELS
    }
    return {
        name: {who: json.loads(path.read_text())["row"] for who, path in found.items()}
        for name, found in rows.items()
        if found
    }


def table(models: dict[str, dict[str, Any]]) -> list[str]:
    """A Markdown table: a row for each model and contender."""
    lines = [
        "| model, contender | builds | seconds | kept in FP32 | error left (nrmse) | latency |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, rows in models.items():
        for who, row in rows.items():
            if who == "latency" or "skipped" in row:
                continue
            measured = rows.get("latency", {}).get("harness cold" if who == "harness warm" else who, {})
            cells = [
                f"{name}: {who}",
                _cell(row.get("builds"), "d"),
                _cell(row.get("seconds"), ".1f"),
                _kept(row),
                _cell(measured.get("nrmse", row.get("nrmse")), ".2g"),
                _cell(measured.get("ratio", (row.get("price") or {}).get("ratio")), ".2f"),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cell(value: Any, format: str) -> str:
    return "–" if value is None else f"{value:{format}}"


def _kept(row: dict[str, Any]) -> str:
    if row.get("fp32_sums"):
        return f"no node; {plural(len(row['fp32_sums']), 'product')} between Casts"
    if "checks" in row and row.get("builds") == 1 and not row["finished"]:
        return f"{plural(row['kept_in_fp32'], 'node')}, and fails"
    if not row.get("finished", True) and row.get("exit", 0) is None:
        return "stopped"
    if row.get("kept_in_fp32") is None:
        return "error" if "error" in row else "no answer"
    return plural(row["kept_in_fp32"], "node")


def merge(folder: Path, out: Path | None, notes: Sequence[str]) -> None:
    """Keep the results of `folder` as one."""
    models = read(folder)
    numbers: dict[str, Any] = {"notes": list(notes), "table": table(models)}
    for rows in models.values():
        for row in rows.values():
            found = row.pop("fingerprint", None)
            if found is not None:
                numbers["environments"] = found.pop("environments")
                numbers["fingerprint"] = to_json(from_json(HostFingerprint, found))
    print("\n".join(numbers["table"]))
    print(record("race_rtx", {**numbers, "models": models}, out=out))


def main() -> int:
    """Race, or merge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    no_scheduler(parser, "it times what one machine does, which others would disturb")
    parser.add_argument("--env", help="name of the environment")
    parser.add_argument("--model", action="append", choices=list(MODELS), help="may be repeated (all)")
    parser.add_argument(
        "--contender", action="append", choices=list(CONTENDERS), help="may be repeated (all)"
    )
    parser.add_argument("--modelopt", metavar="PYTHON", help="has ModelOpt: ask its AutoCast in the race")
    parser.add_argument("--total", type=float, default=290, help="seconds for all (290)")
    parser.add_argument("--out", type=Path, help="folder of the results; with --merge, the file")
    parser.add_argument(
        "--note", action="append", default=[], help="with --merge: what should be known of it"
    )
    parser.add_argument("--merge", type=Path, metavar="DIR", help="make one result of those in DIR")
    args = parser.parse_args()
    if args.merge:
        merge(args.merge, args.out, args.note)
        return 0
    if not args.env or not args.out:
        parser.error("--env and --out are needed to race")
    return race(args)


if __name__ == "__main__":
    sys.exit(main())
