"""The sample that is kept in reports/sample: two TensorRT releases over the bundled cases, from a GPU machine.

    python -m benchmarks.drift_sample --env trt-8.5.3.1 --env trt-8.6.0 --minutes 9
    python -m benchmarks.drift_sample --env trt-8.5.3.1 --env trt-8.6.0 --minutes 9    # goes on where it stopped
    python -m benchmarks.drift_sample --parquet reports/sample/drift.parquet           # only the reports, anew

It runs what `harness drift cases/ --env OLD --env NEW --repeats 3` runs, but the slow cases last, and it stops when
its minutes are over: what was judged is kept under --history, and the same command goes on there. When all is
judged it leaves in --out:

    drift.parquet   the run as it is in the history; every number of the others comes from it
    drift.html      the page
    drift.md        the summary
    drift.json      the document of schema harness.drift/2

Give the environments different GPUs (`gpu = 1` in harness.toml), and they are built side by side. `--finish` takes
an interrupted run for finished: cases that it did not reach are not in it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.spread import no_scheduler
from harness.case import Case, load_cases
from harness.cli.outputs import Outputs
from harness.cli.progress import RunProgress
from harness.errors import HarnessError, HistoryError, NothingSelectedError
from harness.history import CacheUse, DriftOptions, LayerBuilds, RunInfo, drift, report_of, runs_at
from harness.history.store.files import PARTS, RunWriter, interrupted, list_runs, read_plan
from harness.judge import MadeWith, RunEvent
from harness.report import drift_markdown, drift_page
from harness.tensors import Precision

CASES = Path("cases")
SLOW = ("conv-overflow", "quantised-conv", "dynamic-batch", "unet", "resnet50", "densenet")
MOST_BYTES = 1 << 20


class TimeIsUp(BaseException):
    """No further build is to begin; a BaseException, because no fault of a build is meant."""


class _Timed(RunProgress):
    """A line for each build, and an end to it."""

    def __init__(self, deadline: float) -> None:
        super().__init__(sys.stderr)
        self.deadline = deadline

    def __call__(self, event: RunEvent) -> None:
        if event.kind == "start" and time.monotonic() > self.deadline:
            raise TimeIsUp
        super().__call__(event)


def choose(folder: Path, names: Sequence[str], without: Sequence[str]) -> list[Case]:
    """The cases in `folder` that are wanted, the slow ones last.

    Raises:
        NothingSelectedError: a name is that of no case.
    """
    known = {case.name: case for case in load_cases([folder])}
    if unknown := [name for name in (*names, *without) if name not in known]:
        raise NothingSelectedError(f"no case is called {unknown[0]!r}", hint=f"there are {', '.join(known)}")
    wanted = [known[name] for name in names or known if name not in without]
    return sorted(wanted, key=lambda case: SLOW.index(case.name) if case.name in SLOW else -1)


def run(
    cases: Sequence[Case],
    releases: Sequence[str],
    precisions: Sequence[Precision],
    options: DriftOptions,
    *,
    history: Path,
    minutes: float,
) -> bool:
    """Run the matrix, or go on with it, until it is done or the time is up; say which."""
    begun = any(history.glob(f"*{PARTS}"))
    try:
        with _Timed(time.monotonic() + 60 * minutes) as progress:
            drift(
                list(cases),
                environments=releases,
                precisions=precisions,
                options=options,
                history=history,
                resume=begun,
                progress=progress,
            )
    except TimeIsUp:
        return False
    return True


def finish(history: Path) -> None:
    """Take the newest interrupted run for finished.

    Raises:
        HistoryError: there is none.
    """
    name = interrupted(history)
    with RunWriter(history, read_plan(history / f"{name}{PARTS}"), run=name) as writer:
        writer.finish(MadeWith())


def write_sample(info: RunInfo, out: Path) -> list[Path]:
    """Leave the Parquet and its reports in `out`.

    Raises:
        HistoryError: a file is larger than it may be.
    """
    out.mkdir(parents=True, exist_ok=True)
    kept = out / "drift.parquet"
    if info.path.resolve() != kept.resolve():
        shutil.copyfile(info.path, kept)
    (copied,) = runs_at(kept)
    files = out / "drift.json", out / "drift.html", out / "drift.md"
    report = report_of(copied)
    Outputs(*files).write(
        document=report.to_dict,
        page=partial(drift_page, report),
        summary=partial(drift_markdown, report),
        table=report.to_frame,
    )
    written = [kept, *files]
    for path in written:
        if path.stat().st_size > MOST_BYTES:
            raise HistoryError(f"has {path.stat().st_size} bytes: too large to be kept", where=path)
    return written


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    no_scheduler(parser, "it asks the engines of this machine's GPU")
    parser.add_argument("--env", action="append", default=[], help="a release, the older one first")
    parser.add_argument("--precision", action="append", type=Precision, default=[], help="only these")
    parser.add_argument("--case", action="append", default=[], help="only these")
    parser.add_argument("--without", action="append", default=[], help="not these cases")
    parser.add_argument("--cases", type=Path, default=CASES, help="where the cases are")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=LayerBuilds, default=LayerBuilds.AUTO)
    parser.add_argument("--timing-cache", type=CacheUse, default=CacheUse.BOTH)
    parser.add_argument("--run-limit", type=float, help="seconds for a case at a precision on a release")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no build after so many")
    parser.add_argument("--history", type=Path, default=Path("reports/history"))
    parser.add_argument("--finish", action="store_true", help="take an interrupted run for finished")
    parser.add_argument("--parquet", type=Path, help="run nothing: write the reports of this file")
    parser.add_argument("--out", type=Path, default=Path("reports/sample"))
    asked = parser.parse_args()
    try:
        if asked.parquet:
            (info,) = runs_at(asked.parquet)
        else:
            if asked.finish:
                finish(asked.history)
            elif not run(
                choose(asked.cases, asked.case, asked.without),
                asked.env,
                asked.precision,
                DriftOptions(
                    repeats=asked.repeats,
                    layers=asked.layers,
                    timing_cache=asked.timing_cache,
                    run_limit=asked.run_limit,
                ),
                history=asked.history,
                minutes=asked.minutes,
            ):
                print("the time is up; what was judged is kept, and the same command goes on there")
                return 4
            info = list_runs(asked.history, unfinished=False)[-1]
        for path in write_sample(info, asked.out):
            print(f"{path}: {path.stat().st_size} bytes")
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
