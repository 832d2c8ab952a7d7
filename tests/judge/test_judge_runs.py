"""Judging real cases: verdicts, origins, expectations, mistakes, and what faithful means."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import graph_model, norm_chain

import harness
from harness.backends import Candidate, Evaluation, Plan, Timing
from harness.case import Case, RunSpec, Tolerance, load_case
from harness.comparison import GateResult, compare_tensors
from harness.errors import CaseFileError, EnvironmentConfigError, NothingSelectedError, UsageError
from harness.judge import (
    Candidates,
    Cause,
    Judge,
    Judged,
    JudgeOptions,
    OutputResult,
    RunEvent,
    RunReason,
    Verdict,
    Workbench,
    is_faithful,
    measure_layers,
    rms_limit,
    run,
)
from harness.tensors import Precision
from harness.worker.protocol import EngineFacts, Fingerprint

CASE = """
    model: {path: m.onnx}
    inputs: {x: [5, 16]}
    samples: 2
    runs:
      - fp32
      - tf32
      - %s
      - bf16
"""


@pytest.fixture
def write_case(tmp_path: Path):
    def write(scale: float = 1.0, fp16: str = "fp16", extra: str = "", name: str = "norm") -> Path:
        onnx.save(norm_chain(scale), tmp_path / "m.onnx")
        path = tmp_path / f"{name}.case.yaml"
        path.write_text(textwrap.dedent(CASE) % fp16 + extra)
        return path

    return write


def verdicts(report) -> dict[str, str]:
    return {result.precision.value: result.verdict.value for result in report.results}


def test_a_sound_model_passes_at_every_precision(write_case) -> None:
    report = run(write_case())
    assert verdicts(report) == {"fp32": "pass", "tf32": "pass", "fp16": "pass", "bf16": "pass"}
    assert report.exit_code == 0
    assert all(not result.origins for result in report.results)


def test_an_overflow_fails_and_its_node_is_the_only_origin(write_case) -> None:
    report = run(write_case(600.0), precisions=["fp16"])
    (result,) = report.results
    assert result.verdict is Verdict.FAIL
    assert [layer.node for layer in result.origins] == ["sq"]
    assert report.exit_code == 1
    origin = result.origins[0]
    assert origin.metrics.overflow_count > 0
    assert origin.introduced is not None
    assert origin.introduced.nonfinite > 0
    assert [layer.index for layer in result.layers] == sorted(layer.index for layer in result.layers)


def test_an_error_that_came_before_does_not_hide_an_overflow(write_case) -> None:
    tight = "tolerances: [{precision: fp16, layer: scaled, nrmse: 1.0e-9}]\n"
    (result,) = run(write_case(600.0, extra=tight), precisions=["fp16"]).results
    assert [layer.node for layer in result.origins] == ["scaled", "sq"]
    (result,) = run(write_case(1.0, extra=tight), precisions=["fp16"]).results
    assert result.origins == (), "the output passes"


def test_an_infinity_that_its_format_could_hold_is_no_origin_behind_an_error(tmp_path: Path) -> None:
    # The divisor becomes 0: that is where it starts, although the quotients are the first that are not finite.
    nodes = [
        onnx.helper.make_node("Mul", ["x", "tiny"], ["small"], name="vanish"),
        onnx.helper.make_node("Div", ["few", "small"], ["y"], name="divide"),
    ]
    weights = {"tiny": np.float32(1e-9), "few": np.float32(1e-6)}
    model = graph_model(nodes, inputs={"x": [4, 8]}, outputs={"y": [4, 8]}, weights=weights)
    onnx.save(model, tmp_path / "m.onnx")
    fill = "inputs: {x: {shape: [4, 8], fill: {kind: uniform, low: 1.0, high: 2.0}}}\n"
    path = tmp_path / "quotient.case.yaml"
    path.write_text("model: {path: m.onnx}\nruns: [fp16]\n" + fill)
    (result,) = run(path).results
    assert result.layers[-1].metrics.nonfinite > 0
    assert [layer.node for layer in result.origins] == ["vanish"]


def test_the_tightest_gate_limits_the_error_of_an_output() -> None:
    one = np.full(4, 2.0, np.float32)
    metrics = compare_tensors(one, one)
    gates = [("rmse", 0.1), ("nrmse", 0.01), ("nrmse", 0.2), ("max_abs", 1e-9)]
    results = [GateResult(metric, limit, 0.0, True) for metric, limit in gates]
    for chosen, limit in ((results, 0.02), (results[:1], 0.1), (results[-1:], 0.0)):
        assert rms_limit(OutputResult("y", 0, metrics, tuple(chosen))) == pytest.approx(limit)


@pytest.mark.parametrize(
    ("scale", "run_line", "verdict", "reason"),
    [
        (
            600.0,
            "{precision: fp16, expect: fail, reason: squares overflow, origin: sq}",
            "xfail",
            "squares overflow",
        ),
        (1.0, "{precision: fp16, expect: fail, reason: squares overflow}", "xpass", "passes, although"),
        (600.0, "{precision: fp16, expect: fail, reason: r, origin: mean}", "fail", "starts at sq, not mean"),
        (600.0, "{precision: fp16, expect: fail, where: tensorrt>=10, reason: r}", "fail", "nrmse"),
        (600.0, "{precision: fp16, expect: fail, where: [tensorrt, emulator], reason: r}", "xfail", "r"),
        (1.0, "{precision: fp16, expect: fail, where: tensorrt-rtx, reason: r}", "pass", "hold"),
    ],
)
def test_expected_failures(write_case, scale: float, run_line: str, verdict: str, reason: str) -> None:
    report = run(write_case(scale, run_line), precisions=["fp16"])
    assert verdicts(report) == {"fp16": verdict}
    assert reason in report.results[0].reason
    assert report.exit_code == (0 if verdict in ("xfail", "pass") else 1)


class Engines(Candidates):
    """The emulator, called an engine of one release."""

    def __init__(self, product: str | None, release: str | None) -> None:
        super().__init__()
        self.fingerprint = Fingerprint("env", release, product=product)

    def get(self, name: str, bench: Workbench) -> Candidate:
        emulator, fingerprint = bench.emulator, self.fingerprint

        class Engine(Candidate):
            name = "env"

            def evaluate(self, plan: Plan, feeds, *, timing: Timing | None = None) -> Evaluation:
                return replace(emulator.evaluate(plan, feeds), facts=EngineFacts(fingerprint))

        return Engine()

    def lacking(self, name: str, case: Case, spec: RunSpec) -> None:
        return None


@pytest.mark.parametrize(
    ("product", "release", "verdict"),
    [
        ("TensorRT", "8.6.0", "xfail"),
        ("TensorRT", "10.1.0", "fail"),
        ("TensorRT for RTX", "1.4.0.76", "fail"),
        ("TensorRT for RTX", "1.6.1.120", "xfail"),
        (None, None, "xfail"),  # an emulated release
    ],
)
def test_an_engine_fails_as_expected_where_the_case_says_so(write_case, product, release, verdict) -> None:
    where = "[emulator, tensorrt<9, tensorrt-rtx>=1.5]"
    case = load_case(write_case(600.0, f"{{precision: fp16, expect: fail, where: {where}, reason: r}}"))
    (spec,) = case.select_runs([Precision.FP16])
    with Judge(JudgeOptions(layers=False), Engines(product, release)) as judge:
        assert judge.run(case, spec, "env").verdict == verdict
        assert Judge().run(case, spec).verdict == "xfail"


def test_an_engine_may_pass_where_no_failure_is_expected(write_case) -> None:
    case = load_case(write_case(1.0, "{precision: fp16, expect: fail, where: emulator, reason: r}"))
    (spec,) = case.select_runs([Precision.FP16])
    with Judge(JudgeOptions(layers=False), Engines("TensorRT", "8.6.0")) as judge:
        assert judge.run(case, spec, "env").verdict == "pass"
        assert Judge().run(case, spec).verdict == "xpass"


def test_explicit_tolerances_replace_the_default_gates(write_case) -> None:
    strict = write_case(extra="tolerances: [{precision: fp16, output: y, max_abs: 1.0e-7}]\n")
    (result,) = run(strict, precisions=["fp16"]).results
    assert result.verdict is Verdict.FAIL
    assert [gate.metric for gate in result.outputs[0].gates] == ["nonfinite", "max_abs"]
    loose = write_case(600.0, extra="tolerances: [{max_abs: 1.0e+9}]\n", name="loose")
    assert verdicts(run(loose, precisions=["fp16"])) == {
        "fp16": "pass"
    }  # y stays finite: 0 after the overflow


def test_layers_of_all_samples_are_merged(write_case) -> None:
    path = write_case()
    (both,) = run(path, precisions=["fp16"]).results
    case = load_case(path).model_copy(update={"samples": 1})
    (one,) = run([case], precisions=["fp16"]).results
    assert [layer.metrics.count for layer in both.layers] == [2 * layer.metrics.count for layer in one.layers]
    assert [output.sample for output in both.outputs] == [0, 1]


def test_a_small_memory_budget_changes_no_number(write_case) -> None:
    path = write_case(600.0)
    (whole,) = run(path, precisions=["fp16"]).results
    (pieces,) = run(path, precisions=["fp16"], options=JudgeOptions(memory_budget=6 * 400)).results
    assert [(x.tensor, x.metrics, x.introduced, x.origin) for x in pieces.layers] == [
        (x.tensor, x.metrics, x.introduced, x.origin) for x in whole.layers
    ]


def test_without_layers_only_the_outputs_are_judged(write_case) -> None:
    (result,) = run(write_case(600.0), precisions=["fp16"], options=JudgeOptions(layers=False)).results
    assert result.verdict is Verdict.FAIL
    assert not result.layers
    expected = write_case(600.0, "{precision: fp16, expect: fail, reason: squares overflow, origin: sq}")
    (result,) = run(expected, precisions=["fp16"], options=JudgeOptions(layers=False)).results
    assert result.verdict is Verdict.XFAIL, "where nothing was observed, no origin is missing"


def test_layers_of_the_emulator_are_compared_with_bounds_and_not_with_itself(write_case) -> None:
    (result,) = run(write_case(), precisions=["fp16"]).results
    gates = {tuple(gate.metric for gate in layer.gates) for layer in result.layers}
    assert gates == {("nonfinite", "nrmse")}, "its slices are too small to be judged"


def test_outputs_and_layers_are_of_one_inference_where_memory_allows(write_case) -> None:
    case, found = load_case(write_case(600.0)), []
    for options in (JudgeOptions(), JudgeOptions(memory_budget=1)):
        with Judge(options) as judge:
            (spec,) = case.select_runs((Precision.FP16,))
            result = judge.run(case, spec, "emulator")
            found.append((result.outputs, result.layers, judge.bench(case).emulator.evaluations))
    (outputs, layers, few), (others, other_layers, many) = found
    assert (outputs, layers) == (others, other_layers)
    assert few == 2 < many, "of two samples"


def test_layers_whose_nodes_are_in_fp32_do_not_err(write_case) -> None:
    case = load_case(write_case())
    with Judge() as judge:
        bench = judge.bench(case)
        everything = frozenset(bench.emulator.units(Precision.FP16))
        for islands, errs in ((frozenset(), True), (everything, False)):
            layers, _ = measure_layers(bench, bench.emulator, Plan(Precision.FP16, islands=islands), ())
            assert any(layer.metrics.rmse > 0 for layer in layers) is errs


def test_layers_in_brief_have_the_same_gates_and_every_metric_that_a_rule_limits(write_case) -> None:
    case = load_case(write_case(600.0))
    ulps = Tolerance(layer="mean", max_ulp=4.0)
    with Judge() as judge:
        bench = judge.bench(case)
        full, brief = (
            measure_layers(bench, bench.emulator, Plan(Precision.FP16), (ulps,), introduced={}, brief=each)[0]
            for each in (False, True)
        )
    assert [(layer.gates, layer.origin) for layer in full] == [(layer.gates, layer.origin) for layer in brief]
    assert any(layer.diverged for layer in brief)
    counted = {layer.node for layer in brief if layer.metrics.max_ulp not in (0.0, np.inf)}
    assert counted <= {"mean"}
    assert [layer.metrics for layer in brief if layer.node == "mean"] == [
        layer.metrics for layer in full if layer.node == "mean"
    ]


def test_the_json_is_plain_and_carries_the_fingerprint(write_case) -> None:
    document = json.loads(json.dumps(run(write_case(600.0), precisions=["fp16"]).to_dict(), allow_nan=False))
    assert document["schema"] == "harness.run/1"
    assert document["fingerprint"]["onnxruntime"]
    (result,) = document["results"]
    origins = [layer["node"] for layer in result["layers"] if layer["origin"]]
    assert (result["candidate"], result["verdict"], origins) == ("emulator", "fail", ["sq"])
    assert {"tensor", "metrics", "gates"} <= set(result["outputs"][0])
    assert {"metric", "limit", "value", "passed"} == set(result["outputs"][0]["gates"][0])


def test_the_frame_has_a_row_a_run_and_output(write_case) -> None:
    frame = run(write_case()).to_frame()
    assert len(frame) == 4 * 2
    assert frame.loc[frame.precision == "fp32", "rmse"].max() == 0


def test_a_bare_model_is_judged_with_given_shapes(tmp_path: Path) -> None:
    onnx.save(norm_chain(), tmp_path / "bare.onnx")
    report = run(tmp_path / "bare.onnx", inputs={"x": [3, 16]}, precisions=["fp16"])
    assert verdicts(report) == {"fp16": "pass"}
    assert report.results[0].outputs[0].metrics.count == 48
    with pytest.raises(UsageError, match="a case file has its own inputs"):
        run(Path("cases"), inputs={"x": [1]})


def test_a_reference_that_is_not_finite_is_a_mistake_that_names_the_first_tensor(write_case) -> None:
    path = write_case(extra="", name="inf")
    text = path.read_text().replace("x: [5, 16]", "x: {shape: [5, 16], fill: {kind: constant, value: 0}}")
    path.write_text(text)  # 0 / sqrt(mean(0)) is NaN
    report = run(path, precisions=["fp16"])
    (result,) = report.results
    assert result.verdict is Verdict.ERROR
    assert result.mistake
    assert report.exit_code == 2
    assert "output 'y'; the first tensor that is not finite is 'norm'" in result.reason


def test_one_broken_case_does_not_stop_the_others(write_case, tmp_path: Path) -> None:
    good = write_case()
    bad = tmp_path / "bad.case.yaml"
    bad.write_text("model: {path: missing.onnx}\nruns: [fp16]\n")
    report = run([bad, good], precisions=["fp16"])
    assert [result.verdict.value for result in report.results] == ["error", "pass"]
    assert report.exit_code == 2
    assert "missing.onnx" in report.results[0].reason


def test_a_fault_of_harness_itself_does_not_stop_the_others(write_case, monkeypatch) -> None:
    judge = Judge()
    make = judge.candidates.get

    def get(name: str, bench) -> Candidate:
        if bench.case.name == "broken":
            raise ZeroDivisionError("of our own making")
        return make(name, bench)

    monkeypatch.setattr(judge.candidates, "get", get)
    paths = [write_case(name=name) for name in ("broken", "sound")]
    with judge:
        report = harness.run(paths, precisions="fp16", judge=judge)
    broken, sound = report.results
    assert (broken.verdict, broken.cause, sound.verdict) == ("error", "internal error", "pass")
    assert "ZeroDivisionError: of our own making" in broken.reason
    assert any("raise ZeroDivisionError" in line for line in broken.evidence)
    assert report.exit_code == 70


def test_a_model_that_is_missing_is_one_error_and_not_one_a_precision(write_case, tmp_path: Path) -> None:
    events: list[RunEvent] = []
    report = run([tmp_path / "missing.onnx", write_case()], progress=events.append)
    assert [result.verdict.value for result in report.results] == [*["pass"] * 4, "error"]
    (*_, error) = report.results
    assert (error.cause, error.mistake, error.judged) == (Cause.CASE, True, Judged.NOTHING)
    assert error.error is not None
    assert error.error.kind == "ModelError"
    assert error.error.message in error.reason
    done = [(event.index, event.total) for event in events if event.kind == "done"]
    assert done == [(0, 6), (1, 6), (2, 6), (3, 6), (4, 5)], "runs that cannot be judged are not counted"


def test_progress_counts_on_without_the_runs_that_an_unusable_case_spares(write_case, tmp_path: Path) -> None:
    good, bad = write_case(), tmp_path / "bad.case.yaml"
    bad.write_text("model: {path: missing.onnx}\nruns: [fp32, fp16]\n")
    events: list[RunEvent] = []
    run([bad, good], precisions=["fp32", "fp16"], progress=events.append)
    counted = [(event.kind, event.index, event.total) for event in events if event.kind != "stage"]
    assert counted == [
        ("start", 0, 4), ("done", 0, 3), ("start", 1, 3), ("done", 1, 3), ("start", 2, 3), ("done", 2, 3)
    ]  # fmt: skip


def test_inputs_that_do_not_fit_are_one_error(write_case) -> None:
    path = write_case()
    path.write_text(path.read_text().replace("x: [5, 16]", "x: [5, 17]"))
    assert [result.cause for result in run(path).results] == [Cause.CASE]


@pytest.mark.parametrize(
    ("scale", "line", "cause"),
    [
        (1.0, "fp16", Cause.GATES_HOLD),
        (600.0, "fp16", Cause.GATE_FAILED),
        (600.0, "{precision: fp16, expect: fail, reason: r}", Cause.EXPECTED),
        (1.0, "{precision: fp16, expect: fail, reason: r}", Cause.UNEXPECTED_PASS),
        (600.0, "{precision: fp16, expect: fail, reason: r, origin: mean}", Cause.OTHER_ORIGIN),
        (1.0, "int8", Cause.NOTHING_TO_ROUND),
    ],
)
def test_the_cause_of_a_verdict_is_a_code(write_case, scale: float, line: str, cause: Cause) -> None:
    precision = "int8" if line == "int8" else "fp16"
    report = run(write_case(scale, line), precisions=[precision])
    assert report.results[0].cause is cause
    assert json.loads(json.dumps(report.to_dict()))["results"][0]["cause"] == cause.value


def test_a_result_says_what_was_judged(write_case) -> None:
    (result,) = run(write_case(), precisions=["fp16"]).results
    assert result.judged is Judged.VALUES
    first, second = result.outputs
    finite = dataclasses.replace(second, gates=second.gates[:1])
    assert (finite.judged, finite.gates[0].metric) == (Judged.FINITENESS, "nonfinite")
    assert dataclasses.replace(second, gates=()).judged is Judged.NOTHING
    assert str(RunReason.of_outputs((first, second))) == "all gates hold"
    sentence = "all gates hold; of y only finiteness was judged, not the values"
    assert str(RunReason.of_outputs((first, finite))) == sentence
    weaker = dataclasses.replace(result, outputs=(first, finite))
    assert weaker.judged is Judged.FINITENESS, "the least that any output was judged for"
    assert weaker.to_dict()["judged"] == "finiteness"
    assert weaker.to_dict()["outputs"][0]["judged"] == "values"


def test_a_report_is_short_in_a_console_and_a_table_in_a_notebook(write_case) -> None:
    report = run(write_case(600.0, name="a<b"), precisions=["fp16"])
    assert repr(report) == "RunReport(1 run: 1 fail)"
    assert repr(load_case(write_case())) == "Case(norm: fp32, tf32, fp16, bf16)"
    (result,) = report.results
    assert repr(result).startswith("RunResult(a<b::fp16: fail, y: ")
    assert len(repr(result)) < 200
    page = report._repr_html_()
    assert "<td>a&lt;b::fp16</td><td>emulator</td><td>fail</td>" in page
    assert "a<b" not in page
    many = dataclasses.replace(report, results=report.results * 250)
    assert many._repr_html_().count("<tr>") == 101
    assert "and 150 more runs" in many._repr_html_()


def test_a_missing_package_skips(write_case) -> None:
    report = run(write_case(extra="requires: [no_such_package]\n"), precisions=["fp16"])
    assert verdicts(report) == {"fp16": "skip"}
    assert "no_such_package" in report.results[0].reason
    assert report.exit_code == 5, "nothing was judged"


def test_selections_that_match_nothing_say_so(write_case, tmp_path: Path) -> None:
    path = write_case()
    with pytest.raises(
        NothingSelectedError, match=r"no case asks for int8 \(the case has runs at fp32, tf32"
    ):
        run(path, precisions=["int8"])
    with pytest.raises(NothingSelectedError, match="no case asks for fp8 or int8"):
        run(path, precisions=["fp8", "int8"])
    with pytest.raises(NothingSelectedError, match=r"no case has the tag nope.*no case has any tag"):
        run(path, tags=["nope"])
    (tmp_path / "empty").mkdir()
    with pytest.raises((NothingSelectedError, CaseFileError)):
        run(tmp_path / "empty")


def test_an_unknown_environment_stops_before_anything_runs(
    write_case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Judge, "run", lambda *args: pytest.fail("nothing may run"))
    with pytest.raises(EnvironmentConfigError, match=r"trt-1\.0"):
        run(write_case(), environments=["trt-1.0"])


def test_progress_tells_of_every_run(write_case) -> None:
    events: list[RunEvent] = []
    run(write_case(), precisions=["fp32", "fp16"], progress=events.append)
    assert [(event.index, event.kind) for event in events if event.kind != "stage"] == [
        (0, "start"),
        (0, "done"),
        (1, "start"),
        (1, "done"),
    ]
    assert {event.stage for event in events if event.kind == "stage"} >= {"reference", "candidate", "layers"}
    assert events[-1].result is not None
    assert events[-1].result.timings["total"] > 0


def test_the_workbench_of_a_case_is_shared_by_its_runs(write_case) -> None:
    case = load_case(write_case())
    with Judge() as judge:
        first = judge.bench(case)
        for spec in case.runs:
            judge.run(case, spec)
        assert judge.bench(case) is first
        other = case.model_copy()
        assert judge.bench(other) is not first


REFERENCE = np.array([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("observed", "unobserved", "faithful"),
    [
        ([1.0, 2.0, 3.001], [1.001, 2.0, 3.0], True),  # two sound builds, apart by rounding
        ([1.0, 2.0, 9.0], [1.0, 2.0, 9.1], True),  # the same fault
        ([1.0, 2.0, 3.0], [1.0, 2.0, 9.0], False),  # looking at it cured it
        ([9.0, 2.0, 3.0], [1.0, 2.0, 3.0], False),  # looking at it broke it
        ([1.0, 2.0, np.nan], [1.0, 2.0, np.nan], True),
        ([1.0, 2.0, 3.0], [1.0, 2.0, np.inf], False),
        ([1.0, 2.0], [1.0, 2.0], True),  # the same shape, that is not the reference's
        ([1.0, 2.0, 3.0], [1.0, 2.0], False),
    ],
)
def test_faithful_is_the_same_answer_or_the_same_fault(
    observed: list[float], unobserved: list[float], faithful: bool
) -> None:
    tensors = ({"y": np.array(values)} for values in (observed, unobserved, REFERENCE))
    assert is_faithful(*tensors, {"y": 0.01}) is faithful


def test_the_public_surface_is_what_it_says() -> None:
    assert sorted(harness.__all__) == dir(harness)
    for name in harness.__all__:
        assert getattr(harness, name) is not None
    assert harness.Case is Case
    assert harness.Precision is Precision
    with pytest.raises(AttributeError, match="nope"):
        _ = harness.nope


WAIVER = "waivers: [{reason: known since spring, expires: %s%s}]\n"


@pytest.mark.parametrize(
    ("expires", "covers", "verdict", "said"),
    [
        ("2999-01-01", "", "xfail", "waived until 2999-01-01: known since spring"),
        ("2000-01-01", "", "fail", "the waiver expired on 2000-01-01: known since spring"),
        ("2999-01-01", ", precision: bf16", "fail", None),
        ("2999-01-01", ', tensorrt: ">=8"', "fail", None),  # the emulator is no release
        ("2000-01-01", ", precision: bf16", "fail", None),  # it never spoke of this run
    ],
)
def test_a_waiver_makes_a_failure_an_expected_one_until_it_expires(
    write_case, expires: str, covers: str, verdict: str, said: str | None
) -> None:
    report = run(write_case(600.0, extra=WAIVER % (expires, covers)), precisions=["fp16", "fp32"])
    found = {result.precision.value: result for result in report.results}
    assert found["fp16"].verdict.value == verdict
    assert found["fp16"].reason.startswith("y: "), "what fails is still said"
    assert ("waive" in found["fp16"].reason) == (said is not None)
    assert said is None or found["fp16"].reason.endswith(said)
    assert (found["fp32"].verdict.value, "waive" in found["fp32"].reason) == ("pass", False)
    assert report.exit_code == (verdict == "fail")


def test_results_are_frozen(write_case) -> None:
    (result,) = run(write_case(), precisions=["fp32"]).results
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.verdict = Verdict.FAIL  # type: ignore[misc]


def test_the_tolerances_of_layers_reach_their_metrics(write_case) -> None:
    rule = "tolerances: [{layer: sq, atol: 1.0e+9, mismatch_fraction: 0}, {layer: mean, atol: 0, rtol: 0}]\n"
    (result,) = run(write_case(extra=rule), precisions=["fp16"]).results
    layers = {layer.node: layer for layer in result.layers}
    assert layers["sq"].metrics.mismatch_fraction == 0
    assert layers["mean"].metrics.mismatch_fraction > 0.5
    assert layers["mean"].diverged
