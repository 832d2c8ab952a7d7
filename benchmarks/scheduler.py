"""Runs on the workers of a scheduler beside runs in one process: throughput, start-up, and workers that are killed.

    python -m benchmarks.scheduler [--turns 3] [--out FILE]
    python -m benchmarks.scheduler --traffic [--out FILE]      what a drift sends through the command

Everything is one machine: workers are processes with one thread of ONNX Runtime each.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.record import record
from benchmarks.spread import no_scheduler
from harness.cluster import OnStage, Unit, open_cluster
from harness.history import DriftOptions

MODELS = '''"""Transformer-like blocks, seeded."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def blocks(seed, layers=24, width=256, rows=128):
    rng = np.random.default_rng(seed)
    nodes, constants, last = [], [], "x"
    for index in range(layers):
        weight = (rng.standard_normal((width, width)) / np.sqrt(width)).astype(np.float32)
        constants.append(numpy_helper.from_array(weight, f"w{index}"))
        for op, inputs, output in (
            ("MatMul", [last, f"w{index}"], f"product{index}"),
            ("Tanh", [f"product{index}"], f"bent{index}"),
            ("Add", [last, f"bent{index}"], f"sum{index}"),
        ):
            nodes.append(helper.make_node(op, inputs, [output], output))
        last = f"sum{index}"
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, width]) for name in ("x", last))
    graph = helper.make_graph(nodes, "blocks", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
'''
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")


def write_cases(folder: Path, count: int, arguments: str = "") -> Path:
    """So many cases, each at four precisions."""
    folder.mkdir()
    (folder / "models.py").write_text(MODELS)
    for seed in range(count):
        (folder / f"blocks-{seed:03}.case.yaml").write_text(
            f"model: {{builder: models:blocks, args: {{seed: {seed}{arguments}}}}}\nruns: [{', '.join(PRECISIONS)}]\n"
        )
    return folder


@contextmanager
def cluster(workers: int) -> Iterator[Any]:
    """A scheduler with so many workers, which are replaced when they die, however slowly."""
    import dask
    import distributed

    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "120s"}),
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
        ) as made,
    ):
        yield made


def clean(document: Any) -> Any:
    """A JSON document without times."""
    if isinstance(document, dict):
        return {key: clean(value) for key, value in document.items() if key != "timings"}
    return [clean(item) for item in document] if isinstance(document, list) else document


def throughput(folder: Path, turns: int) -> dict[str, Any]:
    """Seconds of the same runs on one worker and on two, in turn."""
    import harness

    cases, warm = write_cases(folder / "many", 10), write_cases(folder / "warm", 2)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    started: list[float] = []
    resident = 0.0
    for _ in range(turns):
        for workers in (1, 2):
            begun = time.perf_counter()
            with cluster(workers) as made:
                harness.run(warm, scheduler=made.scheduler_address)
                started.append(time.perf_counter() - begun)
                begun = time.perf_counter()
                report = harness.run(cases, scheduler=made.scheduler_address)
                seconds[workers].append(time.perf_counter() - begun)
                assert len(report.results) == 40
                pids = [worker.pid for worker in made.workers.values()]
                resident = max(resident, *(rss(pid) for pid in pids))
    begun = time.perf_counter()
    here = harness.run(cases)
    return {
        "runs": len(here.results),
        "turns": turns,
        "seconds_one_worker": seconds[1],
        "seconds_two_workers": seconds[2],
        "seconds_in_this_process": time.perf_counter() - begun,
        "ratio_of_best": min(seconds[1]) / min(seconds[2]),
        "ratio_of_medians": statistics.median(seconds[1]) / statistics.median(seconds[2]),
        "seconds_to_start_and_run_8": started,
        "peak_mb_a_worker": resident,
        "peak_mb_here": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "load_average": os.getloadavg(),
    }


def rss(pid: int) -> float:
    """The peak of a process in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM"))


def killed(folder: Path, every: int) -> dict[str, Any]:
    """200 runs on two workers, one of which is killed after every so many: the results, and those of one process."""
    import harness

    cases = write_cases(folder / "small", 50, ", layers: 4, width: 64, rows: 16")
    here = harness.run(cases)
    deaths = finished = 0
    with cluster(2) as made:

        def follow(event: Any) -> None:
            nonlocal deaths, finished
            finished += event.kind == "done"
            if event.kind == "done" and finished % every == 0 and finished < 200:
                pids = [worker.pid for worker in made.workers.values() if worker.pid]
                if pids:
                    os.kill(pids[deaths % len(pids)], signal.SIGKILL)
                    deaths += 1

        begun = time.perf_counter()
        there = harness.run(cases, scheduler=made.scheduler_address, progress=follow)
        seconds = time.perf_counter() - begun
    return {
        "runs": len(there.results),
        "killed": deaths,
        "equal": clean(there.to_dict()) == clean(here.to_dict()),
        "passed": sum(result.verdict == "pass" for result in there.results),
        "errors": sum(result.verdict == "error" for result in there.results),
        "seconds": seconds,
    }


@dataclass(frozen=True)
class Nothing(Unit["Nowhere", int]):
    """A unit that does nothing: what remains is what handing it out costs."""

    number: int
    title = subject = "nothing"
    files = ()
    desk = None

    def open(self) -> Nowhere:
        return Nowhere()

    def carry_out(self, desk: Nowhere, stage: OnStage) -> int:
        return self.number


class Nowhere:
    def close(self) -> None:
        """Nothing is open."""


def handing_out(count: int) -> dict[str, Any]:
    """Seconds of so many units that do nothing, on two workers."""
    with cluster(2) as made, open_cluster(made.scheduler_address) as workers:
        [workers.submit(Nothing(number)) for number in range(20)][-1].result()
        begun, cpu = time.perf_counter(), time.process_time()
        futures = [workers.submit(Nothing(number)) for number in range(count)]
        assert [future.result() for future in futures] == list(range(count))
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    return {
        "units": count,
        "seconds": seconds,
        "cpu_seconds_of_the_command": cpu,
        "units_a_second": count / seconds,
    }


@dataclass
class Relay:
    """A door to a scheduler that counts the bytes that go through it, each way.

    Args:
        address: of the scheduler.
        sent: bytes to it.
        received: bytes from it.
    """

    address: str
    sent: int = 0
    received: int = 0
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    @property
    def door(self) -> str:
        """The address to use instead of the scheduler's."""
        return f"tcp://127.0.0.1:{self.listener.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self.listener.close()

    def _accept(self) -> None:
        host, _, port = self.address.removeprefix("tcp://").rpartition(":")
        with suppress(OSError):  # closed
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection((host, int(port)))
                for ends in ((near, far, "sent"), (far, near, "received")):
                    threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, count: str) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 20):
                setattr(self, count, getattr(self, count) + len(data))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def traffic(folder: Path, made: Any) -> dict[str, Any]:
    """What a drift of two releases and three builds sends and gets through the command, where tensors are large."""
    import harness

    cases = write_cases(folder / "large", 2, ", layers: 6, width: 256, rows: 2048")
    releases = ["emulator:fp16", "emulator:fp16,seed=1"]
    with Relay(made.scheduler_address) as relay:
        report = harness.drift(
            cases, environments=releases, precisions=["fp16"], history=folder / "h", scheduler=relay.door
        )
    # by case: every product, tanh and sum of float32, and the output once more, as it is without observation
    recorded = 2 * (3 * 6 + 1) * 2048 * 256 * 4
    return {
        "parts": len(report.runs),
        "builds": len(report.runs) * len(releases) * DriftOptions().repeats,
        "first_builds_mb": recorded / 1e6,
        "sent_mb": relay.sent / 1e6,
        "received_mb": relay.received / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    no_scheduler(parser, "it starts schedulers and workers of its own, and times them")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument(
        "--traffic", action="store_true", help="measure what a drift sends through the command"
    )
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    os.environ["HARNESS_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        if asked.traffic:
            with cluster(2) as made:
                found = traffic(Path(folder), made)
            print(found)
            record("drift_traffic", found, out=asked.out, module="scheduler")
            return
        numbers = {}
        for name, measure in (
            ("handing_out", lambda: handing_out(2000)),
            ("killed", lambda: killed(Path(folder), 20)),
            ("throughput", lambda: throughput(Path(folder), asked.turns)),
        ):
            numbers[name] = measure()
            print(name, numbers[name], flush=True)
    record("scheduler", numbers, out=asked.out)


if __name__ == "__main__":
    main()
