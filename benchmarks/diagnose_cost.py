"""What a whole diagnosis costs on the emulator, in inferences of the same model.

Start to finish: from the ONNX protobuf to the answer, sessions, reference, stability, layers and search included,
without the files that can be handed over. One inference is a plain FP32 run of one sample by ONNX Runtime, with the
same session options. The two are timed in turn, so that a busy machine disturbs both alike; medians, on the wall and
in processor time, which other processes disturb less.

Run: python -m benchmarks.diagnose_cost [--rounds N] [--case NAME]…
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import astuple, dataclass
from pathlib import Path

import onnx
import onnxruntime as ort

from benchmarks.record import record
from benchmarks.spread import no_scheduler
from harness.backends.session import session_options
from harness.case import Case, load_case, make_feeds, resolve_model
from harness.diagnosis import Diagnosis, diagnose_model
from harness.model import load_model
from harness.tensors import Precision

CASES = Path(__file__).parent.parent / "cases"
NAMES = ("rmsnorm-overflow", "rmsnorm-underflow", "softmax-overflow", "attention-overflow", "conv-overflow")
LIMIT = 300
RUNS = 20  # inferences a round: one alone is too short to be timed


@dataclass(frozen=True)
class Spent:
    """Seconds on the wall, and of the processor's time over all threads."""

    wall: float
    processor: float

    @classmethod
    def now(cls) -> Spent:
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.wall - other.wall, self.processor - other.processor)


def proto_of(case: Case) -> onnx.ModelProto:
    model = resolve_model(case)
    return onnx.load(model) if isinstance(model, Path) else model


def measure(name: str, rounds: int) -> dict[str, object]:
    case = load_case(CASES / f"{name}.case.yaml")
    proto = proto_of(case)
    model = load_model(proto, name=name)
    feeds = make_feeds(case, model.inputs)
    plain = ort.InferenceSession(
        proto.SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
    )
    plain.run(None, feeds[0])
    inferences: list[Spent] = []
    diagnoses: list[Spent] = []
    diagnosis: Diagnosis | None = None
    for _ in range(rounds):
        start = Spent.now()
        for _ in range(RUNS):
            plain.run(None, feeds[0])
        inferences.append(Spent.now() - start)
        start = Spent.now()
        diagnosis = diagnose_model(load_model(proto, name=name), feeds, Precision.FP16)
        diagnoses.append(Spent.now() - start)
    assert diagnosis is not None
    one = Spent(*(statistics.median(each) / RUNS for each in zip(*map(astuple, inferences), strict=True)))
    whole = Spent(*(statistics.median(each) for each in zip(*map(astuple, diagnoses), strict=True)))
    return {
        "nodes": len(model.nodes),
        "samples": len(feeds),
        "verdict": diagnosis.verdict.value,
        "culprits": list(diagnosis.culprits),
        "emulations": diagnosis.cost.emulations,
        "inference_ms": round(one.wall * 1e3, 3),
        "diagnosis_ms": round(whole.wall * 1e3, 1),
        "inferences": round(whole.wall / one.wall, 1),
        "inferences_in_processor_time": round(whole.processor / one.processor, 1),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    no_scheduler(parser, "it times what one machine does, which others would disturb")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--case", action="append", help="name of a bundled case; may be repeated")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    models = {name: measure(name, args.rounds) for name in args.case or NAMES}
    for name, row in models.items():
        print(
            f"{name:20} {row['nodes']:4} nodes  one inference {row['inference_ms']:8} ms  diagnosis "
            f"{row['diagnosis_ms']:8} ms = {row['inferences']} inferences "
            f"({row['inferences_in_processor_time']} in processor time), {row['emulations']} emulations"
        )
    print(record("diagnose_cost", {"models": models, "limit": LIMIT}, out=args.out))


if __name__ == "__main__":
    main()
