"""Small models of public reports: every reason is named, what is hidden is listed, and cures hold on fresh inputs."""

from __future__ import annotations

import html
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import graph_model
from onnx import helper
from report_models import (
    detection_head,
    keep_mask,
    linear_attention,
    masked_attention,
    residual_norms,
    rotary_attention,
)
from rich.console import Console

from cases.models.graph import Graph
from cases.models.layers import linear
from harness import compare
from harness.diagnosis import Diagnosis, DiagnosisVerdict, Recipe, diagnose, diagnose_model
from harness.diagnosis.results import Mend
from harness.judge import Given, Hiding, Verdict
from harness.model import load_model
from harness.report import diagnosis_markdown, diagnosis_page, print_diagnosis
from harness.report.diagnosis.words import statements
from harness.tensors import Precision


def diagnosed(model: onnx.ModelProto, folder: Path, precision: str = "fp16", inputs: str = "") -> Diagnosis:
    onnx.save(model, folder / "model.onnx")
    np.save(folder / "keep.npy", keep_mask())
    case = folder / "model.case.yaml"
    case.write_text(f"model: {{path: model.onnx}}\nruns: [{precision}]\n{inputs}")
    return diagnose(case, precision=precision, journal=folder / "journal")


def told(diagnosis: Diagnosis, label: str) -> str:
    """What the report says under a label."""
    return " | ".join(each.text for each in statements(diagnosis) if each.label == label)


def test_an_overflow_and_an_epsilon_behind_one_island_are_two_reasons(tmp_path: Path) -> None:
    found = diagnosed(linear_attention(), tmp_path)
    assert found.verdict is DiagnosisVerdict.PRECISION
    reasons = {origin.node: origin.why for origin in found.origins}
    assert list(reasons) == ["vk", "den_eps"]
    assert reasons["vk"].startswith("sums of products of values up to ")
    assert reasons["den_eps"].startswith("its constant eps, 1e-15, becomes 0 in FP16")
    assert found.origins[1].mend is Mend.SMALL_CONSTANT
    assert "raise the constant of den_eps to what FP16 holds: to at least 6e-8" in found.advice


def test_an_island_that_is_known_to_fail_on_fresh_samples_is_not_handed_over(tmp_path: Path) -> None:
    """The query decides whether 0 is divided by 1e-15: what it is computed from joins the overflow and the epsilon."""
    onnx.save(linear_attention(), tmp_path / "model.onnx")
    found = diagnose(tmp_path / "model.onnx", precision="fp16", out=tmp_path / "out")
    lost = {"vk", "att", "num", "den_eps", "att_out"}
    query = {"stem", "stem_gain", "q_lin", "q_sub"}
    assert set(found.culprits) == lost | query
    assert [origin.node for origin in found.origins] == ["vk", "den_eps"]
    assert (found.fresh_passed, found.fresh_samples, found.widened, found.wider) == (5, 5, 4, ())
    for seed in range(101, 111):  # none of them was drawn before
        report = compare(
            tmp_path / "model.onnx",
            tmp_path / "out" / "typed.onnx",
            precision=Precision.FP16,
            given=Given(seed=seed),
        )
        assert report.results[0].verdict is Verdict.PASS, seed
    said = "4 nodes were added for fresh samples that failed; it passes on 5 of 5 further ones"
    document = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert document["culprits"] == list(found.culprits)
    assert sum(found.islands, ()) == found.culprits
    pinned = " ".join(f"{name}:float32" for name in found.culprits)
    assert f"--layer-precisions {pinned}" in found.recipes[Recipe.POLYGRAPHY]
    listed = json.loads((tmp_path / "out" / "layers.json").read_text())
    assert all(name in json.dumps(listed) for name in found.culprits)
    console = Console(file=io.StringIO(), record=True, width=100)
    print_diagnosis(console, found)
    page = html.unescape(diagnosis_page(found))
    shown = [diagnosis_markdown(found), page, console.export_text()]
    for text in shown:
        assert said in " ".join(text.split())
        assert all(name in text for name in found.culprits)


def test_where_errors_add_up_the_island_is_called_fitted_and_the_wider_one_is_offered(
    adding_up: Diagnosis,
) -> None:
    found = adding_up
    assert found.origins[0].accumulates
    assert found.minimal
    assert found.fresh_passed < found.fresh_samples
    assert (found.widened, set(found.culprits) < set(found.wider)) == (0, True)
    said = [each.text for each in statements(found) if "fitted to its sample" in each.text]
    assert len(said) == 1
    assert said[0].endswith("in FP32 as well, it passes on all of them")


def norm_beside_cancellation() -> onnx.ModelProto:
    """Squares that overflow in one branch; in the other three roundings of 70 that fail the gate only together."""
    graph, shape = Graph("two", seed=0), (64, 64)
    x = graph.input("x", shape)
    large = graph.node("Mul", "large", linear(graph, x, "a", 64, 64), graph.constant("gain", 600.0))
    mean = graph.node("ReduceMean", "mean", graph.node("Mul", "squares", large, large), axes=[-1], keepdims=1)
    norm = graph.node("Div", "norm", large, graph.node("Sqrt", "rms", mean))
    offset = graph.constant("offset", 70.0)
    up = graph.node("Add", "up", linear(graph, x, "b", 64, 64), offset)
    kept = graph.node("Mul", "kept", up, graph.constant("almost", 1.0001))
    graph.node("Add", "out", norm, graph.node("Sub", "down", kept, offset))
    return graph.model({"out": shape})


def vanishing_norm() -> onnx.ModelProto:
    """Numbers of 1e-6, whose squares are 0 in FP16, divided by the root of their sum."""
    graph, shape = Graph("vanishing", seed=0), (32, 16)
    x = graph.input("x", shape)
    tiny = graph.node("Mul", "tiny", linear(graph, x, "a", 16, 16), graph.constant("factor", 1e-6))
    total = graph.node("ReduceSum", "total", graph.node("Mul", "squares", tiny, tiny), keepdims=1)
    graph.node("Div", "out", tiny, graph.node("Sqrt", "norm", total))
    return graph.model({"out": shape})


def test_a_constant_that_loses_digits_and_squares_that_become_0_are_two_reasons(tmp_path: Path) -> None:
    found = diagnosed(vanishing_norm(), tmp_path)
    reasons = {origin.node: origin.why for origin in found.origins}
    assert list(reasons) == ["tiny", "squares"]
    assert reasons["squares"].startswith("squares of values of about 1")
    assert "become 0 in FP16" in reasons["squares"]


def test_an_island_whose_nodes_fail_only_together_has_its_reason_beside_another_fault(tmp_path: Path) -> None:
    found = diagnosed(norm_beside_cancellation(), tmp_path)
    assert [set(island) for island in found.islands] == [{"squares", "mean", "rms"}, {"up", "kept", "down"}]
    reasons = {origin.node: origin.why for origin in found.origins}
    assert list(reasons) == ["squares", "down"]
    assert reasons["down"].startswith("values of about 70 cancel down to 1.0")
    whys = [each.text for each in statements(found) if each.text.startswith(("squares: ", "down: "))]
    assert len(whys) == 2, "each is told with its node"


def test_an_epsilon_alone_is_named_with_the_division_by_it(tmp_path: Path) -> None:
    found = diagnosed(linear_attention(1.4, 0.9), tmp_path)
    assert [origin.node for origin in found.origins] == ["den_eps", "att_out"]
    assert set(found.culprits) == {"den_eps", "att_out"}


def fully_masked(fill: float) -> onnx.ModelProto:
    """Attention weights, of which one row is masked throughout by `fill`."""
    graph, shape = Graph("masked", seed=0), (8, 16)
    mask = np.zeros(shape, np.float32)
    mask[3] = fill
    masked = graph.node("Add", "masked", graph.input("x", shape), graph.constant("mask", mask))
    graph.node("Softmax", "y", masked, axis=-1)
    return graph.model({"y": shape})


def test_a_mask_passes_with_the_limit_that_is_advised(tmp_path: Path) -> None:
    (advice,) = [
        each for each in diagnosed(fully_masked(-3.4028235e38), tmp_path, "bf16").advice if "clamp" in each
    ]
    assert "stands for infinity" in advice, "it changes numbers that are meant"
    lowest, highest = advice.partition(": between ")[2].split(" and ")
    assert float(lowest) == -float(highest)
    clamped = diagnosed(fully_masked(float(lowest)), tmp_path, "bf16")
    assert clamped.verdict is DiagnosisVerdict.NONE


def test_an_epsilon_passes_with_the_limit_that_is_advised(tmp_path: Path) -> None:
    (advice,) = [
        each for each in diagnosed(linear_attention(1.4, 0.9), tmp_path).advice if each.startswith("raise")
    ]
    model = linear_attention(1.4, 0.9)
    eps = next(each for each in model.graph.initializer if each.name == "eps")
    least = np.asarray(float(advice.partition(": to at least ")[2]), np.float32)
    eps.CopyFrom(onnx.numpy_helper.from_array(least.reshape(tuple(eps.dims)), "eps"))
    assert diagnosed(model, tmp_path).verdict is DiagnosisVerdict.NONE


def test_places_that_a_residual_hides_are_listed_with_the_island_that_mends_them(tmp_path: Path) -> None:
    found = diagnosed(residual_norms(last=1.0), tmp_path)
    assert [origin.node for origin in found.origins] == ["b4_sq"]
    assert [(fault.node, fault.how) for fault in found.hidden] == [
        (f"b{k}_sq", Hiding.ADDED) for k in range(4)
    ]
    assert set(found.culprits) < set(found.hidden_island)
    text = told(found, "hidden")
    assert text.startswith(
        "4 more places overflow the same way, hidden by the residual: b0_sq (Mul), b1_sq (Mul), "
    )
    assert f"keeping {len(found.hidden_island)} nodes in FP32 cures them all" in text
    assert told(found, "where").startswith("it shows at b4_sq (Mul)")
    assert not any("export the norm" in advice for advice in found.advice), (
        "it has no epsilon: no operator is that"
    )


def test_where_nothing_is_wrong_what_is_hidden_is_said_all_the_same(tmp_path: Path) -> None:
    found = diagnosed(residual_norms(), tmp_path)
    assert found.verdict is DiagnosisVerdict.NONE
    assert told(found, "what") == "every gate holds"
    assert told(found, "hidden").startswith("5 places overflow, hidden by the residual: b0_sq (Mul), ")
    assert len(found.hidden_island) >= 15
    places = ", ".join(f"b{index}_sq (Mul)" for index in range(5))
    assert found.summary == (
        f"The emulator passes every gate at fp16, but 5 places overflow behind outputs that pass: {places}."
    )


def test_one_place_that_is_hidden_is_told_in_the_singular(tmp_path: Path) -> None:
    found = diagnosed(residual_norms(blocks=1), tmp_path)
    said = told(found, "hidden")
    assert said.startswith("1 place overflows, hidden by the residual: b0_sq (Mul); keeping ")
    assert " nodes in FP32 cures it: " in said
    assert found.summary.endswith("but 1 place overflows behind outputs that pass: b0_sq (Mul).")


KEEP = "inputs:\n  keep: {fill: {kind: file, path: keep.npy}}\n"


def test_a_guard_of_nan_hides_no_overflow_and_a_mask_is_no_origin(tmp_path: Path) -> None:
    found = diagnosed(masked_attention(), tmp_path, inputs=KEEP)
    assert [origin.node for origin in found.origins] == ["big_qs"]
    assert found.fresh_passed == found.fresh_samples > 0


def test_the_first_nan_of_a_reference_is_named_and_how_it_came(tmp_path: Path) -> None:
    found = diagnosed(masked_attention(guarded=False), tmp_path, inputs=KEEP)
    assert found.verdict is DiagnosisVerdict.REFERENCE
    (origin,) = found.origins
    assert origin.node == "small_softmax"
    assert origin.why.startswith("4 rows of what it reads are −∞ throughout, masked in every place")


@pytest.mark.parametrize(
    ("op", "reads", "why"),
    [
        ("Mul", ("zero", "inf"), "it multiplies 0 by ∞, or takes ∞ from ∞"),
        ("Sub", ("inf", "inf"), "it takes ∞ from ∞"),
        ("Div", ("zero", "zero"), "it divides 0 by 0"),
        ("Sqrt", ("minus",), "it takes the root of numbers below 0"),
    ],
)
def test_nan_is_explained_by_how_it_came(tmp_path: Path, op: str, reads: tuple[str, ...], why: str) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "nothing"], ["zero"], name="zero"),
        helper.make_node("Div", ["one", "zero"], ["inf"], name="inf"),
        helper.make_node("Sub", ["zero", "one"], ["minus"], name="minus"),
        helper.make_node(op, list(reads), ["nan"], name="nan"),
        helper.make_node("Add", ["x", "nan"], ["y"], name="y"),
    ]
    weights = {"nothing": np.float32(0), "one": np.float32(1)}
    proto = graph_model(nodes, inputs={"x": [4, 8]}, outputs={"y": [4, 8]}, weights=weights)
    x = np.abs(np.random.default_rng(0).standard_normal((4, 8))).astype(np.float32)
    found = diagnose_model(load_model(proto, name="nan"), [{"x": x}], Precision.FP16)
    assert found.verdict is DiagnosisVerdict.REFERENCE
    assert [(origin.node, origin.why) for origin in found.origins] == [("nan", why)]


def test_a_quantiser_that_makes_0_of_all_scores_is_a_fault_of_the_file(tmp_path: Path) -> None:
    found = diagnosed(detection_head(quantised=True), tmp_path, "int8")
    assert (found.verdict, found.exit_code) == (DiagnosisVerdict.FILE, 1)
    (origin,) = found.origins
    assert origin.node == "head_q"
    assert origin.why.startswith("it rounds 1600 of 1600 elements of scores to 0: its scale is 5.04")
    assert found.summary.startswith(
        "The file itself is at fault, at any precision: its Q/DQ nodes make output0 wrong"
    )
    assert found.advice[0].startswith("change the file: leave head_q out of the quantisation")


def test_a_file_of_fp16_without_an_overflow_starts_where_its_rounding_does(tmp_path: Path) -> None:
    half = onnx.TensorProto.FLOAT16
    nodes = [
        helper.make_node("Add", ["x", "large"], ["shift"], name="shift"),
        helper.make_node("Sub", ["shift", "large"], ["y"], name="y"),
    ]
    model = graph_model(
        nodes,
        inputs={"x": [4, 64]},
        outputs={"y": [4, 64]},
        weights={"large": np.float16(3001)},
        dtypes={"x": half, "y": half},
    )
    found = diagnosed(model, tmp_path)
    assert found.verdict is DiagnosisVerdict.FILE
    assert [origin.node for origin in found.origins] == ["y"]
    assert "against the same model without" in found.origins[0].why


def test_an_island_that_a_fresh_sample_needs_more_of_is_widened(tmp_path: Path) -> None:
    """The second product overflows for some inputs only, and not for those that the search has seen."""
    nodes = [
        helper.make_node("Mul", ["x", "huge"], ["a"], name="a"),
        helper.make_node("Div", ["a", "huge"], ["b"], name="b"),
        helper.make_node("ReduceMax", ["x"], ["top"], name="top", keepdims=1),
        helper.make_node("Mul", ["top", "near"], ["c"], name="c"),
        helper.make_node("Div", ["c", "near"], ["d"], name="d"),
        helper.make_node("Add", ["b", "d"], ["y"], name="y"),
    ]
    near = np.float32(
        65504 / 1.75
    )  # the largest of 64 normal numbers is 1.56 with this seed, and above with four others
    model = graph_model(
        nodes,
        inputs={"x": [1, 64]},
        outputs={"y": [1, 64]},
        weights={"huge": np.float32(1e6), "near": near},
    )
    found = diagnosed(model, tmp_path, inputs="seed: 0\n")
    assert found.culprits == ("a", "b", "c", "d")
    assert found.widened == 2
    assert found.fresh_passed == found.fresh_samples == 5
    said = "2 nodes were added for fresh samples that failed; it passes on 5 of 5 further ones"
    assert said in told(found, "")


def test_inputs_of_files_are_not_called_fresh(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((8, 32)).astype(np.float32))
    found = diagnosed(
        residual_norms(last=1.0), tmp_path, inputs="inputs:\n  x: {fill: {kind: file, path: x.npy}}\n"
    )
    assert found.fresh_samples == 0
    texts = [each.text for each in found.evidence]
    assert "the island was not tried on other inputs: those of the case come from files" in texts


def test_rotary_positions_at_bf16_are_explained_at_the_ids_and_at_sin_and_cos(tmp_path: Path) -> None:
    found = diagnosed(rotary_attention(), tmp_path, "bf16")
    why = {origin.node: origin.why for origin in found.origins}
    assert list(why) == ["positions", "sin", "cos"]
    assert why["positions"] == (
        "its whole numbers reach 1023, and BF16 holds all of them only up to 256: beyond, its steps grow to 4"
    )
    assert why["sin"] == why["cos"] == "its angles reach 1023, where BF16 has steps of 4 radians"
    assert set(found.culprits) == {"positions", "positions_column", "half_angles", "angles", "sin", "cos"}
    assert found.fresh_passed == found.fresh_samples > 0


def test_one_node_that_is_too_coarse_is_told_in_the_singular(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["positive"], name="positive"),
        helper.make_node("Mul", ["positive", "huge"], ["large"], name="large"),
        helper.make_node("Div", ["large", "huge"], ["y"], name="y"),
    ]
    model = graph_model(
        nodes, inputs={"x": [4, 16]}, outputs={"y": [4, 16]}, weights={"huge": np.float32(6e4)}
    )
    found = diagnosed(model, tmp_path)
    assert found.culprits == ("large", "y")
    assert told(found, "what").startswith("the precision is too low for a few nodes")
    one = replace(found, culprits=found.culprits[:1])
    assert told(one, "what").startswith("the precision is too low for one node")


def test_rotary_positions_at_fp16_are_whole_and_the_angles_too_coarse(tmp_path: Path) -> None:
    found = diagnosed(rotary_attention(), tmp_path)
    assert {origin.node for origin in found.origins} <= {"sin", "cos"}
    assert found.origins[0].why == "its angles reach 1023, where FP16 has steps of 0.5 radians"
