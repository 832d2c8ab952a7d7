"""What an emulated evaluation costs over the plain FP32 run of the same model, in the same process.

Same session options for all. They are timed in turn, round by round, so that a busy machine disturbs all alike; the
ratio is that of the medians of processor time. Beside it stands what FP16 sums, and with `--kernels` the kernels of an
environment's compiler, cost over the emulation at FP16 without them.
Run: python -m benchmarks.emulator_overhead [--rounds N] [--kernels NAME]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort

from benchmarks.record import record
from benchmarks.spread import no_scheduler
from harness.backends import Assumed
from harness.backends.session import session_options
from harness.case import load_case
from harness.environments import select
from harness.judge import Workbench
from harness.model import save_model
from harness.tensors import Accumulate, Precision

CASES = Path(__file__).parent.parent / "cases"
MODELS = ("rmsnorm-mlp", "resnet50", "whisper-encoder")
PRECISIONS = (Precision.FP16, Precision.BF16, Precision.TF32, Precision.FP8)


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(name: str, rounds: int, folder: Path, kernels: str | None) -> dict[str, object]:
    bench = Workbench(load_case(CASES / f"{name}.case.yaml"), memory_budget=1 << 30)
    feeds = bench.feeds[0]
    path = save_model(bench.model, folder / f"{name}.onnx")
    plain = ort.InferenceSession(path, session_options(), providers=["CPUExecutionProvider"])
    runs: dict[str, Callable[[], object]] = {"plain": lambda: plain.run(None, feeds)}
    for precision in PRECISIONS:
        runs[precision.value] = lambda precision=precision: bench.emulator.run(feeds, precision)
    more = {"FP16 sums": Assumed(Accumulate.FP16)}
    if kernels is not None:
        more["kernels"] = Assumed(compiler=select(kernels))
    for key, assumed in more.items():
        runs[key] = lambda assumed=assumed: bench.emulator_with(assumed).run(feeds, Precision.FP16)
    times: dict[str, list[float]] = {key: [] for key in runs}
    for work in runs.values():
        work()
        work()
    for _ in range(rounds):
        for key, work in runs.items():
            times[key].append(seconds(work))
    medians = {key: statistics.median(values) for key, values in times.items()}
    return {
        "nodes": len(bench.model.nodes),
        "plain_ms": round(medians["plain"] * 1e3, 3),
        "ratio": {
            precision.value: round(medians[precision] / medians["plain"], 2) for precision in PRECISIONS
        },
        "over the emulation at fp16": {key: round(medians[key] / medians[Precision.FP16], 2) for key in more},
    }


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__)
    no_scheduler(parser, "it times what one machine does, which others would disturb")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--kernels", metavar="NAME", help="an environment whose compiler lists kernels")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = {name: measure(name, args.rounds, Path(folder), args.kernels) for name in MODELS}
    for name, row in models.items():
        ratios = f"{row['ratio']}, {row['over the emulation at fp16']}"
        print(f"{name:16} {row['nodes']:5} nodes, plain {row['plain_ms']:9} ms, ratio {ratios}")
    print(record("emulator_overhead", {"models": models, "limit": 2.0}, out=args.out))


if __name__ == "__main__":
    main()
