"""FP32 that is computed in TF32 is no fault of the conversion; a fault beside it is found all the same."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from engines import Build, FakeEngine, InTf32
from graphs import graph_model
from models import ISLAND, feeds, rmsnorm
from onnx import helper

from harness.backends import Observation, Plan
from harness.case import BuildOptions, Tolerance, load_case
from harness.diagnosis import Diagnosis, DiagnosisVerdict, diagnose_model
from harness.judge import Workbench
from harness.model import Model, load_model
from harness.tensors import Precision
from harness.worker.protocol import TENSORRT_RTX, TF32_OFF, TF32_ON, TF32_STAYS

CASES = Path(__file__).parents[2] / "cases"


def never(build: Build) -> bool:
    return False


@cache
def warped(layers: int = 4) -> Model:
    """Convolutions, a GridSample of opset 20, and convolutions behind it."""
    rng = np.random.default_rng(0)
    nodes, weights, tensor = [], {}, "x"
    for number in range(layers):
        if number == layers // 2:
            nodes.append(
                helper.make_node(
                    "GridSample", [tensor, "grid"], ["sampled"], name="sample", mode="linear", align_corners=1
                )
            )
            tensor = "sampled"
        weights[f"w{number}"] = (rng.standard_normal((16, 16, 3, 3)) / 12).astype(np.float32)
        nodes += [
            helper.make_node(
                "Conv", [tensor, f"w{number}"], [f"c{number}"], name=f"c{number}", pads=[1, 1, 1, 1]
            ),
            helper.make_node("Tanh", [f"c{number}"], [f"t{number}"], name=f"t{number}"),
        ]
        tensor = f"t{number}"
    inputs = {"x": [1, 16, 12, 12], "grid": [1, 12, 12, 2]}
    proto = graph_model(nodes, inputs=inputs, outputs={tensor: [1, 16, 12, 12]}, weights=weights)
    proto.opset_import[0].version = 20
    return load_model(proto, name="warped")


def inputs_of(model: Model) -> list[dict[str, np.ndarray]]:
    return [{name: np.tanh(value) if name == "grid" else value for name, value in feeds(model)[0].items()}]


def run(engine: FakeEngine, precision: Precision = Precision.FP32, **options: object) -> Diagnosis:
    return diagnose_model(engine.model, inputs_of(engine.model), precision, candidate=engine, **options)  # type: ignore[arg-type]


def engine_for(nearest: bool):  # type: ignore[no-untyped-def]
    return lambda part: InTf32(part, part.nodes[0].name, never, nearest=nearest)


def texts(diagnosis: Diagnosis) -> str:
    return "\n".join([diagnosis.summary, *diagnosis.advice, *(each.text for each in diagnosis.evidence)])


@pytest.mark.parametrize("says", [TF32_STAYS, TF32_ON])
def test_what_the_emulated_tf32_explains_is_tf32_and_no_conversion(says: str) -> None:
    engine = InTf32(warped(), "c0", never, tf32=says)
    diagnosis = run(engine)
    assert diagnosis.verdict is DiagnosisVerdict.TF32
    assert not diagnosis.confirmed  # nobody saw it right without
    assert {origin.op for origin in diagnosis.origins} == {"Conv"}
    assert "11 bits" in diagnosis.origins[0].why
    assert "errs no more than the emulated TF32" in texts(diagnosis)
    assert diagnosis.cost.builds <= 2


@pytest.mark.parametrize("case", ["conv-residual", "conv-overflow"])
def test_convolutions_that_round_toward_zero_are_tf32_and_no_conversion(case: str) -> None:
    bench = Workbench(load_case(CASES / f"{case}.case.yaml"), memory_budget=1 << 30)
    emulated = bench.emulator.run(bench.feeds[0], Precision.TF32)["logits"]
    engine = InTf32(bench.model, "stem_conv", never, cuts=True)
    seen = engine.evaluate(Plan(Precision.FP32), bench.feeds[0]).tensors["logits"]
    exact = bench.expected[0]["logits"]
    assert np.linalg.norm(seen - exact) > 4 * np.linalg.norm(emulated - exact)
    diagnosis = diagnose_model(bench.model, bench.feeds, Precision.FP32, candidate=engine)
    assert diagnosis.verdict is DiagnosisVerdict.TF32


def test_a_wrong_conversion_beside_convolutions_that_round_toward_zero_is_found() -> None:
    engine = InTf32(warped(), "c0", never, nearest=True, cuts=True)
    diagnosis = run(
        engine, engine_for=lambda part: InTf32(part, part.nodes[0].name, never, nearest=True, cuts=True)
    )
    assert diagnosis.verdict is DiagnosisVerdict.CONVERSION
    assert diagnosis.culprits == ("sample",)


def test_where_it_cannot_be_turned_off_the_cure_is_another_release() -> None:
    diagnosis = run(InTf32(warped(), "c0", never))
    assert diagnosis.advice == (
        "use TensorRT for RTX 1.5 or later, with NVIDIA_TF32_OVERRIDE=0 in the environment of the process that runs "
        "the engine: 1.4.0.76 runs nothing then",
    )


def test_right_without_tf32_is_tf32_with_the_variable_as_its_cure(tmp_path: Path) -> None:
    engine = InTf32(warped(), "c0", never, tf32=TF32_OFF, release="1.6.1.120")
    diagnosis = run(engine, build=BuildOptions(tf32=True), out=tmp_path)
    assert diagnosis.verdict is DiagnosisVerdict.TF32
    assert diagnosis.confirmed
    assert diagnosis.advice[0].startswith("NVIDIA_TF32_OVERRIDE=0 tensorrt_rtx --onnx=")
    assert "no flag of the builder turns TF32 off" in diagnosis.advice[1]
    assert "--noTF32" not in texts(diagnosis)


def test_an_engine_without_tf32_is_right() -> None:
    assert run(InTf32(warped(), "c0", never, tf32=TF32_OFF)).verdict is DiagnosisVerdict.NONE


@pytest.mark.parametrize("marks", [True, False])
@pytest.mark.parametrize("says", [TF32_STAYS, TF32_ON])
def test_a_wrong_conversion_beside_tf32_starts_where_it_is_wrong(says: str, marks: bool) -> None:
    def breaks(plan: Plan) -> bool:
        return not marks and plan.observation is Observation.TYPED

    engine = InTf32(warped(), "c0", never, tf32=says, nearest=True, breaks=breaks)
    diagnosis = run(engine, engine_for=engine_for(nearest=True))
    assert diagnosis.verdict is DiagnosisVerdict.CONVERSION
    assert [origin.node for origin in diagnosis.origins] == ["sample"]
    assert "beyond what TF32 explains" in diagnosis.origins[0].why
    assert diagnosis.culprits == ("sample",)
    assert diagnosis.confirmed
    assert "and errs more than the emulated TF32 does" in texts(diagnosis)


def test_a_wrong_conversion_beside_tf32_is_one_at_fp16_too() -> None:
    engine = InTf32(warped(), "c0", never, nearest=True)
    diagnosis = run(engine, Precision.FP16, engine_for=engine_for(nearest=True))
    assert diagnosis.verdict is DiagnosisVerdict.CONVERSION
    assert [origin.node for origin in diagnosis.origins] == ["sample"]


def test_a_fault_of_fp16_beside_tf32_is_one_of_precision() -> None:
    engine = InTf32(
        warped(),
        "c1",
        lambda build: build.plan.precision is Precision.FP16 and "c1" not in build.plan.islands,
    )
    diagnosis = run(engine, Precision.FP16)
    assert diagnosis.verdict is DiagnosisVerdict.PRECISION
    assert diagnosis.culprits == ("c1",)


def test_an_emulated_tf32_that_fails_itself_excuses_an_engine_that_errs_as_much() -> None:
    tight = [Tolerance(precision=precision, nrmse=1e-5) for precision in ("tf32", "fp32")]
    diagnosis = run(InTf32(warped(), "c0", never), Precision.TF32, tolerances=tight)
    assert diagnosis.verdict is DiagnosisVerdict.TF32
    wrong = run(InTf32(warped(), "c0", never, nearest=True), Precision.TF32, tolerances=tight)
    assert wrong.verdict is DiagnosisVerdict.CONVERSION


def test_an_fp16_overflow_on_an_engine_in_tf32_takes_three_builds() -> None:
    model = rmsnorm(scale=600.0)
    engine = FakeEngine(model, "b1_up", never, product=TENSORRT_RTX, release="1.4.0.76", typing="strong")
    diagnosis = diagnose_model(model, feeds(model), Precision.FP16, candidate=engine)
    assert (diagnosis.culprits, engine.builds) == (ISLAND, 3)
