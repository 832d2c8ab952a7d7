"""The stages on engines: each verdict, with as few builds as promised."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from engines import Build, FakeEngine, Rougher, when_fused, when_lowered
from models import ISLAND, feeds, rmsnorm

from harness.backends import Observation, Plan
from harness.case import BuildOptions, Tolerance
from harness.diagnosis import Diagnosis, DiagnosisBudget, DiagnosisOptions, DiagnosisVerdict, diagnose_model
from harness.errors import CandidateError
from harness.report import diagnosis_markdown as markdown
from harness.report import diagnosis_page as html_page
from harness.tensors import Precision
from harness.worker.protocol import TENSORRT_RTX


def run(engine: FakeEngine, precision: Precision = Precision.FP16, **options: object) -> Diagnosis:
    options.setdefault("engine_for", None)
    return diagnose_model(engine.model, feeds(engine.model), precision, candidate=engine, **options)  # type: ignore[arg-type]


def never(build: Build) -> bool:
    return False


def texts(diagnosis: Diagnosis) -> str:
    return "\n".join(each.text for each in diagnosis.evidence)


def test_an_engine_that_passes_is_none_after_one_build() -> None:
    engine = FakeEngine(rmsnorm(), "b1_up", never)
    diagnosis = run(engine)
    assert diagnosis.verdict is DiagnosisVerdict.NONE
    assert diagnosis.exit_code == 0
    assert engine.builds == diagnosis.cost.builds == 1
    assert diagnosis.culprits == ()


def test_a_fault_that_the_emulator_foresees_takes_three_builds() -> None:
    engine = FakeEngine(rmsnorm(scale=600.0), "b1_up", never)
    diagnosis = run(engine)
    assert diagnosis.verdict is DiagnosisVerdict.PRECISION
    assert diagnosis.culprits == ISLAND
    assert diagnosis.confirmed
    assert not diagnosis.minimal  # nobody left them out on the engine,
    assert diagnosis.minimal_on == "emulator"  # but on the emulator
    assert diagnosis.faithful is True
    assert [origin.node for origin in diagnosis.origins] == ["b1_sq"]
    assert "beyond 65504" in diagnosis.origins[0].why
    assert engine.builds == diagnosis.cost.builds == 3
    kinds = [(bool(plan.islands), plan.observation) for plan in engine.plans]
    assert kinds == [(False, Observation.NONE), (True, Observation.NONE), (False, Observation.TYPED)]


def test_the_emulator_is_asked_while_the_first_engine_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    emulation, gates, cures = (
        sys.modules[f"harness.diagnosis.{name}"]
        for name in ("context.emulation", "stages.gates", "stages.cures.emulator")
    )

    class Slow(FakeEngine):
        def build_ahead(self, plan: Plan, feeds: object, *, certain: bool = False) -> bool:
            return True

    engine = Slow(rmsnorm(scale=600.0), "b1_up", never)

    for module, name in (
        (emulation, "_introduced_errors"),
        (gates, "check_stability"),
        (cures, "cure_on_emulator"),
    ):
        work = getattr(module, name)

        def watched(
            *given: object, called: str = name, work: Callable[..., object] = work, **more: object
        ) -> object:
            asked.append((called, engine.builds))
            return work(*given, **more)

        monkeypatch.setattr(module, name, watched)
    assert run(engine).culprits
    assert dict(reversed(asked)) == {"_introduced_errors": 0, "check_stability": 0, "cure_on_emulator": 0}
    assert len({name for name, _ in asked}) == len(asked), "and once"
    asked.clear()
    run(FakeEngine(rmsnorm(), "b1_up", never))
    assert asked == [], "an emulator that passes foresees nothing"
    engine = FakeEngine(rmsnorm(scale=600.0), "b1_up", never)
    run(engine)
    assert dict(reversed(asked))["cure_on_emulator"] == 1, "nothing is searched in vain where nobody waits"


def prebuilding(kind: type[FakeEngine], building: bool) -> type[FakeEngine]:
    """Engines of `kind` that note what a second process is asked for, and how many were built by then."""

    class Prebuilding(kind):  # type: ignore[misc,valid-type]
        def __post_init__(self) -> None:
            super().__post_init__()
            self.asked: list[tuple[Plan | None, int]] = []

        def build_ahead(self, plan: Plan, feeds: object, *, certain: bool = False) -> bool:
            return building

        def start_second(self) -> None:
            self.asked.append((None, self.builds))

        def prebuild(self, plan: Plan, feeds: object) -> None:
            self.asked.append((plan, self.builds))

    return Prebuilding


def test_the_engine_with_the_island_is_built_beside_the_first_one() -> None:
    make = prebuilding(FakeEngine, building=True)
    engine = make(rmsnorm(scale=600.0), "b1_up", never)
    diagnosis = run(engine)
    assert engine.asked == [(None, 0), *[(engine.plans[1], 0)] * 2], (
        "as soon as it cures, and when it is the least"
    )
    assert engine.plans[1].islands == frozenset(ISLAND)
    assert (engine.builds, diagnosis.cost.builds) == (3, 3)


@pytest.mark.parametrize(
    ("scale", "building", "builds"), [(1.0, True, None), (600.0, False, None), (600.0, True, 2)]
)
def test_nothing_is_built_beside_the_first_one(scale: float, building: bool, builds: int | None) -> None:
    """Where the emulator passes, where nobody waits for an engine, and where no build would be left to observe it."""
    engine = prebuilding(FakeEngine, building)(rmsnorm(scale=scale), "b1_up", never)
    run(engine, budget=DiagnosisBudget(builds=builds))
    assert engine.asked == []


def test_the_list_of_layers_names_those_of_the_engine(tmp_path: Path) -> None:
    engine = FakeEngine(rmsnorm(), "b1_up", when_lowered("b1_up"))
    run(engine, out=tmp_path)
    (row,) = json.loads((tmp_path / "layers.json").read_text())["fp32"]
    assert row["node"] == "b1_up"
    assert row["engine_layers"] == ["layer b1_up"]


def test_what_is_left_of_the_error_is_that_of_the_engine() -> None:
    engine = Rougher(rmsnorm(scale=600.0), "b1_up", never, factor=1.25)
    diagnosis = run(engine)
    assert diagnosis.after_on == "fake"
    assert diagnosis.after is not None
    emulated = {(row.tensor, row.sample): row.metrics.nrmse for row in diagnosis.after.outputs}
    for row in diagnosis.to_dict()["outputs"]:
        assert row["before"]["passed"] is False
        left = emulated[row["tensor"], row["sample"]]
        assert row["after"]["nrmse"] == pytest.approx(1.25 * left, rel=1e-3)
    assert diagnosis.to_dict()["after_on"] == "fake"
    assert "After: fake with the culprits in FP32." in markdown(diagnosis)
    assert "After: fake with the culprits in FP32." in html_page(diagnosis)


def test_the_engine_with_what_overflows_in_fp32_is_begun_while_nothing_less_is_shown_to_cure() -> None:
    begun: list[Plan] = []

    class Begun(FakeEngine):
        def build_ahead(self, plan: Plan, feeds: object, *, certain: bool = False) -> bool:
            begun.append(plan)
            return False

    engine = Begun(rmsnorm(scale=600.0), "b1_up", never)
    diagnosis = run(engine)
    assert frozenset(diagnosis.culprits) == begun[-1].islands
    assert begun[-1] in engine.plans  # it is what is built next
    begun.clear()
    diagnosis = run(Begun(rmsnorm(), "b1_up", never), tolerances=GATE)
    # Of errors that add up nobody knows the island before it is found.
    assert [plan.islands for plan in begun] == [frozenset(), frozenset(diagnosis.culprits)]


def test_the_engine_that_fails_is_looked_at_while_the_one_with_the_island_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    observation = sys.modules["harness.diagnosis.stages.observation"]
    compared, measure = [], observation.measure_layers

    class Slow(FakeEngine):
        def build_ahead(self, plan: Plan, feeds: object, *, certain: bool = False) -> bool:
            return True

    model = rmsnorm(scale=600.0)
    between = frozenset(model.float_tensors[::3])
    engine = Slow(model, "b1_up", never, product=TENSORRT_RTX, typing="strong", between=between)

    def watched(*given: object, **more: object) -> object:
        compared.append([plan.observation for plan in engine.plans if plan.islands])
        return measure(*given, **more)

    monkeypatch.setattr(observation, "measure_layers", watched)
    assert run(engine).culprits == ISLAND
    kinds = [(bool(plan.islands), plan.observation) for plan in engine.plans]
    assert kinds == [(False, Observation.NONE), (False, Observation.DEBUG), (True, Observation.NONE)]
    assert compared == [[]], "once, before the island is judged"


def test_minimality_is_proved_on_the_engine_when_it_is_asked_for() -> None:
    engine = FakeEngine(rmsnorm(scale=600.0), "b1_up", never)
    diagnosis = run(engine, options=DiagnosisOptions(prove=True))
    assert diagnosis.culprits == ISLAND
    assert diagnosis.minimal
    assert diagnosis.minimal_on == "candidate"
    assert engine.builds == 3 + len(ISLAND)


def test_the_engine_has_the_last_word_over_the_emulator() -> None:
    # The engine computes a node wrongly at FP16 that the emulator finds nothing wrong with, besides the overflow.
    engine = FakeEngine(rmsnorm(scale=600.0), "b2_gain", when_lowered("b2_gain"))
    diagnosis = run(engine)
    assert diagnosis.verdict is DiagnosisVerdict.PRECISION
    assert set(diagnosis.culprits) == {*ISLAND, "b2_gain"}
    assert diagnosis.confirmed
    assert diagnosis.cost.builds == engine.builds


def test_an_island_that_the_engine_fuses_with_its_neighbours_is_widened() -> None:
    # The emulator's island is not enough: what reads it must be in FP32, too, or the engine computes it in FP16.
    def wrong(build: Build) -> bool:
        plan = build.plan
        return plan.precision is Precision.FP16 and not plan.islands >= {*ISLAND, "b1_norm", "b1_gain"}

    engine = FakeEngine(rmsnorm(scale=600.0), "b1_gain", wrong)
    diagnosis = run(engine)
    assert diagnosis.verdict is DiagnosisVerdict.PRECISION
    assert set(diagnosis.culprits) >= {*ISLAND, "b1_norm", "b1_gain"}
    assert len(diagnosis.culprits) <= 8
    assert diagnosis.confirmed
    assert engine.builds <= 7


def test_an_engine_that_does_not_heed_the_island_is_distinguished_from_one_that_does() -> None:
    # The product stays in FP16 whatever is asked, unless the builder is put off its fusion somewhere else.
    def wrong(build: Build) -> bool:
        plan = build.plan
        return plan.precision is Precision.FP16 and "b0_relu" not in plan.islands

    class Deaf(FakeEngine):
        def evaluate(self, plan, sample, **more):  # type: ignore[no-untyped-def]
            plan = dataclasses.replace(plan, islands=plan.islands - set(ISLAND))
            return super().evaluate(plan, sample, **more)

    model = rmsnorm(scale=600.0)
    engine = Deaf(model, "b1_sq", wrong, rounds=False)
    diagnosis = run(engine)
    assert diagnosis.verdict is DiagnosisVerdict.PRECISION
    assert diagnosis.culprits == ("b0_relu",)
    assert diagnosis.confirmed
    assert [origin.node for origin in diagnosis.origins] == ["b1_sq"]
    assert "with b1_sq, b1_mean, b1_addeps, b1_sqrt kept in FP32" in texts(diagnosis)
    assert "although the error does not start there" in diagnosis.summary


def test_tensors_of_an_island_are_not_marked_in_a_format_that_they_overflow() -> None:
    engine = FakeEngine(rmsnorm(scale=600.0), "b2_gain", when_lowered("b2_gain"))
    run(engine)
    (observed,) = [plan for plan in engine.plans if plan.observation is Observation.TYPED]
    assert observed.islands == set(ISLAND)
    assert not observed.marks.intersection(ISLAND)  # tensors are called as their nodes
    assert len(observed.marks) == len(engine.model.float_tensors) - len(ISLAND)


def test_a_large_island_is_pruned_on_the_engine() -> None:
    # Two more nodes must be in FP32, far from the overflow, unsuspected, and hidden from observation.
    hidden = {"b0_relu", "b2_relu"}

    def wrong(build: Build) -> bool:
        plan = build.plan
        if plan.observation is not Observation.NONE:
            return False
        return plan.precision is Precision.FP16 and not plan.islands >= hidden

    engine = FakeEngine(rmsnorm(scale=600.0), "b2_relu", wrong)
    diagnosis = run(engine)
    assert diagnosis.verdict is DiagnosisVerdict.PRECISION
    assert diagnosis.confirmed
    assert set(diagnosis.culprits) == {*ISLAND, *hidden}
    assert diagnosis.minimal
    assert diagnosis.minimal_on == "candidate"


def test_a_fault_of_the_engine_alone_is_found_by_what_was_observed() -> None:
    engine = FakeEngine(rmsnorm(), "b1_up", when_lowered("b1_up"))
    diagnosis = run(engine)
    assert diagnosis.verdict is DiagnosisVerdict.PRECISION
    assert diagnosis.culprits == ("b1_up",)
    assert diagnosis.confirmed
    assert diagnosis.minimal
    assert [origin.node for origin in diagnosis.origins] == ["b1_up"]
    assert "the emulator passes" in texts(diagnosis)
    assert "built 2 times, it fails 2 times" in texts(diagnosis)
    assert (
        engine.builds == 7
    )  # unobserved, FP32, observed, again, with the island; and the two ends once more


def test_a_fault_of_two_fused_layers_is_cured_by_one_mark() -> None:
    engine = FakeEngine(rmsnorm(), "b1_up", when_fused("b1_up", "b1_up"))
    diagnosis = run(engine)
    assert diagnosis.verdict is DiagnosisVerdict.FUSION
    assert [each.tensor for each in diagnosis.separations] == ["b1_up"]
    assert diagnosis.culprits == ("b1_up", "b1_relu")
    assert diagnosis.confirmed
    assert diagnosis.faithful is False
    assert "b1_up" in diagnosis.advice[0]
    assert engine.builds <= 4 + 8


def test_wrong_in_fp32_is_a_conversion_and_the_first_tensor_is_named() -> None:
    engine = FakeEngine(rmsnorm(), "b1_down", lambda build: True)
    diagnosis = run(engine)
    assert diagnosis.verdict is DiagnosisVerdict.CONVERSION
    assert [origin.node for origin in diagnosis.origins] == ["b1_down"]
    assert not diagnosis.confirmed  # nobody built it alone
    assert engine.builds == 3


def test_a_wrong_conversion_is_confirmed_by_its_node_alone() -> None:
    model = rmsnorm()
    engine = FakeEngine(model, "b1_down", lambda build: True)
    diagnosis = run(engine, engine_for=lambda part: FakeEngine(part, "b1_down", lambda build: True))
    assert diagnosis.verdict is DiagnosisVerdict.CONVERSION
    assert diagnosis.culprits == ("b1_down",)
    assert diagnosis.confirmed
    assert diagnosis.cost.builds == 4


def test_a_wrong_conversion_is_found_by_prefixes_where_marks_break_the_build() -> None:
    engine = FakeEngine(
        rmsnorm(),
        "b1_down",
        lambda build: True,
        breaks=lambda plan: plan.observation is Observation.TYPED,
    )
    diagnosis = run(engine)
    assert diagnosis.verdict is DiagnosisVerdict.CONVERSION
    assert [origin.node for origin in diagnosis.origins] == ["b1_down"]
    assert "could not be observed" in texts(diagnosis)


def test_right_without_tf32_is_tf32(tmp_path: Path) -> None:
    build = BuildOptions(tf32=True)
    engine = FakeEngine(rmsnorm(), "b1_up", lambda build: bool(build.plan.build.tf32))
    diagnosis = run(engine, Precision.FP32, build=build, out=tmp_path)
    assert diagnosis.verdict is DiagnosisVerdict.TF32
    assert diagnosis.confirmed
    assert "noTF32" in diagnosis.recipes["trtexec"]


def test_builds_that_differ_with_their_tactics_follow_the_tactic() -> None:
    def tactic(build: Build) -> str:
        return "bad" if build.number % 3 == 1 else "good"

    engine = FakeEngine(
        rmsnorm(),
        "b1_up",
        lambda build: build.plan.precision is Precision.FP16 and tactic(build) == "bad",
        tactics=tactic,
    )
    diagnosis = run(engine)
    assert diagnosis.verdict is DiagnosisVerdict.TACTIC
    assert diagnosis.culprits == ()
    assert all(plan.observation is Observation.NONE for plan in engine.plans), "nothing slow was built for it"
    facts = next(each.facts for each in diagnosis.evidence if "differing" in each.facts)
    assert facts["differing"] == {"layer b1_up": ["passes with good", "fails with bad"]}


@pytest.mark.parametrize("tactics", [None, lambda build: "the same"])
def test_builds_that_differ_without_a_reason_are_nondeterministic(tactics) -> None:  # type: ignore[no-untyped-def]
    engine = FakeEngine(
        rmsnorm(),
        "b1_up",
        lambda build: build.plan.precision is Precision.FP16 and build.number % 3 == 1,
        tactics=tactics,
    )
    diagnosis = run(engine)
    assert diagnosis.verdict is DiagnosisVerdict.NONDETERMINISTIC
    assert diagnosis.culprits == ()
    facts = next(
        each.facts for each in diagnosis.evidence if "passes" in each.facts and "fails" in each.facts
    )
    assert facts["passes"] >= 1
    assert facts["fails"] >= 1


def test_an_engine_that_differs_from_run_to_run_is_nondeterministic() -> None:
    runs = 0

    def wrong(build: Build) -> bool:
        nonlocal runs
        runs += 1
        return build.plan.precision is Precision.FP16 and runs % 2 == 1

    engine = FakeEngine(rmsnorm(), "b1_up", wrong)
    diagnosis = run(engine)
    assert diagnosis.verdict is DiagnosisVerdict.NONDETERMINISTIC
    assert diagnosis.culprits == ()


def test_a_flaky_engine_never_gets_a_made_up_culprit() -> None:
    verdicts = []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        fails: dict[int, bool] = {}

        def wrong(build: Build, rng: np.random.Generator = rng, fails: dict[int, bool] = fails) -> bool:
            return (
                fails.setdefault(build.number, rng.random() < 0.5) and build.plan.precision is Precision.FP16
            )

        diagnosis = run(FakeEngine(rmsnorm(blocks=2), "b1_up", wrong))
        assert diagnosis.culprits == (), seed
        verdicts.append(diagnosis.verdict)
    assert set(verdicts) <= {
        DiagnosisVerdict.NONE,
        DiagnosisVerdict.NONDETERMINISTIC,
        DiagnosisVerdict.UNRESOLVED,
    }
    assert DiagnosisVerdict.NONDETERMINISTIC in verdicts


def test_a_budget_that_is_too_small_says_what_is_known_and_how_to_go_on() -> None:
    engine = FakeEngine(rmsnorm(), "b1_up", when_lowered("b1_up"))
    diagnosis = run(engine, budget=DiagnosisBudget(builds=4))
    assert diagnosis.verdict is DiagnosisVerdict.UNRESOLVED
    assert diagnosis.exit_code == 4
    assert engine.builds <= 4
    assert diagnosis.culprits == ()
    assert any("--resume --max-builds 8" in line for line in diagnosis.advice)
    assert any("b1_up" in line for line in diagnosis.advice)


def test_an_answer_within_the_budget_stands_although_it_was_not_observed() -> None:
    engine = FakeEngine(rmsnorm(scale=600.0), "b1_up", never)
    diagnosis = run(engine, budget=DiagnosisBudget(builds=2))
    assert diagnosis.verdict is DiagnosisVerdict.PRECISION
    assert diagnosis.culprits == ISLAND
    assert diagnosis.confirmed
    assert diagnosis.faithful is None
    assert engine.builds == 2


def test_a_fault_that_nothing_cures_is_unresolved() -> None:
    # Wrong in every build at FP16, also with all nodes in FP32 but for the FP32 engine itself; and it repeats.
    engine = FakeEngine(
        rmsnorm(),
        "b1_up",
        lambda build: build.plan.precision is Precision.FP16 and build.plan.observation is Observation.NONE,
        breaks=lambda plan: plan.observation is Observation.TYPED and bool(plan.marks),
    )
    diagnosis = run(engine, budget=DiagnosisBudget(builds=40))
    assert diagnosis.verdict in (DiagnosisVerdict.UNRESOLVED, DiagnosisVerdict.PRECISION)
    assert engine.builds <= 40


def test_a_worker_that_dies_costs_an_evaluation_and_not_the_answer() -> None:
    expected = run(FakeEngine(rmsnorm(), "b1_up", when_lowered("b1_up"))).to_dict()
    count = FakeEngine(rmsnorm(), "b1_up", when_lowered("b1_up"))
    run(count)
    for step in range(1, count.evaluations + 1):
        engine = FakeEngine(rmsnorm(), "b1_up", when_lowered("b1_up"), crashes=frozenset({step}))
        answer = run(engine).to_dict()
        for key in ("verdict", "culprits", "origins", "confirmed", "minimal", "recipes"):
            assert answer[key] == expected[key], (step, key)


def test_an_engine_that_cannot_be_built_is_no_fault_but_an_error() -> None:
    engine = FakeEngine(rmsnorm(), "b1_up", never, breaks=lambda plan: True)
    with pytest.raises(CandidateError, match="no implementation") as raised:
        run(engine)
    assert raised.value.exit_code == 3
    assert raised.value.evidence == ("[E] no implementation",)


def test_what_the_island_costs_is_measured_where_engines_can_be_timed() -> None:
    engine = FakeEngine(rmsnorm(scale=600.0), "b1_up", never)
    diagnosis = run(engine)
    assert diagnosis.price is not None
    assert diagnosis.price.before_ms == 1.0
    assert diagnosis.price.ratio == pytest.approx(1.4)
    assert run(engine, options=DiagnosisOptions(timed=False)).price is None


GATE = (Tolerance(precision="fp16", nrmse=3e-4),)  # missed by half, and by no node alone


@pytest.mark.parametrize("factor", [0.9, 1.1, 1.25, 1.5])
def test_an_accumulated_error_takes_four_builds_where_the_engine_rounds_much_rougher(factor: float) -> None:
    engine = Rougher(rmsnorm(), "b1_up", never)
    engine.factor = factor
    diagnosis = run(engine, tolerances=GATE)
    assert diagnosis.verdict is DiagnosisVerdict.PRECISION
    assert diagnosis.confirmed
    assert len(diagnosis.culprits) >= 2
    assert engine.builds == diagnosis.cost.builds == (3 if factor < 1.15 else 4)
    assert diagnosis.minimal_on is None  # the margin is more than the gate asks for
    if factor > 1.15:
        assert "of its limit, the unobserved engine passes" in texts(diagnosis)
