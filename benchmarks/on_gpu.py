"""Everything that needs a GPU, in one command: each benchmark is a job with a limit, side by side on several GPUs.

    python -m benchmarks.on_gpu --old trt-8.5.3.1 --new trt-8.6.0 --gpus 0,1,2,3 --minutes 14 --out DIR
    python -m benchmarks.on_gpu … --list                          # the jobs, in the order in which they begin
    python -m benchmarks.on_gpu … --job run --job drift           # only these

Builds that share a GPU disturb each other's tactics and times: a job has its GPUs to itself. The next job begins as
soon as the GPUs that it needs are free, if what is left of --minutes is enough for it. What a job prints is in
DIR/NAME.log, what it leaves in DIR/NAME/. A job that ended well is not run again: the same command goes on where it
was stopped. --old and --new are environments of harness.toml; their `gpu` is set by job.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tomlkit

from benchmarks.spread import no_scheduler
from harness.case import find_config
from harness.environments import load, select
from harness.tensors import write_text

PYTHON = [sys.executable, "-m"]
GRACE_SECONDS = 40.0
DONE = "done.json"


@dataclass(frozen=True)
class Job:
    """One command.

    Args:
        name: of its log and its folder.
        command: what to run, from the root of the repository.
        limit: seconds; then it is interrupted, and killed if that does not end it.
        gpus: how many it needs; the older release is on the first of two, the newer on the second.
        least: seconds that must be left to begin it.
        ended_well: exit statuses after which it need not be run again.
        environment: variables beside those that all jobs get.
    """

    name: str
    command: Sequence[str]
    limit: float
    gpus: int = 1
    least: float = 60.0
    ended_well: tuple[int, ...] = (0,)
    environment: Mapping[str, str] | None = None


def jobs_for(
    old: str, new: str, out: Path, *, run_at: Sequence[str] = (), drift_at: Sequence[str] = ()
) -> list[Job]:
    """All jobs, the longest and those on two GPUs first.

    Args:
        old: the older release.
        new: the newer release.
        out: where results go.
        run_at: precisions of the run over all cases; by default those of the cases.
        drift_at: precisions that drift is looked for at; by default those of the cases.
    """

    def race(model: str, limit: float) -> Job:
        name = f"race-{model}"
        command = [*PYTHON, "benchmarks.race_polygraphy", "--env", new, "--model", model, "--limit", "240"]
        return Job(name, [*command, "--out", str(out / "race")], limit)

    def tactics(environment: str, case: str, name: str) -> Job:
        command = [*PYTHON, "benchmarks.tactics", "--env", environment, "--case", case, "--seconds", "420"]
        name = f"tactics-{environment}-{name}"
        return Job(name, [*command, "--out", str(out / f"{name}.json")], 500)

    def adapter(environment: str) -> Job:
        python = select(environment, load()).command[0]
        command = [*PYTHON, "pytest", "tests/gpu", "-q", "-s", "-p", "no:cacheprovider"]
        return Job(f"adapter-{environment}", command, 240, environment={"HARNESS_GPU_PYTHON": python})

    run, drift, planted = out / "run", out / "drift", out / "planted"
    report = [*_precisions(run_at), "--json", str(run / "run.json"), "--html", str(run / "report.html")]
    sample = [*_precisions(drift_at), "--history", str(drift / "history"), "--out", str(drift / "sample")]
    sample += ["--run-limit", "240", "--minutes", "20"]
    conv = "cases/conv-residual.case.yaml"
    diagnosis = ["diagnose", conv, "--precision", "fp16", "--env", new, "--out", str(planted / "handed")]
    return [
        Job("run", [*PYTHON, "harness", "run", "cases/", "--env", old, "--env", new, *report], 1300, gpus=2),
        Job(
            "drift",
            [*PYTHON, "benchmarks.drift_sample", "--env", old, "--env", new, *sample],
            1300,
            gpus=2,
            least=120,
        ),
        race("rmsnorm-overflow", 900),
        race("accumulated", 900),
        race("attention", 900),
        race("two-faults", 900),
        tactics(new, "conv-residual", "conv"),
        tactics(old, "conv-residual", "conv"),
        tactics(new, "benchmarks/small-mlp.case.yaml", "mlp"),
        tactics(old, "benchmarks/small-mlp.case.yaml", "mlp"),
        Job(
            "planted",
            [*PYTHON, "benchmarks.planted_tactic", *diagnosis, "--json", str(planted / "diagnosis.json")],
            420,
            ended_well=(1,),
        ),
        adapter(new),
        adapter(old),
        Job("parts", [*PYTHON, "benchmarks.engines", "--env", new, "--out", str(out / "engines.json")], 300),
    ]


def _precisions(names: Sequence[str]) -> list[str]:
    return [word for name in names for word in ("--precision", name)]


class Machine:
    """GPUs that jobs take and give back.

    Args:
        gpus: their indices.
        end: when, on the monotonic clock, nothing may run any more.
    """

    def __init__(self, gpus: Sequence[str], end: float) -> None:
        self._free = list(gpus)
        self._end = end
        self._changed = threading.Condition()

    def carry_out(self, jobs: Sequence[Job], start: Callable[[Job, list[str], float], str]) -> dict[str, str]:
        """Begin the jobs in their order, as GPUs get free; what became of each."""
        states: dict[str, str] = {}
        threads: list[threading.Thread] = []
        for job in jobs:
            taken = self._take(job)
            if taken is None:
                states[job.name] = "not begun: the time is up"
                continue
            thread = threading.Thread(target=self._run, args=(job, taken, start, states), daemon=True)
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()
        return states

    def _take(self, job: Job) -> list[str] | None:
        with self._changed:
            while len(self._free) < job.gpus:
                self._changed.wait(1.0)
                if self._left() < job.least:
                    return None
            if self._left() < job.least:
                return None
            taken, self._free = self._free[: job.gpus], self._free[job.gpus :]
            return taken

    def _run(
        self,
        job: Job,
        taken: list[str],
        start: Callable[[Job, list[str], float], str],
        states: dict[str, str],
    ) -> None:
        try:
            states[job.name] = start(job, taken, min(job.limit, self._left()))
        finally:
            with self._changed:
                self._free = sorted([*self._free, *taken])
                self._changed.notify_all()

    def _left(self) -> float:
        return self._end - time.monotonic()


def start(job: Job, gpus: Sequence[str], limit: float, out: Path) -> str:
    """Run `job` to its end or its limit; what became of it."""
    folder = out / job.name
    folder.mkdir(parents=True, exist_ok=True)
    variables = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": ",".join(gpus),
        "HARNESS_CONFIG": str(out / f"harness-{job.gpus}.toml"),
        "XDG_CACHE_HOME": str(out / "cache" / job.name),  # or one job would find the timings of another
        "PYTHONUNBUFFERED": "1",
        **(job.environment or {}),
    }
    began = time.monotonic()
    with (out / f"{job.name}.log").open("a") as log:
        print(f"$ {shlex.join(job.command)}", file=log, flush=True)
        process = subprocess.Popen(
            job.command, env=variables, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        status = _wait(process, limit)
    seconds = time.monotonic() - began
    if status in job.ended_well:
        write_text(folder / DONE, json.dumps({"status": status, "seconds": seconds}) + "\n")
        return f"done in {seconds:.0f} s on GPU {','.join(gpus)}"
    return f"ended with {status} after {seconds:.0f} s on GPU {','.join(gpus)}"


def _wait(process: subprocess.Popen[bytes], limit: float) -> int:
    """Its exit status; at the limit it is asked to end, as by Ctrl-C, and then it and all it started is killed."""
    for seconds, stop in ((limit, None), (GRACE_SECONDS, signal.SIGINT), (GRACE_SECONDS, signal.SIGKILL)):
        if stop is signal.SIGINT:
            process.send_signal(stop)
        elif stop is signal.SIGKILL:
            os.killpg(process.pid, stop)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
    return process.wait()


def write_configs(old: str, new: str, out: Path) -> None:
    """Copies of harness.toml for jobs on one GPU and on two."""
    path = find_config()
    assert path is not None, "select() has found both environments"
    for count, places in ((1, {old: 0, new: 0}), (2, {old: 0, new: 1})):
        document = tomlkit.parse(path.read_text())
        for name, gpu in places.items():
            document["environments"][name]["gpu"] = gpu  # type: ignore[index]
        write_text(out / f"harness-{count}.toml", tomlkit.dumps(document))


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    no_scheduler(parser, "it spreads its jobs over the GPUs of this machine")
    parser.add_argument("--old", required=True, help="the older release")
    parser.add_argument("--new", required=True, help="the newer release")
    parser.add_argument("--gpus", default="0", help="indices, such as 0,1,2,3")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--run-at", action="append", default=[], help="a precision of `run`; may be repeated")
    parser.add_argument("--drift-at", action="append", default=[], help="a precision of `drift`")
    parser.add_argument("--job", action="append", default=[], help="only this one; may be repeated")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # in the background it is ignored, and jobs inherit that
    out = asked.out.resolve()
    for name in (asked.old, asked.new):
        select(name, load())
    gpus = asked.gpus.split(",")
    known = jobs_for(asked.old, asked.new, out, run_at=asked.run_at, drift_at=asked.drift_at)
    jobs = [job for job in known if not asked.job or job.name in asked.job]
    jobs = [job for job in jobs if job.gpus <= len(gpus) and not (out / job.name / DONE).exists()]
    if asked.list:
        for job in jobs:
            print(f"{job.name} ({job.gpus} GPU, {job.limit:.0f} s): {shlex.join(job.command)}")
        return 0
    out.mkdir(parents=True, exist_ok=True)
    write_configs(asked.old, asked.new, out)

    def begin(job: Job, taken: list[str], limit: float) -> str:
        print(f"{job.name}: begins on GPU {','.join(taken)}", flush=True)
        state = start(job, taken, limit, out)
        print(f"{job.name}: {state}", flush=True)
        return state

    states = Machine(gpus, time.monotonic() + 60 * asked.minutes).carry_out(jobs, begin)
    print()
    for name, state in states.items():
        print(f"{name:30} {state}")
    return 0 if all(state.startswith("done") for state in states.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
