"""Tactics on real engines: recorded, replayed, forbidden, told apart by their outputs, and hunted when one is bad.

Needs a harness.toml with environments on a GPU. Run: python -m benchmarks.tactics --env NAME [--env NAME] [--out DIR]

Parts, each kept as it ends: `survey` (builds that differ in nothing: what is offered, what changes, whether the
inspector tells the same tactics), `replay` (how many of the recorded choices come back, and which kinds of layers do
not), `forbid` (whether a forbidden choice is avoided), `outputs` (how far other tactics move the outputs), `planted`
(one implementation of one layer is declared bad: engines that were built with it have their outputs falsified
afterwards; the hunt must name it), `diagnosis` (`harness diagnose` on that case, its JSON in tactics-diagnosis.json).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record as keep
from harness.backends import Evaluation, Observation, Plan
from harness.backends.tensorrt import TensorRTCandidate
from harness.case import load_case
from harness.diagnose.subject import Subject, badness
from harness.judge.candidates import Candidates, profiles_of
from harness.judge.workbench import Workbench
from harness.tactics import (
    TacticRecord,
    VariedBuilds,
    build_repeatedly,
    builds_for,
    collect,
    compare_builds,
    find_bad_tactics,
    record_of,
    usual_series,
)
from harness.tactics.findings import brief
from harness.tactics.units import reformatted_layer
from harness.tensors.files import write_text
from harness.tensors.precision import Precision
from harness.worker.choices import Choice, TacticOrders

CASES = Path(__file__).parent.parent / "cases"
PARTS = ("survey", "replay", "forbid", "outputs", "planted", "diagnosis")
FEWER = ("survey", "replay", "forbid", "planted")
BUILDS, REPLAYS, FORBIDDEN, SWAPPED = 3, 2, 2, 4
ALTERNATIVES = 8
KICK = 0.5
"""By what share of its root mean square the output of a planted engine is falsified."""


class PlantedCandidate(TensorRTCandidate):
    """Engines of which those are wrong that were built with one certain choice: their outputs are falsified."""

    bad: Choice | None = None

    def evaluate(self, plan: Plan, feeds: Mapping[str, np.ndarray]) -> Evaluation:
        if self.bad is None:
            return super().evaluate(plan, feeds)
        recorded = replace(plan, tactics=plan.tactics or TacticOrders())
        evaluation = super().evaluate(recorded, feeds)
        told = record_of(evaluation, recorded, self.model.sha256)
        if told is None or not told.takes(self.bad) or plan.observation is not Observation.NONE:
            return evaluation
        tensors = {name: _falsified(value) for name, value in evaluation.tensors.items()}
        return replace(evaluation, tensors=tensors)


def _falsified(value: np.ndarray) -> np.ndarray:
    if value.dtype.kind != "f":
        return value
    return value + np.asarray(KICK * np.sqrt(np.mean(np.square(value, dtype=np.float64))), value.dtype)


@dataclass
class Desk:
    """One case in one environment.

    Args:
        environment: its name.
        case: name of a bundled case, or a case file.
        out: where a diagnosis is written.
    """

    environment: str
    case: str
    out: Path
    numbers: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        path = Path(self.case) if self.case.endswith(".yaml") else CASES / f"{self.case}.case.yaml"
        self.bench = Workbench(load_case(path), memory_budget=1 << 30)
        self.candidate = self.planted(None, Candidates())
        self.plan = Plan(Precision.FP16, build=self.bench.case.build)
        self.subject = Subject(self.bench, Precision.FP16, self.candidate)

    def planted(self, bad: Choice | None, candidates: Candidates) -> PlantedCandidate:
        """A candidate in whose engines `bad` is wrong."""
        made = PlantedCandidate(
            candidates.environments[self.environment], self.bench.model, profiles=profiles_of(self.bench.case)
        )
        made.bad = bad
        return made

    def build(self, **orders: Any) -> tuple[Evaluation, TacticRecord]:
        """One build with orders, run on the first sample."""
        plan = replace(self.plan, tactics=TacticOrders(**orders))
        evaluation = self.candidate.evaluate(plan, self.bench.feeds[0])
        told = record_of(evaluation, plan, self.bench.model.sha256)
        assert told is not None, "the engine tells no tactics"
        return evaluation, told

    # --- parts ----------------------------------------------------------------------------------------------------

    def survey(self) -> dict[str, Any]:
        """Builds that differ in nothing but timing noise."""
        start = time.perf_counter()
        arguments = (
            self.candidate.evaluate,
            self.plan,
            self.bench.feeds[:1],
            self.bench.model.sha256,
            BUILDS,
        )
        builds = list(build_repeatedly(*arguments, alternatives=ALTERNATIVES))
        seconds = time.perf_counter() - start
        repeats = compare_builds(builds)
        self.recorded, self.expected = repeats.records[0], builds[0].outputs[0]
        self.kinds = {layer["name"]: str(layer["kind"]) for layer in builds[0].facts["layers"]}
        report = self.recorded.report
        return {
            "mechanism": report.mechanism,
            "layers": len(report.choices),
            "engine_layers": len(self.kinds),
            "offered": report.offered,
            "confirmed_by_inspector": report.confirmed,
            "contradicted_by_inspector": list(report.contradicted),
            "problems": list(report.problems),
            "repeats": repeats.to_dict(),
            "seconds": seconds,
            "build_seconds": [build.facts["build_seconds"] for build in builds],
            "choices": [self._row(choice) for choice in report.choices],
        }

    def replay(self) -> dict[str, Any]:
        """Every recorded choice forced."""
        found = []
        for number in range(1, REPLAYS + 1):
            evaluation, told = self.build(force=self.recorded.choices, number=number)
            missed = [miss for miss in told.report.misses if miss.order == "force"]
            found.append(
                {
                    "taken": sum(told.takes(choice) for choice in self.recorded.choices),
                    "of": len(self.recorded.choices),
                    "missed": [{**self._row(miss.choice), "why": miss.why} for miss in missed],
                    "missed_kinds": dict(Counter(self._kind(miss.choice) for miss in missed)),
                    "new_layers": len(set(told.by_place) - set(self.recorded.by_place)),
                    "confirmed_by_inspector": told.report.confirmed,
                    "contradicted_by_inspector": list(told.report.contradicted),
                    "identical_outputs": all(
                        np.array_equal(value, self.expected[name])
                        for name, value in evaluation.tensors.items()
                    ),
                    "build_seconds": evaluation.facts["build_seconds"],
                }
            )
        return {"replays": found}

    def forbid(self) -> dict[str, Any]:
        """A choice forbidden at one layer, everything else left to TensorRT."""
        found = []
        for number, choice in enumerate(self._choosy()[:FORBIDDEN], start=100):
            evaluation, told = self.build(forbid=(choice,), number=number)
            now = told.by_place.get(choice.place, ())
            found.append(
                {
                    **self._row(choice),
                    "avoided": bool(now) and not told.takes(choice),
                    "taken_instead": [brief([each]) for each in now],
                    "why_not": [miss.why for miss in told.report.misses],
                    "build_seconds": evaluation.facts["build_seconds"],
                }
            )
        return {"forbidden": found}

    def outputs(self) -> dict[str, Any]:
        """One layer at a time takes another implementation, all others the recorded ones."""
        found = []
        for number, choice in enumerate(self._choosy()[:SWAPPED], start=200):
            other = self._alternatives(choice)[0]
            force = tuple(other if each is choice else each for each in self.recorded.choices)
            evaluation, told = self.build(force=force, number=number)
            found.append(
                {
                    **self._row(choice),
                    "swapped_to": brief([other]),
                    "honoured": told.takes(other),
                    "others_kept": sum(told.takes(each) for each in force if each is not other),
                    "of_others": len(force) - 1,
                    "outputs": {
                        name: self._distance(name, value) for name, value in evaluation.tensors.items()
                    },
                    "build_seconds": evaluation.facts["build_seconds"],
                }
            )
        return {"swapped": found}

    def _distance(self, name: str, value: np.ndarray) -> dict[str, float]:
        expected = self.expected[name].astype(np.float64)
        difference = value.astype(np.float64) - expected
        rms = float(np.sqrt(np.mean(np.square(expected))))
        return {
            "max_abs": float(np.abs(difference).max()),
            "nrmse": float(np.sqrt(np.mean(np.square(difference)))) / rms if rms else 0.0,
        }

    def hunt(self) -> dict[str, Any]:
        """A choice that every build so far has made, or most, is declared bad, and looked for."""
        bad = self.bad_choice()
        candidate = self.planted(bad, Candidates())
        build = VariedBuilds(
            candidate.evaluate, self.plan, self.bench.feeds, self._judge, self.bench.model.sha256
        )
        start = time.perf_counter()
        samples = collect(build, usual_series(candidate.supervisor.probe(), self.plan, noisy=2))
        sampled = time.perf_counter() - start
        found = find_bad_tactics(build, samples)
        seconds = [sample.seconds for sample in samples if sample.seconds is not None]
        return {
            "planted": self._row(bad),
            "named": [unit.name for unit in found.culprits],
            "right": [unit.bad[0].variant for unit in found.culprits] == [bad.variant]
            and [unit.bad[0].place for unit in found.culprits] == [bad.place],
            "within": builds_for(found.differing),
            "sample_seconds": sampled,
            "search_seconds": time.perf_counter() - start - sampled,
            "median_sample_seconds": statistics.median(seconds) if seconds else None,
            **found.to_dict(),
        }

    def diagnosis(self) -> dict[str, Any]:
        """`harness diagnose` with the same choice declared bad."""
        from harness.diagnose import diagnose
        from harness.judge import Judge

        # What is diagnosed is the engine that is built with the timing cache; its choice must be the bad one.
        place = self.bad_choice().place
        _, told = self.build()
        desk, bad = self, told.by_place[place][0]

        class Planting(Candidates):
            def _engine(self, name: str, bench: Workbench) -> PlantedCandidate:
                return desk.planted(bad, self)

        start = time.perf_counter()
        with Judge(candidates=Planting()) as judge:
            answer = diagnose(
                self.bench.case,
                precision=Precision.FP16,
                environment=self.environment,
                judge=judge,
                out=self.out / f"tactics-diagnosis-{self.environment}",
            )
        write_text(self.out / "tactics-diagnosis.json", json.dumps(answer.to_dict(), indent=1) + "\n")
        return {
            "planted": self._row(bad),
            "verdict": answer.verdict.value,
            "summary": answer.summary,
            "culprits": list(answer.culprits),
            "cost": answer.cost.to_dict(),
            "evidence": [each.text for each in answer.evidence],
            "seconds": time.perf_counter() - start,
        }

    # --- choices --------------------------------------------------------------------------------------------------

    def bad_choice(self) -> Choice:
        """The recorded choice in the middle of the layers that have alternatives."""
        choosy = self._choosy()
        assert choosy, "no layer has an alternative"
        return choosy[len(choosy) // 2]

    def _choosy(self) -> list[Choice]:
        """The recorded choices that have alternatives, those first that can be swapped without changing formats."""
        own = [each for each in self.recorded.choices if reformatted_layer(each.layer) is None]
        having = [each for each in own if self._alternatives(each)]
        return sorted(having, key=lambda each: not self._alike(each, self._alternatives(each)[0]))

    def _alternatives(self, choice: Choice) -> list[Choice]:
        here = [other for other in self.recorded.alternatives if other.place == choice.place]
        return sorted(here, key=lambda other: not self._alike(choice, other))

    @staticmethod
    def _alike(choice: Choice, other: Choice) -> bool:
        return (choice.inputs, choice.outputs) == (other.inputs, other.outputs)

    def _kind(self, choice: Choice) -> str:
        copy = "copy between formats" if reformatted_layer(choice.layer) is not None else "unknown"
        return self.kinds.get(choice.layer, copy)

    def _row(self, choice: Choice) -> dict[str, Any]:
        return {
            "layer": choice.layer,
            "kind": self._kind(choice),
            "onnx_nodes": list(choice.onnx_nodes),
            "choice": brief([choice]),
            "milliseconds": choice.milliseconds,
        }

    def _judge(self, tensors: Mapping[str, np.ndarray], sample: int) -> float:
        return badness(self.subject.judge(tensors, sample, self.plan))


def run(
    environments: Sequence[str],
    cases: Sequence[str],
    parts: Sequence[str] | None,
    out: Path,
    seconds: float,
    save: Callable[[dict[str, Any]], object],
) -> dict[str, Any]:
    """Every part of every case in every environment, until the time is up."""
    numbers: dict[str, Any] = {"runs": []}
    started = time.perf_counter()
    for place, (environment, case) in enumerate((env, case) for env in environments for case in cases):
        entry: dict[str, Any] = {"environment": environment, "case": case}
        numbers["runs"].append(entry)
        desk = None
        wanted = parts or (PARTS if place == 0 else FEWER)
        for name in dict.fromkeys(["survey", *wanted]):  # all others rest on what it records
            if time.perf_counter() - started > seconds:
                entry[name] = {"skipped": f"the {seconds:g} seconds that are allowed are over"}
                continue
            begun = time.perf_counter()
            try:
                desk = desk or Desk(environment, case, out)
                entry[name] = {"planted": desk.hunt}.get(name, getattr(desk, name, None))()
            except Exception:  # the other parts are worth having
                entry[name] = {"error": traceback.format_exc()}
            took = time.perf_counter() - begun
            print(f"{environment} {case} {name}: {took:.0f} s", flush=True)
            print(json.dumps({**entry[name], "choices": "…"}, default=str)[:1500], flush=True)
            if desk is not None:
                entry["fingerprint"] = dict(desk.candidate.fingerprint())
            save(numbers)
    numbers["seconds"] = time.perf_counter() - started
    save(numbers)
    return numbers


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", action="append", required=True)
    parser.add_argument("--case", action="append", help="a bundled case by name, or a case file")
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--seconds", type=float, default=240.0, help="begin no part after that")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args(arguments)
    cases = args.case or ["conv-residual", "rmsnorm-mlp"]
    return run(
        args.env,
        cases,
        args.part,
        args.out,
        args.seconds,
        lambda numbers: keep("tactics", numbers, out=args.out / "tactics.json"),
    )


if __name__ == "__main__":
    main()
