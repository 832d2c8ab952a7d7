"""The public API: what is exported, what it takes, what it refuses."""

from __future__ import annotations

import inspect
import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from graphs import graph_model
from models import ISLAND, case_path, feeds, rmsnorm
from onnx import helper

import harness.diagnosis
from harness.case import Tolerance, load_case
from harness.diagnosis import (
    Conclusion,
    Context,
    Diagnosis,
    DiagnosisBudget,
    DiagnosisEvent,
    DiagnosisOptions,
    DiagnosisVerdict,
    Stage,
    Subject,
    diagnose,
    diagnose_model,
)
from harness.diagnosis.context import Handover, make_bench
from harness.diagnosis.explain import advise
from harness.diagnosis.pipeline import start
from harness.errors import UsageError
from harness.judge import Judge
from harness.model import Model, load_model, save_model
from harness.tensors import Precision


def test_the_function_is_a_plain_one_with_its_real_signature() -> None:
    assert inspect.isfunction(harness.diagnose)
    assert {"precision", "environment", "options"} <= set(inspect.signature(harness.diagnose).parameters)


def test_what_the_first_engine_does_not_need_is_not_imported_before_it_is_begun() -> None:
    late = {"pandas", "matplotlib", "jinja2", "harness.diagnosis.pipeline", "harness.quantization.api"}
    code = (
        f"import sys, harness.cli.diagnose, harness.diagnosis.api; print(sorted({late} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_case_that_passes_costs_one_evaluation_and_one_that_looks_behind_it(tmp_path: Path) -> None:
    found = diagnose(case_path("rmsnorm-mlp"), precision="fp16", journal=tmp_path)
    assert found.verdict is DiagnosisVerdict.NONE
    assert found.exit_code == 0
    assert found.culprits == ()
    samples = len(load_case(case_path("rmsnorm-mlp")).runs) / 2
    assert found.cost.emulations == 2 * samples
    assert found.origins == ()


FAULTY = ("rmsnorm-overflow", "rmsnorm-underflow", "softmax-overflow", "attention-overflow", "conv-overflow")


@pytest.mark.parametrize("name", FAULTY)
def test_the_bundled_faults_start_where_their_cases_say(name: str, tmp_path: Path) -> None:
    case = load_case(case_path(name))
    found = diagnose(case, precision=Precision.FP16, journal=tmp_path)
    (spec,) = case.select_runs([Precision.FP16])
    assert found.verdict is DiagnosisVerdict.PRECISION
    assert tuple(each.node for each in found.origins) == spec.origin
    assert found.culprits[0] == spec.origin[0]
    assert 2 <= len(found.culprits) <= 5
    assert found.confirmed
    assert found.minimal
    assert found.after is not None
    assert all(output.passed for output in found.after.outputs)


def test_the_document_is_json_and_complete(tmp_path: Path) -> None:
    options = DiagnosisOptions(growth=True)
    found = diagnose(case_path("residual-growth"), precision="fp16", journal=tmp_path, options=options)
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["schema"] == "harness.diagnosis/1"
    assert document["verdict"] == "precision"
    assert document["case_path"].endswith("residual-growth.case.yaml")
    assert document["journal"] == str(tmp_path)
    frame = found.to_frame()
    assert len(frame) == len(document["layers"]) == len(found.layers)
    assert frame["origin"].sum() == 1
    assert frame["cured"].max() < 1e-2


def test_layers_are_measured_when_they_are_asked_for(tmp_path: Path) -> None:
    found = diagnose(case_path("residual-growth"), precision="fp16", journal=tmp_path)
    assert found.layers == ()
    assert found.to_dict()["layers"] == []
    assert len(found.to_frame()) == 0


def test_progress_tells_the_stages_in_order(tmp_path: Path) -> None:
    events: list[DiagnosisEvent] = []
    diagnose(case_path("residual-growth"), precision="fp16", journal=tmp_path, progress=events.append)
    order = list(dict.fromkeys(event.stage for event in events))
    assert order == [Stage.GATES, Stage.PREDICT, Stage.CURE, Stage.ATTRIBUTE]
    assert [event.emulations for event in events] == sorted(event.emulations for event in events)
    assert any(event.suspects for event in events)


def test_tf32_that_is_too_coarse_is_tf32_on_the_emulator(tmp_path: Path) -> None:
    model = rmsnorm()
    tight = [Tolerance(nrmse=1e-4)]
    found = diagnose_model(model, feeds(model), Precision.TF32, tolerances=tight, out=tmp_path)
    assert found.verdict is DiagnosisVerdict.TF32
    assert found.confirmed
    assert set(found.culprits) <= model.product_nodes
    assert "noTF32" in found.recipes["trtexec"]


def test_an_error_that_accumulates_blames_nobody_alone(adding_up: Diagnosis) -> None:
    found = adding_up
    assert found.verdict is DiagnosisVerdict.PRECISION
    assert len(found.culprits) > 2
    assert found.minimal
    assert all("no single node is at fault" in origin.why for origin in found.origins)
    assert "add up" in found.summary


def test_all_samples_must_pass_with_the_island() -> None:
    """Only the second sample overflows: the island must hold for both."""
    model = rmsnorm(scale=20.0)
    samples = feeds(model, samples=2)
    samples[1] = {name: value * np.float32(30.0) for name, value in samples[1].items()}
    found = diagnose_model(model, samples, Precision.FP16)
    assert found.verdict is DiagnosisVerdict.PRECISION
    assert found.before is not None
    assert [output.passed for output in found.before.outputs] == [True, False]
    assert found.after is not None
    assert [output.passed for output in found.after.outputs] == [True, True]


def masked(scale: float) -> Model:
    """Attention weights behind a mask of -3.4e38, as exporters write it, and a square that overflows at 600."""
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["scaled"], name="scale"),
        helper.make_node("Mul", ["scaled", "scaled"], ["sq"], name="sq"),
        helper.make_node("ReduceMean", ["sq"], ["mean"], name="mean", axes=[-1], keepdims=1),
        helper.make_node("Sqrt", ["mean"], ["root"], name="sqrt"),
        helper.make_node("Div", ["scaled", "root"], ["norm"], name="norm"),
        helper.make_node("Where", ["seen", "norm", "lowest"], ["logits"], name="mask"),
        helper.make_node("Softmax", ["logits"], ["y"], name="softmax", axis=-1),
    ]
    weights = {
        "scale": np.float32(scale),
        "lowest": np.float32(-3.4e38),
        "seen": np.tril(np.ones((8, 8), dtype=bool)),
    }
    proto = graph_model(nodes, inputs={"x": [8, 8]}, outputs={"y": [8, 8]}, weights=weights, opset=13)
    return load_model(proto, name="masked")


def test_infinities_that_do_no_harm_are_no_culprits() -> None:
    sound = masked(1.0)
    assert diagnose_model(sound, feeds(sound), Precision.FP16).verdict is DiagnosisVerdict.NONE
    faulty = masked(2000.0)
    found = diagnose_model(faulty, feeds(faulty), Precision.FP16)
    assert found.verdict is DiagnosisVerdict.PRECISION
    assert found.culprits == ("sq", "mean", "sqrt")
    assert [origin.node for origin in found.origins] == ["sq"]


def test_a_judge_that_is_lent_stays_open(tmp_path: Path) -> None:
    with Judge() as judge:
        case = load_case(case_path("dynamic-batch"))
        diagnose(case, precision="fp16", journal=tmp_path / "1", judge=judge)
        bench = judge.bench(case)
        diagnose(case, precision="bf16", journal=tmp_path / "2", judge=judge)
        assert judge.bench(case) is bench


@pytest.mark.parametrize(
    ("options", "message"),
    [({"max_builds": 0}, "0 builds"), ({"max_seconds": -1.0}, "seconds"), ({"precision": "fp17"}, "fp17")],
)
def test_senseless_arguments_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        diagnose(case_path("dynamic-batch"), **options)  # type: ignore[arg-type]


def test_a_model_without_inputs_data_is_refused() -> None:
    with pytest.raises(UsageError, match="no inputs"):
        diagnose_model(rmsnorm(), [], Precision.FP16)


def test_a_limit_of_seconds_ends_in_what_is_known() -> None:
    model = rmsnorm(scale=600.0)
    found = diagnose_model(model, feeds(model), Precision.FP16, budget=DiagnosisBudget(seconds=1e-9))
    assert found.verdict is DiagnosisVerdict.UNRESOLVED
    assert found.exit_code == 4
    assert "stopped" in found.evidence[-1].text


def overflowing(folder: Path) -> Path:
    path = folder / "my model.onnx"
    save_model(rmsnorm(scale=600.0), path)
    return path


def test_the_command_that_goes_on_names_limit_target_shapes_and_folder(tmp_path: Path) -> None:
    out = tmp_path / "found"
    shapes = {"x": (64, 32)}
    stopped = harness.diagnose(
        overflowing(tmp_path), precision="fp16", inputs=shapes, max_seconds=1e-6, out=out
    )
    assert stopped.verdict is DiagnosisVerdict.UNRESOLVED
    assert "it reached its limit of 1e-06 s (--max-seconds)" in stopped.summary
    words = shlex.split(stopped.advice[-1])
    assert words[:3] == ["harness", "diagnose", str(tmp_path / "my model.onnx")]
    assert words[words.index("--input") + 1] == "x:[64,32]"
    assert words[words.index("--out") + 1] == str(out)
    assert words[-3:] == ["--resume", "--max-seconds", "2e-06"]
    # The words are understood by the command line, and go on in the same journal.
    words[-1] = "60"
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert json.loads((out / "diagnosis.json").read_text())["culprits"] == list(ISLAND)


def test_without_a_limit_reached_an_unresolved_fault_is_gone_on_with_by_hand() -> None:
    model = rmsnorm()
    bench = make_bench(model, feeds(model))
    context = Context(Subject(bench, Precision.FP16, bench.emulator))
    seen = replace(
        start(context, DiagnosisOptions()),
        conclusion=Conclusion(DiagnosisVerdict.UNRESOLVED),
        handover=Handover(written=False),
    )
    (next_command,) = advise(context, seen)
    assert next_command == "harness explore rmsnorm --precision fp16"
