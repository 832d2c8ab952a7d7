"""From what was shown to the kind of fault; what was not shown is unresolved."""

from __future__ import annotations

import itertools
import json
import math
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
from graphs import graph_model
from models import feeds, rmsnorm
from onnx import TensorProto, helper

from harness.backends import Assumed
from harness.case import Tolerance
from harness.comparison import GateResult
from harness.diagnosis import (
    Context,
    DiagnosisBudget,
    DiagnosisVerdict,
    Effects,
    Evaluator,
    Subject,
    badness,
    diagnose_model,
    explain_nodes,
    inherited,
)
from harness.diagnosis.context import (
    JudgedEvaluation,
    Seen,
    Spending,
    introduced_errors,
    make_bench,
    nearby,
    outliers,
)
from harness.diagnosis.context.effects import _shared_out
from harness.diagnosis.explain import find_origins_of
from harness.diagnosis.stages import (
    RESERVE,
    Symptoms,
    check_gates,
    decide,
    judge_builds,
    next_share,
    predict,
)
from harness.errors import BudgetExhaustedError, UsageError
from harness.judge import LayerResult, OutputResult
from harness.model import load_model
from harness.search import Outcome, SearchOptions, Trial
from harness.tensors import Accumulate, Precision, from_json, to_json

FP16 = Precision.FP16


@pytest.mark.parametrize(
    ("shown", "verdict"),
    [
        (Symptoms(FP16, repeats=DiagnosisVerdict.TACTIC, island_cures=True), DiagnosisVerdict.TACTIC),
        (
            Symptoms(FP16, repeats=DiagnosisVerdict.NONDETERMINISTIC, passes_in_fp32=False),
            DiagnosisVerdict.NONDETERMINISTIC,
        ),
        (Symptoms(FP16, passes_in_fp32=False, emulator_fails=True), DiagnosisVerdict.CONVERSION),
        (Symptoms(Precision.FP32, passes_in_fp32=False), DiagnosisVerdict.CONVERSION),
        (Symptoms(Precision.FP32, passes_in_fp32=True), DiagnosisVerdict.TF32),
        (Symptoms(Precision.TF32, passes_in_fp32=True), DiagnosisVerdict.TF32),
        (Symptoms(Precision.TF32, emulator_fails=True, island_cures=True), DiagnosisVerdict.TF32),
        (Symptoms(Precision.TF32, island_cures=True), DiagnosisVerdict.UNRESOLVED),
        (Symptoms(FP16, passes_in_fp32=True, observed_passes=True, marks_cure=True), DiagnosisVerdict.FUSION),
        (
            Symptoms(FP16, passes_in_fp32=True, emulator_fails=True, island_cures=True),
            DiagnosisVerdict.PRECISION,
        ),
        (
            Symptoms(FP16, passes_in_fp32=True, observed_passes=False, island_cures=True),
            DiagnosisVerdict.PRECISION,
        ),
        (
            Symptoms(FP16, passes_in_fp32=True, observed_passes=True, island_cures=True),
            DiagnosisVerdict.UNRESOLVED,
        ),
        (Symptoms(FP16, passes_in_fp32=True, island_cures=True), DiagnosisVerdict.UNRESOLVED),
        (
            Symptoms(FP16, passes_in_fp32=True, emulator_fails=True, island_cures=False),
            DiagnosisVerdict.UNRESOLVED,
        ),
        (Symptoms(FP16), DiagnosisVerdict.UNRESOLVED),
    ],
)
def test_the_table(shown: Symptoms, verdict: DiagnosisVerdict) -> None:
    found, evidence = decide(shown)
    assert found is verdict
    assert evidence.text


def test_nothing_is_guessed() -> None:
    """No verdict without the one thing that shows it, whatever else is known or not."""
    values = (None, True, False)
    for strict, emulator, observed, marks, island in itertools.product(values, repeat=5):
        shown = Symptoms(FP16, None, strict, emulator, observed, marks, island)
        verdict, _ = decide(shown)
        if verdict is DiagnosisVerdict.CONVERSION:
            assert strict is False
        elif verdict is DiagnosisVerdict.FUSION:
            assert observed
            assert marks
        elif verdict is DiagnosisVerdict.PRECISION:
            assert island
            assert emulator or observed is False
        else:
            assert verdict is DiagnosisVerdict.UNRESOLVED


def subject(scale: float = 1.0, samples: int = 1) -> Subject:
    model = rmsnorm(scale=scale)
    bench = make_bench(model, feeds(model, samples))
    return Subject(bench, FP16, bench.emulator)


def test_stages_refuse_what_they_cannot_work_with() -> None:
    from harness.diagnosis import cure_on_emulator
    from harness.diagnosis.stages import cure_on_engine, observe

    sound = subject()
    evaluator = Evaluator(sound, Spending())
    gates = check_gates(evaluator)
    assert gates.verdict is DiagnosisVerdict.NONE
    with pytest.raises(UsageError, match="predict requires gates without a verdict"):
        predict(sound, gates)
    assert gates.baseline is not None
    with pytest.raises(UsageError, match="observe requires an engine"):
        observe(evaluator, gates.baseline)
    with pytest.raises(UsageError, match="requires an engine"):
        cure_on_engine(Seen(FP16, True), Context(sound), [], {}, SearchOptions(), name="", text="")
    faulty = subject(600.0)
    prediction = predict(faulty, check_gates(Evaluator(faulty, Spending())))
    passing = replace(prediction, trial=replace(prediction.trial, outcome=Outcome.PASS))
    with pytest.raises(UsageError, match="requires an emulator that fails"):
        cure_on_emulator(Context(faulty), passing)


def test_the_effect_of_a_node_is_what_lowering_it_alone_does() -> None:
    faulty = subject(600.0)
    effects = Effects(faulty, 0)
    runs = effects.each(("b1_sq", "b1_sqrt", "b1_up"))
    assert runs["b1_sq"] > 1  # in limits: it fails alone
    assert runs["b1_sqrt"] > 1
    assert 0 < runs["b1_up"] < 0.1
    before = faulty.bench.emulator.evaluations
    effects.of(["b1_sq"])
    assert faulty.bench.emulator.evaluations == before
    assert effects.known == runs


def test_neighbours_are_lowered_together_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.diagnosis.context import effects as module

    monkeypatch.setattr(module, "MOST_RUNS", 8)
    faulty = subject(600.0)
    effects = Effects(faulty, 0)
    scores = effects.scores(faulty.units, dict.fromkeys(faulty.units, 1.0))
    assert set(scores) == set(faulty.units)
    top = sorted(scores, key=lambda node: -scores[node])[:4]
    assert set(top) == {"b1_sq", "b1_mean", "b1_addeps", "b1_sqrt"}
    assert faulty.bench.emulator.evaluations < len(faulty.units)


def test_outliers_stand_far_above_the_median_and_pass_their_suspicion_on() -> None:
    model = rmsnorm()
    units = tuple(node.name for node in model.lowerable)
    introduced = dict.fromkeys(units, 0.0003) | {"b1_up": 0.5}
    assert outliers(introduced) == ("b1_up",)
    assert outliers(dict.fromkeys(units, 0.0003)) == ()
    scores = inherited(model, introduced, units)
    assert scores["b1_gain"] == 0.5  # it writes what b1_up reads
    assert scores["b1_relu"] == 3e-4
    assert nearby(model, ["b1_up"], units)[:2] == ("b1_up", "b1_gain")


def test_what_is_next_to_the_start_of_an_error_is_tried_before_what_is_near_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A norm that overflows, and a sum that 3000 is added to and taken from, which shows behind it."""
    nodes = [
        helper.make_node("Mul", ["x", "large"], ["big"], name="big"),
        helper.make_node("Mul", ["big", "big"], ["sq"], name="sq"),
        helper.make_node("ReduceMean", ["sq"], ["mean"], name="mean", axes=[-1]),
        helper.make_node("Sqrt", ["mean"], ["root"], name="root"),
        helper.make_node("Div", ["big", "root"], ["unit"], name="unit"),
        helper.make_node("Relu", ["unit"], ["positive"], name="positive"),
        helper.make_node("Add", ["positive", "massive"], ["up"], name="up"),
        helper.make_node("Sub", ["up", "massive"], ["down"], name="down"),
    ]
    weights = {"large": np.float32(1000.0), "massive": np.float32(3000.0)}
    model = load_model(graph_model(nodes, inputs={"x": [8, 32]}, outputs={"down": [8, 32]}, weights=weights))
    cures = sys.modules["harness.diagnosis.stages.cures.emulator"]
    tried: list[tuple[list[frozenset[str]], frozenset[str] | None]] = []
    passing = cures._passing

    def watched(evaluator: object, known: object, hints: list[frozenset[str]]) -> frozenset[str] | None:
        found = passing(evaluator, known, hints)  # type: ignore[arg-type]
        tried.append((hints, found))
        return found

    monkeypatch.setattr(cures, "_passing", watched)
    diagnosis = diagnose_model(model, feeds(model), FP16)
    assert diagnosis.culprits == ("sq", "mean", "root", "up", "down")
    (next_to, near), found = tried[-1]
    assert found == next_to == frozenset(diagnosis.culprits)
    assert near == next_to | {"unit", "positive"}


def test_badness_is_the_worst_gate_in_multiples_of_its_limit() -> None:
    def output(*gates: tuple[str, float, float]) -> OutputResult:
        return OutputResult("y", 0, None, tuple(GateResult(*gate, passed=True) for gate in gates))  # type: ignore[arg-type]

    assert badness([output(("nonfinite", 0, 0.0), ("nrmse", 1e-2, 5e-3))]) == 0.5
    assert badness([output(("nrmse", 1e-2, 5e-3)), output(("cosine", 0.99, 0.96))]) == pytest.approx(4.0)
    assert badness([output(("sqnr_db", 40.0, 20.0))]) == pytest.approx(10.0)
    assert badness([output(("nrmse", 1e-2, float("nan")))]) == float("inf")
    failed = OutputResult("y", 0, None, (GateResult("nonfinite", 0, 3.0, False),))  # type: ignore[arg-type]
    assert badness([failed]) == float("inf")
    assert badness([]) == 0.0


def test_records_come_back_as_they_were() -> None:
    faulty = subject(600.0, samples=2)
    evaluator = Evaluator(faulty, Spending())
    gates = check_gates(evaluator)
    assert gates.baseline is not None
    record = json.loads(json.dumps(to_json(gates.baseline), allow_nan=False))
    found = from_json(JudgedEvaluation, record)
    assert found.outputs == gates.baseline.outputs
    assert found.outcome is Outcome.FAIL
    assert found.trial == gates.baseline.trial
    for layer in predict(faulty, gates).layers:
        again = from_json(LayerResult, json.loads(json.dumps(to_json(layer), allow_nan=False)))
        np.testing.assert_equal(to_json(again), to_json(layer))


def test_the_introduced_errors_are_those_of_the_layers() -> None:
    from harness.diagnosis.context import introduced_by_node

    for scale in (1.0, 600.0):
        faulty = subject(scale)
        if scale == 1.0:
            faulty.bench.case = faulty.bench.case.model_copy(update={"tolerances": (Tolerance(nrmse=1e-5),)})
        prediction = predict(faulty, check_gates(Evaluator(faulty, Spending())))
        expected = introduced_by_node(prediction.layers)
        assert prediction.introduced == pytest.approx(expected, rel=1e-6)
        assert any(map(math.isinf, expected.values())) == (scale == 600.0)


class Measured(Effects):
    """Effects that were measured before."""

    def __init__(self, known: dict[str, float]) -> None:
        self._known = {frozenset([node]): effect for node, effect in known.items()}


def origins_behind(effects: dict[str, float], crossing: str = "") -> list[str]:
    """The origins behind the nodes of `effects`, on an engine of which one tensor crosses its gate."""
    faulty = subject()
    faulty.bench.case = faulty.bench.case.model_copy(update={"tolerances": (Tolerance(nrmse=1e-5),)})
    prediction = predict(faulty, check_gates(Evaluator(faulty, Spending())))
    assert not set(outliers(prediction.introduced)) & set(effects)
    layers = [replace(layer, origin=layer.node == crossing) for layer in prediction.layers]
    found = find_origins_of(faulty, prediction, tuple(effects), Measured(effects), layers)
    return [origin.node for origin in found]


def test_an_error_that_accumulates_starts_where_the_engine_crosses_its_gate() -> None:
    shares = {"b0_up": 0.3, "b1_up": 0.6, "b2_up": 0.2}
    assert origins_behind(shares, crossing="b1_mean") == ["b1_mean"]
    assert origins_behind(shares) == ["b1_up"], "the largest share, where nothing crosses"


def test_an_island_that_fails_alone_starts_where_its_tensor_crosses_its_gate() -> None:
    island = {"b1_gain": 0.3, "b1_up": 2.0, "b1_relu": 0.2}
    assert origins_behind(island, crossing="b1_up") == ["b1_up"]
    assert origins_behind(island, crossing="b0_up") == ["b1_gain"]


def test_an_island_that_fails_only_beside_another_one_has_an_origin_too() -> None:
    islands = {"b1_gain": 0.3, "b1_up": 2.0, "b1_relu": 0.2, "b2_up": 0.4}
    assert origins_behind(islands, crossing="b1_up") == ["b1_up", "b2_up"]


def test_a_power_of_two_is_written_as_squares() -> None:
    faulty = subject(600.0)
    prediction = predict(faulty, check_gates(Evaluator(faulty, Spending())))
    (origin,) = explain_nodes(faulty, prediction, ["b1_sq"])
    assert origin.why.startswith("squares of values up to ")


def test_the_sample_that_failed_is_looked_at_first() -> None:
    faulty = subject(600.0, samples=3)
    evaluator = Evaluator(faulty, Spending())
    evaluator.failing_sample = 2
    found = evaluator.evaluate(faulty.plan(), phase="test")
    assert [output.sample for output in found.outputs] == [2]
    cured = evaluator.evaluate(faulty.plan(frozenset(faulty.units)), phase="test")
    assert [output.sample for output in cured.outputs] == [0, 1, 2]


def test_one_sample_that_fails_is_enough_wherever_it_stands() -> None:
    model = rmsnorm(scale=600.0)
    (large,) = feeds(model)
    nothing = {name: np.zeros_like(value) for name, value in large.items()}
    for samples, fails in (([large, nothing], 0), ([nothing, large], 1)):
        bench = make_bench(model, samples)
        evaluator = Evaluator(Subject(bench, FP16, bench.emulator), Spending())
        found = evaluator.evaluate(evaluator.subject.plan(), phase="test", thorough=True)
        assert [output.sample for output in found.outputs if not output.passed] == [fails]
        assert (found.outcome, evaluator.failing_sample) == (Outcome.FAIL, fails)


def test_what_neighbours_do_together_is_shared_out_by_squares() -> None:
    assert _shared_out(["a", "b"], 10.0, {"a": 3.0, "b": 4.0}) == pytest.approx({"a": 6.0, "b": 8.0})
    assert _shared_out(["a", "b", "c", "d"], 10.0, {}) == dict.fromkeys("abcd", 5.0)


def test_a_margin_follows_what_the_last_one_left_and_by_how_much_it_missed() -> None:
    assert next_share(0.5, Trial(Outcome.FAIL, 2.0, -1.0)) == pytest.approx(RESERVE * 0.25)
    for trial in (
        Trial(Outcome.PASS, 0.5, 0.5),
        Trial(Outcome.FAIL, 4.1, -3.1),
        Trial(Outcome.UNRESOLVED),
    ):
        assert next_share(0.5, trial) is None


def test_a_tactic_that_failing_builds_chose_too_is_not_named() -> None:
    chosen = [(Outcome.FAIL, "a", "y"), (Outcome.PASS, "a", "x"), (Outcome.PASS, "b", "x")]
    builds = [
        JudgedEvaluation(outcome, tactics=(("conv", conv), ("root", root))) for outcome, conv, root in chosen
    ]
    verdict, shown = judge_builds(builds)
    assert (verdict, shown.facts["passes"], shown.facts["fails"]) == (DiagnosisVerdict.TACTIC, 2, 1)
    assert shown.facts["differing"] == {"root": ["passes with x", "fails with y"]}


def test_a_phase_may_spend_what_the_others_left() -> None:
    spending = Spending(DiagnosisBudget(builds=5))
    spending.charge("gates", 1)
    spending.charge("search", 2)
    assert spending.builds == 3
    assert spending.left("search") == 4  # those that it has built included
    assert spending.left("observe") == 2
    spending.charge("observe", 2)
    with pytest.raises(BudgetExhaustedError, match="5 builds"):
        spending.check()


def test_infinities_that_are_meant_raise_no_warning() -> None:
    nodes = [helper.make_node("Where", ["keep", "x", "never"], ["y"], name="masked")]
    proto = graph_model(
        nodes,
        inputs={"keep": [2], "x": [2]},
        outputs={"y": [2]},
        weights={"never": np.float32(-np.inf)},
        dtypes={"keep": TensorProto.BOOL},
    )
    bench = make_bench(load_model(proto), [{"keep": np.array([True, False]), "x": np.float32([0.1, 2.0])}])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        errors = introduced_errors(Subject(bench, Precision.FP16, bench.emulator), 0)
    assert 0 < errors["masked"] < 1e-3


def test_partial_sums_that_overflow_are_told_though_the_result_fits() -> None:
    rows = np.ones((64, 1024), np.float32)
    weights = np.where(np.arange(1024) < 512, 1000.0, -1000.0).astype(np.float32)[:, None] * np.ones((1, 8))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"], name="product"),
        helper.make_node("Add", ["product", "one"], ["y"], name="y"),
    ]
    constants = {"w": weights.astype(np.float32), "one": np.float32(1.0)}
    proto = graph_model(nodes, inputs={"x": [64, 1024]}, outputs={"y": [64, 8]}, weights=constants)
    bench = make_bench(load_model(proto), [{"x": rows}])
    bench.assumed = Assumed(Accumulate.FP16)
    subject = Subject(bench, FP16, bench.emulator)
    prediction = predict(subject, check_gates(Evaluator(subject, Spending())))
    (origin,) = explain_nodes(subject, prediction, ["product"])
    assert origin.why.startswith("partial sums reach 5.1e5, beyond 65504, though the result is 0 at most")
    assert "Casts to FP32 around the product" in origin.why
