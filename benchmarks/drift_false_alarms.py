"""How often drift is reported where there is none, and how often a planted one is found where it was planted.

    python -m benchmarks.drift_false_alarms [--plants 100] [--write]

**A/A.** Emulated releases that differ in nothing but the seed of their rebuild noise are compared,
at several sizes of noise and numbers of builds. Every output and layer is a comparison; a verdict other than `same`
and `within noise` is a false alarm. Besides, a simulation of the hardest case: errors that are normal with a
deviation of 30 % and 100 %, so that the effect-size floor protects nobody and the noise band stands alone. And once
more with layers observed in one build of three, as those of engines are: they have no noise band, so the floor alone
protects them, and no run's verdict rests on them.

**Plants.** In FP16 releases with rebuild noise, one node of the newer release rounds to BF16. A plant counts if its
effect at its own tensor, measured without noise, is over the effect-size floor. Found means: the drift starts at
that node and nowhere else before it.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.record import record
from benchmarks.spread import no_scheduler
from harness.backends import Observation, Plan
from harness.case import Case, load_cases
from harness.comparison import compare_tensors
from harness.history import DriftOptions, DriftVerdict, Floors, LayerBuilds, drift
from harness.history.api import to_frame
from harness.history.judgement.runs import Pair, compare_pair
from harness.history.judgement.tensors import judge_tensors
from harness.history.matrix.emulated import EmulatedBuild, EmulatedRelease
from harness.history.matrix.options import select_specs
from harness.history.matrix.run import run_matrix
from harness.history.store.files import read_runs
from harness.judge import Workbench
from harness.tensors import Precision

CASES = ("attention", "conv-residual", "lstm", "quantised-conv", "rmsnorm-mlp", "rmsnorm-overflow", "unet")
NOISES = (0.05, 0.2, 1.0)
CALM = (DriftVerdict.SAME, DriftVerdict.WITHIN_NOISE)
PLANT_NOISE = 0.2
NAMES = ("case", "precision", "kind", "tensor", "node", "op")


def false_alarms(
    cases: list[Case], repeats: int, pairs: int, layers: LayerBuilds = LayerBuilds.ALL
) -> list[dict[str, Any]]:
    """A row for each size of noise: comparisons, alarms, runs with an alarm."""
    rows = []
    for noise in NOISES:
        verdicts: Counter[str] = Counter()
        alarmed = runs = 0
        for pair in range(pairs):
            with tempfile.TemporaryDirectory() as folder:
                report = drift(
                    cases,
                    environments=[
                        f"emulator:fp16,noise={noise},seed={2 * pair + place + 1}" for place in (0, 1)
                    ],
                    options=DriftOptions(repeats=repeats, layers=layers),
                    history=folder,
                )
            verdicts.update(report.tensors["verdict"].astype(str))
            runs += len(report.runs)
            alarmed += sum(run.verdict not in CALM for run in report.runs)
        alarms = sum(count for name, count in verdicts.items() if DriftVerdict(name) not in CALM)
        rows.append(
            {
                "noise": noise,
                "builds": repeats,
                "layers_observed": layers.value,
                "comparisons": verdicts.total(),
                "same": verdicts[DriftVerdict.SAME.value],
                "alarms": alarms,
                "rate": alarms / verdicts.total(),
                "runs": runs,
                "runs_alarmed": alarmed,
            }
        )
        print(rows[-1], flush=True)
    return rows


def simulated(builds: int, deviation: float, comparisons: int = 50_000) -> dict[str, Any]:
    """The false-alarm rate of the judgement itself on normal errors of a given relative deviation."""
    stream = np.random.default_rng(builds)
    sides = np.repeat([False, True], builds)
    error = np.abs(1e-2 * (1 + deviation * stream.standard_normal((comparisons, 2 * builds))))
    frame = pd.DataFrame(
        {
            "case": "simulated",
            "precision": "fp16",
            "kind": "layer",
            "tensor": np.repeat(np.arange(comparisons), 2 * builds).astype(str),
            "sample": -1,
            "index": 0,
            "node": "",
            "op": "",
            "build": np.tile(np.arange(2 * builds), comparisons),
            "error": error.ravel(),
            "passed": True,
            "hash": np.arange(error.size).astype(str),
            "distance": 0.0,
        }
    )
    new = np.tile(sides, comparisons)
    judged = judge_tensors(frame, ~new, new, Floors())
    alarms = int((~judged["verdict"].isin(CALM)).sum())
    return {
        "builds": builds,
        "deviation": deviation,
        "comparisons": comparisons,
        "rate": alarms / comparisons,
    }


def plants(cases: list[Case], wanted: int, repeats: int) -> dict[str, Any]:
    """Plant faults until `wanted` are over the floor, and see where each is found."""
    choice = random.Random(1)
    options = DriftOptions(repeats=repeats)
    older = f"emulator:fp16,noise={PLANT_NOISE},seed=1"
    before = {case.name: rows_of(case, older, options) for case in cases}
    benches = {case.name: Workbench(case, memory_budget=1 << 30) for case in cases}
    outcomes: list[dict[str, Any]] = []
    under = tried = 0
    while len(outcomes) < wanted:
        case = choice.choice(cases)
        node = choice.choice([node.name for node in benches[case.name].model.lowerable])
        if any(item["case"] == case.name and item["node"] == node for item in outcomes):
            continue
        tried += 1
        if not over_floor(benches[case.name], node):
            under += 1
            continue
        newer = f"emulator:fp16,noise={PLANT_NOISE},seed={100 + tried},plant={node}@bf16"
        outcomes.append(
            {"case": case.name, "node": node, **found(before[case.name], rows_of(case, newer, options))}
        )
        print(len(outcomes), outcomes[-1], flush=True)
    exact = sum(item["origins"][:1] == [item["node"]] for item in outcomes)
    return {
        "planted": len(outcomes),
        "under_the_floor": under,
        "builds": repeats,
        "noise": PLANT_NOISE,
        "first_origin_is_the_planted_node": exact,
        "among_the_origins": sum(item["node"] in item["origins"] for item in outcomes),
        "drift_reported": sum(bool(item["worse"]) for item in outcomes),
        "further_origins": sum(max(len(item["origins"]) - 1, 0) for item in outcomes),
        "missed": [item for item in outcomes if item["origins"][:1] != [item["node"]]],
    }


def rows_of(case: Case, release: str, options: DriftOptions) -> pd.DataFrame:
    """The rows of all builds of one release."""
    with tempfile.TemporaryDirectory() as folder:
        specs = select_specs([case], [release], [Precision.FP16]) or select_specs([case], [release], [])
        info = run_matrix(specs, [release], options, history=Path(folder))
        return to_frame(read_runs([info]))


def found(old: pd.DataFrame, new: pd.DataFrame) -> dict[str, Any]:
    """Where the drift starts, and how many tensors are worse."""
    both = pd.concat([old.astype(object), new.astype(object)], ignore_index=True).infer_objects()
    after = np.repeat([False, True], [len(old), len(new)])
    compared = compare_pair(both, Pair("old", "new", ~after, after, distances=False), floors=Floors())
    (run,) = compared.runs
    worse = int(compared.tensors["verdict"].isin([DriftVerdict.REGRESSED, DriftVerdict.NEW_FAILURE]).sum())
    return {"origins": [origin.node for origin in run.origins], "worse": worse}


def over_floor(bench: Workbench, node: str) -> bool:
    """Whether the fault at `node` changes the error of a tensor of its own by more than the floor, without noise."""
    plan = Plan(Precision.FP16, observation=Observation.TYPED)
    feeds = bench.feeds[0]
    plain, planted = (
        EmulatedBuild(EmulatedRelease.parse(name), bench.model, 0).evaluate(plan, feeds).tensors
        for name in ("emulator:fp16", f"emulator:fp16,plant={node}@bf16")
    )
    floors = Floors()
    for tensor in bench.model.node(node).outputs:
        if tensor in plain:
            reference = bench.reference.run(feeds, [tensor])[tensor]
            before, after = (compare_tensors(values[tensor], reference).nrmse for values in (plain, planted))
            if after - before > max(floors.relative * before, floors.absolute[Precision.FP16]):
                return True
    return False


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    no_scheduler(parser, "each plant is drawn after the one before it; six minutes in all")
    parser.add_argument("--plants", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=2, help="pairs of releases at each size of noise")
    parser.add_argument("--write", action="store_true", help="keep the result in benchmarks/results")
    arguments = parser.parse_args()
    start = time.perf_counter()
    cases = [case for case in load_cases([Path("cases")]) if case.name in CASES]
    measured = [row for builds in (3, 5) for row in false_alarms(cases, builds, arguments.pairs)]
    once = false_alarms(cases, 3, arguments.pairs, LayerBuilds.FIRST)
    total = sum(row["comparisons"] for row in measured)
    alarms = sum(row["alarms"] for row in measured)
    numbers = {
        "cases": list(CASES),
        "false_alarms": {
            "comparisons": total,
            "alarms": alarms,
            "rate": alarms / total,
            "by_noise": measured,
            "observed_once": once,
            "simulated": [simulated(builds, spread) for builds in (3, 5, 10) for spread in (0.3, 1.0)],
        },
        "plants": plants(cases, arguments.plants, 3),
        "seconds": round(time.perf_counter() - start),
    }
    print(json.dumps(numbers, indent=1))
    if arguments.write:
        print(record("drift_false_alarms", numbers))


if __name__ == "__main__":
    main()
