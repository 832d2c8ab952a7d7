"""How fast and in how much memory tensors are compared, beside polygraphy's SimpleCompareFunc.

Throughput: the same pairs of float32 tensors, alternately through both, all metrics on; GB/s count both tensors of
a pair. Ratios are of one run, so what else the machine does weighs on both. Memory: a child process compares two
memory-mapped tensors of 1 GB and reports the most memory that it ever held.

Slices: the same compare with and without sums over slices, in turn, on tensors of about 100,000 elements and one of
4 million; ratios of processor time.

Run: python -m benchmarks.compare_throughput [--rounds N] [--slices] [--out FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record
from benchmarks.spread import no_scheduler
from harness.comparison import Accumulator, CompareOptions, compare_tensors

PAIRS = 8
SHAPE = (4096, 1024)
SHORT_REPEATS = 5
TARGET_RATIO = 20
TARGET_MEGABYTES = 128
TARGET_SLICES = 1.3
SLICED = ((1, 64, 40, 40), (100, 1024), (1, 12, 92, 92), (197, 512), (8, 3, 64, 64), (1, 256, 20, 20), SHAPE)
Pair = tuple[np.ndarray, np.ndarray]

_CHILD = r"""
import re, sys
import numpy as np
from harness.comparison import compare_tensors
shape = (int(sys.argv[3]) // 4096, 1024)
candidate, reference = (np.memmap(path, np.float32, "r", shape=shape) for path in sys.argv[1:3])
metrics = compare_tensors(candidate, reference)
assert metrics.count == candidate.size and metrics.max_abs > 0
# ru_maxrss would begin with what the parent held when it forked.
print(re.search(r"VmHWM:\s*(\d+) kB", open("/proc/self/status").read())[1])
"""


def make_pairs(count: int, noise: float = 1e-4) -> list[Pair]:
    """Seeded candidate and reference tensors: normal values, and an error like that of half precision."""
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(count):
        reference = rng.standard_normal(SHAPE, dtype=np.float32)
        candidate = reference + np.float32(noise) * rng.standard_normal(SHAPE, dtype=np.float32)
        pairs.append((candidate, reference))
    return pairs


def with_harness(pairs: list[Pair]) -> None:
    for candidate, reference in pairs:
        compare_tensors(candidate, reference)


def with_accumulator(pairs: list[Pair]) -> None:
    sums = Accumulator()
    for candidate, reference in pairs:
        sums.update(candidate, reference)
    sums.result()


def polygraphy_runner(pairs: list[Pair]) -> Callable[[], None]:
    from polygraphy.comparator import IterationResult, SimpleCompareFunc

    def result(index: int, name: str) -> IterationResult:
        return IterationResult({f"t{i}": pair[index] for i, pair in enumerate(pairs)}, runner_name=name)

    candidate, reference, function = result(0, "candidate"), result(1, "reference"), SimpleCompareFunc()

    def run() -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            function(candidate, reference)

    return run


def timed(function: Callable[[], None]) -> tuple[float, float]:
    """Seconds on the wall, and of this process on the processors."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure_throughput(rounds: int) -> dict[str, Any]:
    """Alternate between the contenders, so that all see the same machine; ratios are those of the medians.

    A round takes the short contenders several times, as one of them is over before the load of the machine evens
    out. Other processes lengthen the seconds on the wall, and less so those on the processors: both are kept.
    """
    pairs = make_pairs(PAIRS)
    gigabytes = sum(c.nbytes + r.nbytes for c, r in pairs) / 1e9
    contenders = {
        "harness": lambda: with_harness(pairs),
        "harness_accumulator": lambda: with_accumulator(pairs),
        "polygraphy": polygraphy_runner(pairs),
    }
    with_harness(pairs[:1])
    load = os.getloadavg()[0]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, function in contenders.items():
            repeats = 1 if name == "polygraphy" else SHORT_REPEATS
            times[name] += [timed(function) for _ in range(repeats)]
        print(f"round {number + 1}: " + ", ".join(f"{name} {t[-1][0]:.3f} s" for name, t in times.items()))
    wall = {name: statistics.median(seconds for seconds, _ in taken) for name, taken in times.items()}
    cpu = {name: statistics.median(seconds for _, seconds in taken) for name, taken in times.items()}
    return {
        "pairs": PAIRS,
        "shape": list(SHAPE),
        "dtype": "float32",
        "load_average": {"before": round(load, 2), "after": round(os.getloadavg()[0], 2)},
        "seconds": {name: [round(seconds, 4) for seconds, _ in taken] for name, taken in times.items()},
        "cpu_seconds": {name: [round(seconds, 4) for _, seconds in taken] for name, taken in times.items()},
        "gigabytes_per_second": {name: round(gigabytes / seconds, 3) for name, seconds in wall.items()},
        "ratio": round(wall["polygraphy"] / wall["harness"], 1),
        "cpu_ratio": round(cpu["polygraphy"] / cpu["harness"], 1),
        "target_ratio": TARGET_RATIO,
    }


def measure_slices(rounds: int) -> dict[str, Any]:
    """What judging slices costs over judging the whole tensor alone, by shape."""
    rng = np.random.default_rng(0)
    found: dict[str, float] = {}
    for shape in SLICED:
        reference = rng.standard_normal(shape, dtype=np.float32)
        candidate = reference + np.float32(1e-3) * rng.standard_normal(shape, dtype=np.float32)
        taken: dict[float | None, list[float]] = {None: [], 0.4: []}
        for _ in range(rounds * (2 if shape == SHAPE else 20)):
            for floor, seconds in taken.items():
                options = CompareOptions(slice_floor=floor)
                started = time.thread_time()
                compare_tensors(candidate, reference, dtype="float16", options=options)
                seconds.append(time.thread_time() - started)
        found["x".join(map(str, shape))] = round(
            statistics.median(taken[0.4]) / statistics.median(taken[None]), 3
        )
    return {"ratios": found, "largest_ratio": max(found.values()), "target_ratio": TARGET_SLICES}


def measure_memory(gigabytes: float) -> dict[str, Any]:
    """The largest resident memory of a process that compares two memory-mapped tensors."""
    size = int(gigabytes * 1e9) // 4096 * 4096
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("candidate.bin", "reference.bin")]
        with paths[0].open("wb") as candidate, paths[1].open("wb") as reference:
            for _ in range(0, size, 1 << 24):
                values = rng.standard_normal(1 << 22, dtype=np.float32)
                reference.write(values.tobytes())
                candidate.write((values * np.float32(1.0001)).tobytes())
        command = [sys.executable, "-c", _CHILD, *map(str, paths), str(size)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {
        "bytes_of_each_tensor": size,
        "peak_megabytes": round(int(done.stdout) * 1024 / 1e6, 1),
        "target_megabytes": TARGET_MEGABYTES,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    no_scheduler(parser, "it times what one machine does, which others would disturb")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender runs")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of each memory-mapped tensor")
    parser.add_argument("--out", type=Path, help="where to write the result instead of benchmarks/results")
    parser.add_argument("--slices", action="store_true", help="only what slices cost: compare_slices.json")
    options = parser.parse_args()
    if options.slices:
        slices = measure_slices(options.rounds)
        print(slices, record("compare_slices", slices, out=options.out, module="compare_throughput"))
        return int(slices["largest_ratio"] > TARGET_SLICES)
    throughput, memory = measure_throughput(options.rounds), measure_memory(options.gigabytes)
    slices = measure_slices(options.rounds)
    numbers = {
        "polygraphy": version("polygraphy"),
        "throughput": throughput,
        "slices": slices,
        "memory": memory,
    }
    path = record("compare_throughput", numbers, out=options.out)
    print(f"{throughput['ratio']} times polygraphy's throughput, at least {TARGET_RATIO} asked for")
    print(f"{memory['peak_megabytes']} MB at most, {TARGET_MEGABYTES} MB allowed; written to {path}")
    print(f"with slices {slices['largest_ratio']} times the time at most, {TARGET_SLICES} allowed")
    return int(
        throughput["ratio"] < TARGET_RATIO
        or memory["peak_megabytes"] > TARGET_MEGABYTES
        or slices["largest_ratio"] > TARGET_SLICES
    )


if __name__ == "__main__":
    sys.exit(main())
