"""Tactics on real engines: recorded, replayed, forbidden, compared by their outputs, and searched for when one is bad.

Needs a harness.toml with an environment on a GPU. Run: python -m benchmarks.tactics --env NAME --out FILE.json

Parts, of each case in FP16, one case after the other; the file is written after every build:

`repeats`  builds that differ in nothing but timing noise: what is offered, what changes, what the inspector tells
`replay`   how many of the choices that TensorRT exposes come back when they are forced, and which kinds do not
`forbid`   whether a forbidden choice is avoided
`planted`  one implementation of one layer is declared bad: engines that were built with it have their outputs
           falsified afterwards (`benchmarks.planted_tactic`); the hunt must name it; up to three such layers
`natural`  how far the outputs move when one layer at a time takes another implementation

A part that is not begun, or is stopped, when the allowed seconds are over says so.
"""

from __future__ import annotations

import argparse
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.planted_tactic import Plant, alternatives, choosy, falsified, is_planted, plant_in
from benchmarks.record import RESULTS, record
from benchmarks.spread import no_scheduler
from benchmarks.tactics_table import PARTS, table
from harness.backends import Computed, Evaluation, Plan, TensorRTCandidate
from harness.case import load_case
from harness.diagnosis import Subject, badness
from harness.environments import close_shared, select
from harness.errors import HarnessError
from harness.judge import Candidates, Workbench, profiles_of
from harness.search import Outcome
from harness.tactics import (
    Axis,
    Sample,
    TacticRecord,
    Variation,
    VariedBuilds,
    brief,
    builds_for,
    collect,
    compare_builds,
    find_bad_tactics,
    forced,
    noise,
    record_of,
)
from harness.tactics.repeats import RepeatedBuild
from harness.tactics.samples import ALTERNATIVES, FORCED_BUILDS
from harness.tactics.units import reformatted_layer
from harness.tensors import Precision, to_json
from harness.worker.protocol import Choice, EngineFacts, TacticOrders

CASES = Path(__file__).parent.parent / "cases"
BUILDS, REPLAYS, FORBIDDEN, PLANTED, SWAPPED = 3, 2, 2, 3, 6
MOST_NAMES = 12


class TimeIsUpError(Exception):
    """The allowed seconds are over."""


@dataclass
class Desk:
    """One case in one environment.

    Args:
        environment: its name.
        case: name of a bundled case, or a case file.
        save: keeps what there is so far.
        parts: what came of each part so far.
    """

    environment: str
    case: str
    save: Callable[[], object]
    parts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        path = Path(self.case) if self.case.endswith(".yaml") else CASES / f"{self.case}.case.yaml"
        self.bench = Workbench(load_case(path), memory_budget=1 << 30)
        self.candidate = self.make_candidate()
        self.plan = Plan(Precision.FP16, build=self.bench.case.build)
        self.subject = Subject(self.bench, Precision.FP16, self.candidate)
        self.samples: list[Sample] = []
        """The builds of `repeats`, judged."""
        self.began = self.deadline = 0.0
        self.made = 0

    def warm_up(self) -> float:
        """Build once, so that no part pays for the kernels that the process loads; the seconds that it took."""
        start = time.perf_counter()
        self.candidate.evaluate(self.plan, self.bench.feeds[0])
        return time.perf_counter() - start

    def begin(self, seconds: float) -> None:
        """Allow so many seconds from now on."""
        self.began = time.perf_counter()
        self.deadline = self.began + seconds

    def make_candidate(self) -> TensorRTCandidate:
        """A candidate with engines of its own."""
        environment = select(self.environment, Candidates().environments)
        return TensorRTCandidate(environment, self.bench.model, profiles=profiles_of(self.bench.case))

    def check_time(self) -> None:
        """Raise TimeIsUpError if the time is up."""
        if time.perf_counter() > self.deadline:
            raise TimeIsUpError

    def as_many(self, wanted: int, least: int = 1) -> int:
        """How often to build, at the pace so far: `least`, if a build takes more than a 20th of the time."""
        now = time.perf_counter()
        pace = (now - self.began) / max(self.made, 1)
        return wanted if pace * 20 < self.deadline - self.began else least

    def build(self, variation: Variation) -> tuple[Evaluation, TacticRecord]:
        """One build, run on the first sample."""
        self.check_time()
        plan = variation.of(self.plan, alternatives=ALTERNATIVES)
        evaluation = self.candidate.evaluate(plan, self.bench.feeds[0])
        noted = record_of(evaluation, plan, self.bench.model.sha256)
        assert noted is not None, "the engine reports no tactics"
        self.made += 1
        return evaluation, noted

    def judge(self, tensors: Mapping[str, np.ndarray], sample: int = 0) -> float:
        """How far the worst gate is beyond its limit."""
        return badness(self.subject.judge(Computed(tensors), sample, self.plan))

    # --- parts: each yields what it has so far, as often as there is something new ---------------------------------

    def repeats(self) -> Iterator[dict[str, Any]]:
        """Builds that differ in nothing but timing noise."""
        builds: list[RepeatedBuild] = []
        made = []
        for variation in noise(BUILDS):
            start = time.perf_counter()
            evaluation, noted = self.build(variation)
            seconds = time.perf_counter() - start
            self.samples.append(self._sample(variation.name, evaluation, noted, seconds))
            builds.append(RepeatedBuild((dict(evaluation.tensors),), noted, evaluation.engine))
            made.append({"seconds": seconds, "build_seconds": evaluation.facts.build_seconds})
            if len(builds) == 1:
                self.recorded, self.expected = noted, dict(evaluation.tensors)
                self.kinds = {layer.name: str(layer.kind) for layer in evaluation.facts.layers}
                first = self._noted(noted)
            several = to_json(compare_builds(builds)) if len(builds) > 1 else None
            yield {**first, "repeats": several, "builds": made}
            if len(builds) >= self.as_many(BUILDS, 2):
                return

    def _noted(self, noted: TacticRecord) -> dict[str, Any]:
        report, names = noted.report, [choice.layer for choice in noted.choices]
        untold = [kind for name, kind in self.kinds.items() if name not in names]
        alone = [choice for choice in noted.choices if not alternatives(noted, choice)]
        return {
            "mechanism": report.mechanism,
            "choices_exposed": len(report.choices),
            "implementations_offered": report.offered,
            "engine_layers": len(self.kinds),
            "engine_layers_without_a_choice": dict(Counter(untold)),
            "choices_without_an_engine_layer": _few([name for name in names if name not in self.kinds]),
            "choices_without_an_alternative": dict(Counter(self._kind(choice) for choice in alone)),
            "confirmed_by_inspector": report.confirmed,
            "contradicted_by_inspector": list(report.contradicted),
            "problems": _few(report.problems),
            "flags": list(report.flags),
            "choices": [self._row(choice) for choice in report.choices],
        }

    def replay(self) -> Iterator[dict[str, Any]]:
        """Every recorded choice forced."""
        found = []
        for number in range(1, self.as_many(REPLAYS) + 1):
            evaluation, noted = self.build(_forced(f"replay {number}", self.recorded.choices, number=number))
            missed = [miss for miss in noted.report.misses if miss.order == "force"]
            found.append(
                {
                    "taken": sum(noted.takes(choice) for choice in self.recorded.choices),
                    "of": len(self.recorded.choices),
                    "missed": [{**self._row(miss.choice), "why": miss.why} for miss in missed],
                    "missed_kinds": dict(Counter(self._kind(miss.choice) for miss in missed)),
                    "new_layers": _few(
                        {c.layer for c in noted.choices} - {c.layer for c in self.recorded.choices}
                    ),
                    "confirmed_by_inspector": noted.report.confirmed,
                    "contradicted_by_inspector": list(noted.report.contradicted),
                    "outputs": self._distances(evaluation),
                    "build_seconds": evaluation.facts.build_seconds,
                }
            )
            yield {"replays": found}

    def forbid(self) -> Iterator[dict[str, Any]]:
        """A choice forbidden at one layer, everything else left to TensorRT."""
        found = []
        for number, choice in enumerate(_spread(choosy(self.recorded), self.as_many(FORBIDDEN)), start=100):
            orders = TacticOrders(forbid=(choice,), number=number)
            evaluation, noted = self.build(Variation(f"forbid {number}", Axis.FORCED, orders=orders))
            now = noted.by_place.get(choice.place, ())
            found.append(
                {
                    **self._row(choice),
                    "avoided": bool(now) and not noted.takes(choice),
                    "taken_instead": [brief([each]) for each in now],
                    "why_not": [miss.why for miss in noted.report.misses],
                    "contradicted_by_inspector": list(noted.report.contradicted),
                    "build_seconds": evaluation.facts.build_seconds,
                }
            )
            yield {"forbidden": found}

    def planted(self) -> Iterator[dict[str, Any]]:
        """Choices of the first build are declared bad, one after the other, and looked for."""
        having = choosy(self.recorded)
        if not having:
            yield {"skipped": "no layer has an alternative that could be taken instead"}
        found: list[dict[str, Any]] = []
        for bad in _spread(having, PLANTED):
            start = time.perf_counter()
            if found and self.deadline - start < 2 * found[-1]["seconds"]:
                return
            row = {**self._row(bad), "layers_with_alternatives": len(having)}
            try:
                found.append({**row, **self._hunt(bad), "seconds": time.perf_counter() - start})
            except TimeIsUpError:
                yield {"planted": [*found, {**row, "stopped": "the allowed seconds were over"}]}
                raise
            yield {"planted": list(found)}

    def _hunt(self, bad: Choice) -> dict[str, Any]:
        """Look for a bad choice: first in the builds there are, then in more."""
        candidate = plant_in(self.make_candidate(), Plant(bad))
        made = VariedBuilds(
            candidate.evaluate, self.plan, self.bench.feeds, self.judge, self.bench.model.sha256
        )
        progress: list[dict[str, Any]] = []

        def build(variation: Variation) -> Sample:
            self.check_time()
            sample = made(variation)
            progress.append(
                {"build": sample.name, "outcome": sample.outcome.value, "seconds": sample.seconds}
            )
            if sample.note:
                progress[-1]["note"] = sample.note
            self.parts["under way"] = {"layer": bad.layer, "builds": progress}
            self.save()
            return sample

        try:
            start = time.perf_counter()
            known = [self._poisoned(sample, bad) for sample in self.samples]
            series = forced(self.recorded, FORCED_BUILDS)
            samples = collect(build, lambda _: series, known)
            sampled = time.perf_counter() - start
            found = find_bad_tactics(build, samples)
        finally:
            candidate.close()
            self.parts.pop("under way", None)
        named = [(unit.bad[0].place, unit.bad[0].variant) for unit in found.culprits]
        return {
            "finding": found.verdict.value,
            "right": named == [(bad.place, bad.variant)],
            "named": [unit.layer for unit in found.culprits],
            "promised_builds": builds_for(found.differing),
            "further_samples": len(samples) - len(known),
            "sample_seconds": sampled,
            "search_seconds": time.perf_counter() - start - sampled,
            "made": progress,
            **to_json(found),
        }

    def natural(self) -> Iterator[dict[str, Any]]:
        """One layer at a time takes another implementation, all others the recorded ones."""
        found = []
        for number, choice in enumerate(_spread(choosy(self.recorded), SWAPPED), start=200):
            other = alternatives(self.recorded, choice)[0]
            force = tuple(other if each is choice else each for each in self.recorded.choices)
            evaluation, noted = self.build(_forced(f"swap {number}", force, number=number))
            found.append(
                {
                    **self._row(choice),
                    "swapped_to": brief([other]),
                    "honoured": noted.takes(other),
                    "others_kept": sum(noted.takes(each) for each in force if each is not other),
                    "of_others": len(force) - 1,
                    "outputs": self._distances(evaluation),
                    "badness": self.judge(evaluation.tensors),
                    "build_seconds": evaluation.facts.build_seconds,
                }
            )
            yield {"swapped": found}

    # --- samples and rows -----------------------------------------------------------------------------------------

    def _sample(self, name: str, evaluation: Evaluation, noted: TacticRecord, seconds: float) -> Sample:
        worst = self.judge(evaluation.tensors)
        outcome = Outcome.PASS if worst <= 1 else Outcome.FAIL
        return Sample(name, Axis.NOISE, outcome, noted, worst, seconds)

    def _poisoned(self, sample: Sample, bad: Choice) -> Sample:
        """What a build would have come to, had the choice been bad then."""
        if not is_planted(sample.record, bad):
            return sample
        worst = self.judge(falsified(Evaluation(self.expected, EngineFacts())).tensors)
        return replace(sample, outcome=Outcome.PASS if worst <= 1 else Outcome.FAIL, badness=worst)

    def _distances(self, evaluation: Evaluation) -> dict[str, dict[str, Any]]:
        return {name: self._distance(name, value) for name, value in evaluation.tensors.items()}

    def _distance(self, name: str, value: np.ndarray) -> dict[str, Any]:
        """How far an output is from the first build's."""
        expected = self.expected[name].astype(np.float64)
        difference = value.astype(np.float64) - expected
        rms = float(np.sqrt(np.mean(np.square(expected))))
        return {
            "identical": bool(np.array_equal(value, self.expected[name])),
            "max_abs": float(np.abs(difference).max()),
            "nrmse": float(np.sqrt(np.mean(np.square(difference)))) / rms if rms else 0.0,
        }

    def _kind(self, choice: Choice) -> str:
        copy = "copy between formats" if reformatted_layer(choice.layer) is not None else "not in the engine"
        return self.kinds.get(choice.layer, copy)

    def _row(self, choice: Choice) -> dict[str, Any]:
        return {
            "layer": choice.layer,
            "kind": self._kind(choice),
            "onnx_nodes": list(choice.onnx_nodes),
            "choice": brief([choice]),
            "formats": [
                f"{form.dtype} {form.layout or ''}".strip() for form in (*choice.inputs, *choice.outputs)
            ],
            "milliseconds": choice.milliseconds,
            "alternatives_told": len(alternatives(self.recorded, choice)),
        }


def _forced(name: str, choices: Sequence[Choice], *, number: int) -> Variation:
    return Variation(name, Axis.FORCED, orders=TacticOrders(force=tuple(choices), number=number))


def _spread(choices: Sequence[Choice], most: int) -> list[Choice]:
    """As many of them, spread over all."""
    step = max(len(choices) / most, 1.0)
    return [choices[int(index * step)] for index in range(min(most, len(choices)))]


def _few(names: Any) -> list[str]:
    every = sorted(map(str, names))
    more = [f"… {len(every) - MOST_NAMES} more"] if len(every) > MOST_NAMES else []
    return [*islice(every, MOST_NAMES), *more]


def run(
    environments: Sequence[str],
    cases: Sequence[str],
    parts: Sequence[str],
    seconds: float,
    save: Callable[[dict[str, Any]], object],
) -> dict[str, Any]:
    """Every part of every case in every environment, until the time is up; `save` is called after every build."""
    numbers: dict[str, Any] = {"runs": []}
    started = time.perf_counter()
    pairs = [(environment, case) for environment in environments for case in cases]
    for place, (environment, case) in enumerate(pairs, start=1):
        entry: dict[str, Any] = {"environment": environment, "case": case}
        numbers["runs"].append(entry)
        # The last case must have its share of the time, whatever the first one takes.
        _carry_out(entry, parts, started + seconds, len(pairs) + 1 - place, lambda: save(numbers))
        numbers["seconds"] = time.perf_counter() - started
        save(numbers)
    return numbers


def _carry_out(
    entry: dict[str, Any], parts: Sequence[str], end: float, left: int, save: Callable[[], object]
) -> None:
    try:
        desk = Desk(entry["environment"], entry["case"], save, entry)
        entry["fingerprint"] = asdict(desk.candidate.fingerprint())
        entry["warm_up_seconds"] = desk.warm_up()
        sources = desk.candidate.requests.options(desk.plan).tactic_sources
        entry["tactic_sources"] = None if sources is None else [source.value for source in sources]
        desk.begin((end - time.perf_counter()) / left)
    except HarnessError:
        entry["error"] = traceback.format_exc()
        print(entry["error"], flush=True)
        return
    for name in dict.fromkeys(["repeats", *parts]):  # all others rest on what it records
        begun = time.perf_counter()
        said = ""
        try:
            for part in getattr(desk, name)():
                entry[name] = {**part, "seconds": time.perf_counter() - begun}
                save()
        except TimeIsUpError:
            said = "stopped: the time is up"
            entry.setdefault(name, {})["stopped"] = "the allowed seconds were over"
        except Exception:  # the other parts are worth having
            said = traceback.format_exc().strip().splitlines()[-1]
            entry.setdefault(name, {})["error"] = traceback.format_exc()
        took = time.perf_counter() - begun
        print(f"{entry['environment']} {entry['case']} {name}: {took:.0f} s {said}", flush=True)
        save()
        if name == "repeats" and not hasattr(desk, "recorded"):
            break
    desk.candidate.close()


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, keep, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    no_scheduler(parser, "it asks the engines of this machine's GPU")
    parser.add_argument("--env", action="append", required=True)
    parser.add_argument("--case", action="append", help="a bundled case by name, or a case file")
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--seconds", type=float, default=220.0, help="begin no build after that")
    parser.add_argument("--out", type=Path, default=RESULTS / "tactics.json", metavar="FILE")
    args = parser.parse_args(arguments)
    cases = args.case or ["conv-residual", "rmsnorm-mlp"]
    numbers = run(
        args.env,
        cases,
        args.part or PARTS,
        args.seconds,
        lambda numbers: record("tactics", numbers, out=args.out),
    )
    close_shared()
    for line in table(numbers):
        print(line)
    return numbers


if __name__ == "__main__":
    main()
