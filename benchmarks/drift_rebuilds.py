"""How often drift is reported between engines of one release: real ones, from a GPU machine.

    python -m benchmarks.drift_rebuilds [--parquet reports/sample/drift.parquet] [--engines FILE] [--write]

Reads what is kept. Every output and layer is a comparison; a verdict other than `same` and `within noise` is a false
alarm. benchmarks.drift_false_alarms measures the same for emulated releases.

- From runs of `harness drift` over two environments that are one release (benchmarks/results/rebuilds/*.parquet, made
  with `--layers all`): what it says of them, as it says it.
- From a run over two releases, each build of a release is compared with its other builds, and a build of another
  process (benchmarks.engines) against all of them.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import harness
from benchmarks.record import RESULTS, record
from benchmarks.spread import no_scheduler
from harness.history import DriftVerdict, Floors, report_of, runs_at
from harness.history.judgement.tensors import judge_tensors

CALM = (DriftVerdict.SAME, DriftVerdict.WITHIN_NOISE)
ROOT = Path(__file__).parent.parent


def rebuilds(path: Path, engines: Path) -> dict[str, Any]:
    """Real engines of one release against each other.

    Args:
        path: a history; each build of a release in it is compared with the release's other builds.
        engines: result of benchmarks.engines; the worst output of each of its FP16 runs, built in another process, is
            compared with the worst outputs of all builds of the same case and release in the history.
    """
    history = harness.load_history(path)
    rows = history[history["kind"].isin(["output", "layer"])]
    worst = rows[rows["kind"] == "output"].sort_values("error", na_position="first")
    worst = worst.groupby(["case", "precision", "release", "build"], observed=True).tail(1)
    worst = worst.assign(tensor="the worst output", sample=-1)
    another = _runs_of(engines, worst)
    return {
        "one_build_against_the_others": {
            name: _against_the_others(rows[rows["release"] == name]) for name in _names(rows["release"])
        },
        "another_process_against_all_builds": {
            name: _counted(
                [
                    judge_tensors(
                        both, (both["build"] >= 0).to_numpy(), (both["build"] < 0).to_numpy(), Floors()
                    )
                ]
            )
            for name in _names(rows["release"])
            for both in [pd.concat([frame[frame["release"] == name] for frame in (worst, another)])]
        },
        "environments": {
            name: {key: str(own[key].iloc[0]) for key in ("tensorrt", "gpu", "driver")}
            for name, own in ((name, rows[rows["release"] == name]) for name in _names(rows["release"]))
        },
    }


def one_release_twice(paths: Sequence[Path]) -> dict[str, Any]:
    """What `harness drift` says of two environments that are one release, in the runs at `paths`."""
    found: dict[str, list[pd.DataFrame]] = {}
    verdicts: dict[str, Counter[str]] = {}
    alarmed: dict[str, list[dict[str, str]]] = {}
    for path in paths:
        (info,) = runs_at(path)
        report = report_of(info, waivers={})
        release = report.old
        found.setdefault(release, []).append(report.tensors)
        verdicts.setdefault(release, Counter()).update(
            "skip" if run.verdict is None else run.verdict.value for run in report.runs
        )
        alarmed.setdefault(release, []).extend(
            {"case": run.case, "verdict": run.verdict.value, "reason": run.reason}
            for run in report.runs
            if run.verdict is not None and run.verdict not in CALM
        )
    return {
        release: {
            kind: _counted([frame[frame["kind"] == kind] for frame in frames]) for kind in ("output", "layer")
        }
        | {"runs": dict(verdicts[release]), "runs_alarmed": alarmed[release]}
        for release, frames in found.items()
    }


def _names(column: pd.Series[Any]) -> list[str]:
    return sorted(column.astype(str).unique())


def _against_the_others(rows: pd.DataFrame) -> dict[str, Any]:
    builds = rows["build"]
    return _counted(
        [
            judge_tensors(rows, (builds != build).to_numpy(), (builds == build).to_numpy(), Floors())
            for build in sorted(builds.unique())
        ]
    )


def _runs_of(engines: Path, worst: pd.DataFrame) -> pd.DataFrame:
    """The runs in `engines` as builds numbered -1, in the shape of `worst`."""
    runs = json.loads(engines.read_text())["cases"]["runs"]
    errors = {
        (run["case"], run["precision"], run["environment"]): float(run["nrmse"])
        for run in runs
        if run["nrmse"] is not None
    }
    found = worst[worst["build"] == 0].copy()
    keys = list(zip(*(found[key].astype(str) for key in ("case", "precision", "release")), strict=True))
    found["error"] = [errors.get(key, math.nan) for key in keys]
    found["build"], found["hash"] = -1, [f"run {number}" for number in range(len(found))]
    return found[[key in errors for key in keys]]


def _counted(judged: list[pd.DataFrame]) -> dict[str, Any]:
    verdicts = Counter(str(verdict) for frame in judged for verdict in frame["verdict"])
    alarms = pd.concat([frame[~frame["verdict"].isin(CALM)] for frame in judged])
    found = alarms[["case", "tensor", "verdict", "old", "new"]].astype(str).to_dict("records")
    return {
        "comparisons": verdicts.total(),
        "same": verdicts[DriftVerdict.SAME.value],
        "alarms": len(alarms),
        "alarmed": found,
    }


def main() -> None:
    """Compare, print, keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    no_scheduler(parser, "it reads what is kept, in seconds")
    parser.add_argument("--parquet", type=Path, default=ROOT / "reports" / "sample" / "drift.parquet")
    parser.add_argument(
        "--twice", type=Path, default=RESULTS / "rebuilds", help="folder of runs of one release"
    )
    parser.add_argument("--engines", type=Path, default=RESULTS / "engines.json")
    parser.add_argument("--note", action="append", default=[], help="what should be known of the runs")
    parser.add_argument("--write", action="store_true", help="keep the result in benchmarks/results")
    arguments = parser.parse_args()
    twice = sorted(arguments.twice.glob("*.parquet"))
    numbers = {
        "one_release_twice": one_release_twice(twice),
        **rebuilds(arguments.parquet, arguments.engines),
        "notes": arguments.note,
    }
    print(json.dumps(numbers, indent=1))
    if arguments.write:
        print(record("drift_rebuilds", numbers))


if __name__ == "__main__":
    main()
