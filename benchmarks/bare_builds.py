"""Builds of a model with TensorRT alone, over and over: does the builder come back?

    python -m benchmarks.bare_builds --python /opt/trt-8.6/bin/python --case if-branches --case lstm --gpus 0,1

Each case has processes of its own, one after the other on each GPU, until the time is over: a builder, a network, a
parser, a configuration with FP16, the engine and a context, all freed before the next build. No code of this project
runs in them. A process that ends by a signal has crashed; one that builds nothing for `--patience` seconds hangs, and
is killed. What it shows is whether a crash or a hang of a worker is one of TensorRT itself.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from benchmarks.record import record
from benchmarks.spread import no_scheduler
from harness.case import load_case, resolve_model
from harness.model import load_model, save_model

CASES = Path(__file__).parent.parent / "cases"

CHILD = """
import sys
import tensorrt as trt

logger = trt.Logger(trt.Logger.ERROR)
trt.init_libnvinfer_plugins(logger, "")
runtime = trt.Runtime(logger)
sources = [trt.TacticSource.EDGE_MASK_CONVOLUTIONS, trt.TacticSource.JIT_CONVOLUTIONS]
explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
print("tensorrt", trt.__version__, flush=True)
while True:
    builder = trt.Builder(logger)
    network = builder.create_network(0 if explicit is None else 1 << int(explicit))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(sys.argv[1]):
        sys.exit("cannot be parsed: %s" % parser.get_error(0).desc())
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.FP16)
    config.set_tactic_sources(sum(1 << int(source) for source in sources))
    serialized = builder.build_serialized_network(network, config)
    engine = None if serialized is None else runtime.deserialize_cuda_engine(serialized)
    context = None if engine is None else engine.create_execution_context()
    print("none" if context is None else "built", flush=True)
    del context, engine, serialized, config, parser, network, builder
"""


@dataclass
class Tally:
    """What became of the builds of one case.

    Args:
        built: engines that came back, with a context.
        none: builds that returned no engine.
        crashed: builds in which the process ended by itself, by how it ended (`SIGSEGV`, `exit 1`).
        hung: builds that were given up.
        processes: started.
        seconds: that each build took which came back, the first of each process aside.
    """

    built: int = 0
    none: int = 0
    crashed: dict[str, int] = field(default_factory=dict)
    hung: int = 0
    processes: int = 0
    seconds: list[float] = field(default_factory=list)


def watch(
    command: Sequence[str], tally: Tally, *, until: float, patience: float, gpu: str | None = None
) -> str:
    """Run one process and count its builds, until it ends, hangs, or the time is over.

    Args:
        command: prints a line that begins with `tensorrt`, and then `built` or `none` after each build.
        tally: what to count in.
        until: of `time.monotonic`.
        patience: seconds without a line after which it hangs.
        gpu: what it sees; None leaves that as it is.

    Returns:
        the release of TensorRT; empty if it did not get that far.
    """
    environment = dict(os.environ) if gpu is None else {**os.environ, "CUDA_VISIBLE_DEVICES": gpu}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    tally.processes += 1
    release, first, began = "", True, time.monotonic()
    try:
        while True:
            left = until - time.monotonic()
            try:
                line = lines.get(timeout=max(min(patience, left), 0.0))
            except queue.Empty:
                tally.hung += left >= patience
                return release
            if not line:
                status = process.wait()
                how = f"exit {status}" if status >= 0 else signal.Signals(-status).name
                tally.crashed[how] = tally.crashed.get(how, 0) + 1
                return release
            if line.startswith("tensorrt"):
                release = line.split()[1]
            elif line.startswith("none"):
                tally.none += 1
            else:
                tally.built += 1
                if not first:
                    tally.seconds.append(round(time.monotonic() - began, 2))
                first = False
            began = time.monotonic()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _read(stream: IO[str], lines: queue.Queue[str]) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")


def main(arguments: Sequence[str] | None = None) -> None:
    """Build on every GPU until the time is over, and keep what became of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    no_scheduler(parser, "it watches builders on the GPUs of this machine")
    parser.add_argument("--python", required=True, help="a Python with TensorRT")
    parser.add_argument("--case", action="append", required=True, help="of cases/; may be repeated")
    parser.add_argument("--gpus", default="0", help="which, separated by commas")
    parser.add_argument("--lanes", type=int, default=1, help="processes side by side on each GPU")
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--patience", type=float, default=45.0, help="seconds without a build: it hangs")
    parser.add_argument("--out", type=Path, help="instead of benchmarks/results/bare_builds.json")
    options = parser.parse_args(arguments)
    until = time.monotonic() + options.seconds
    # A tally for each lane, so that none is shared.
    lanes = [(gpu, Tally()) for gpu in options.gpus.split(",") for _ in range(options.lanes)]
    names = [options.case[place % len(options.case)] for place in range(len(lanes))]
    releases: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.case:
            case = load_case(CASES / f"{name}.case.yaml")
            save_model(load_model(resolve_model(case), name=name), Path(folder, f"{name}.onnx"))

        def work(name: str, gpu: str, tally: Tally) -> None:
            command = [options.python, "-c", CHILD, str(Path(folder, f"{name}.onnx"))]
            while time.monotonic() < until:
                release = watch(command, tally, until=until, patience=options.patience, gpu=gpu)
                if not release and time.monotonic() < until:
                    return  # no TensorRT
                releases.add(release)

        threads = [
            threading.Thread(target=work, args=(name, *lane)) for name, lane in zip(names, lanes, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if not releases - {""}:
        raise SystemExit(f"{options.python} has no TensorRT that works: try it with -c 'import tensorrt'")
    cases = {
        name: asdict(merged([tally for other, (_, tally) in zip(names, lanes, strict=True) if other == name]))
        for name in options.case
    }
    for name, numbers in cases.items():
        print(name, {key: value for key, value in numbers.items() if key != "seconds"})
    environment = {"tensorrt": sorted(releases - {""})[0], **_gpu()}
    record("bare_builds", {"environment": environment, "cases": cases}, out=options.out)


def _gpu() -> dict[str, str]:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "--id=0"]
    name, driver = (
        subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().split(", ")
    )
    return {"gpu": name, "driver": driver}


def merged(tallies: Sequence[Tally]) -> Tally:
    """All of `tallies` in one."""
    total = Tally()
    for tally in tallies:
        total.built += tally.built
        total.none += tally.none
        total.hung += tally.hung
        total.processes += tally.processes
        total.seconds += tally.seconds
        for how, count in tally.crashed.items():
            total.crashed[how] = total.crashed.get(how, 0) + count
    return total


if __name__ == "__main__":
    main()
