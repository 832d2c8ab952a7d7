"""What nothing can be compared with: references that are not finite, or not stable."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from engines import FakeEngine
from graphs import branch_and_loop, graph_model, norm_chain
from models import ROOT, case_path
from onnx import TensorProto, helper

from harness.backends import DoubleReference, Reference
from harness.case import Tolerance, load_case, make_feeds, resolve_model
from harness.diagnosis import DiagnosisVerdict, Subject, diagnose_model, document
from harness.diagnosis.context import make_bench
from harness.diagnosis.stages import check_stability
from harness.model import Model, load_model
from harness.report.diagnosis.words import statements
from harness.tensors import Precision


def evaluate(
    model: Model, feeds: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    wide = DoubleReference(model).run(feeds).tensors
    return dict(wide), Reference(model).run(feeds)


CASES = sorted(path.name.removesuffix(".case.yaml") for path in (ROOT / "cases").glob("*.case.yaml"))


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("resnet50", "whisper-encoder")])
def test_every_bundled_model_runs_in_double_precision_and_agrees(name: str) -> None:
    case = load_case(case_path(name))
    model = load_model(resolve_model(case), name=name)
    wide, narrow = evaluate(model, make_feeds(case, model.inputs)[0])
    for tensor, values in narrow.items():
        if values.dtype == np.float32:
            assert wide[tensor].dtype == np.float64
            scale = np.sqrt(np.mean(np.square(values, dtype=np.float64)))
            assert np.sqrt(np.mean((wide[tensor] - values) ** 2)) < 1e-5 * scale
            assert not np.array_equal(wide[tensor], values)


def test_double_precision_is_what_numpy_computes_in_it() -> None:
    model = load_model(norm_chain(scale=3.0))
    x = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    scaled = x.astype(np.float64) * 3.0
    norm = scaled / np.sqrt(np.mean(scaled**2, axis=-1, keepdims=True))
    expected = np.maximum(norm @ model.weight("w").astype(np.float64), 0) + x
    wide, _ = evaluate(model, {"x": x})
    np.testing.assert_allclose(wide["y"], expected, rtol=1e-14, atol=1e-14)


def test_subgraphs_become_double_too() -> None:
    proto = branch_and_loop()
    model = load_model(proto)
    rng = np.random.default_rng(0)
    feeds = {}
    for info in model.inputs:
        shape = [int(size) if isinstance(size, int) else 2 for size in info.shape or ()]
        data = rng.standard_normal(shape)
        feeds[info.name] = np.asarray(data > 0 if info.dtype == "bool" else data, dtype=info.dtype)
    wide, narrow = evaluate(model, feeds)
    for name, values in narrow.items():
        np.testing.assert_allclose(wide[name], values, rtol=1e-4, atol=1e-5)


def test_an_operator_without_a_double_kernel_is_found_out() -> None:
    nodes = [helper.make_node("Shrink", ["x"], ["a"], lambd=0.1), helper.make_node("Mish", ["a"], ["y"])]
    model = load_model(graph_model(nodes, inputs={"x": [3]}, outputs={"y": [3]}, opset=18))
    double = DoubleReference(model)
    found = double.run({"x": np.float32([0.5, -1.0, 2.0])})
    assert found.tensors["y"].dtype == np.float64
    assert "Mish" in double.fp32_ops or double.fp32_ops == ()


def unstable() -> Model:
    """(x + 1e9) - 1e9: FP32 has steps of 64 there."""
    nodes = [
        helper.make_node("Add", ["x", "large"], ["shifted"], name="shift"),
        helper.make_node("Sub", ["shifted", "large"], ["y"], name="unshift"),
    ]
    proto = graph_model(nodes, inputs={"x": [8]}, outputs={"y": [8]}, weights={"large": np.float32(1e9)})
    return load_model(proto, name="unstable")


X = np.linspace(-100, 100, 8, dtype=np.float32)


def test_a_reference_is_unstable_if_one_sample_is_whichever() -> None:
    model = unstable()
    for samples, stable in (([X * 0], True), ([X * 0, X], False), ([X, X * 0], False)):
        bench = make_bench(model, [{"x": sample} for sample in samples])
        assert check_stability(Subject(bench, Precision.BF16, bench.emulator)).stable is stable


def test_an_unstable_reference_is_no_reference() -> None:
    diagnosis = diagnose_model(unstable(), [{"x": X}], Precision.BF16)
    assert diagnosis.verdict is DiagnosisVerdict.REFERENCE
    assert diagnosis.exit_code == 1
    assert diagnosis.culprits == ()
    assert [origin.node for origin in diagnosis.origins] == ["unshift"]
    assert "cancel" in diagnosis.origins[0].why
    assert "FP32 has steps of 64" in diagnosis.origins[0].why
    assert "not stable: FP64" in diagnosis.evidence[-1].text


def doubtful_and_sound(*, shift: float) -> Model:
    """`a`, from which FP32 takes its digits, and `b`, an RMS norm whose squares overflow FP16."""
    nodes = [
        helper.make_node("Mul", ["x", "small"], ["near"], name="near"),
        helper.make_node("Add", ["near", "shift"], ["far"], name="far"),
        helper.make_node("Sub", ["far", "shift"], ["a"], name="back"),
        helper.make_node("Mul", ["x", "large"], ["scaled"], name="scaled"),
        helper.make_node("Mul", ["scaled", "scaled"], ["sq"], name="sq"),
        helper.make_node("ReduceMean", ["sq"], ["mean"], name="mean", axes=[-1], keepdims=1),
        helper.make_node("Sqrt", ["mean"], ["root"], name="root"),
        helper.make_node("Div", ["scaled", "root"], ["b"], name="norm"),
    ]
    weights = {"small": np.float32(0.03), "shift": np.float32(shift), "large": np.float32(500)}
    proto = graph_model(nodes, inputs={"x": [4, 16]}, outputs={"a": [4, 16], "b": [4, 16]}, weights=weights)
    return load_model(proto, name="doubtful")


SAMPLE = {"x": np.random.default_rng(4).standard_normal((4, 16)).astype(np.float32)}


def test_an_output_that_the_reference_cannot_decide_does_not_hide_the_others() -> None:
    diagnosis = diagnose_model(doubtful_and_sound(shift=6e4), [SAMPLE], Precision.FP16)
    assert diagnosis.verdict is DiagnosisVerdict.PRECISION
    assert [origin.node for origin in diagnosis.origins] == ["sq"]
    assert diagnosis.culprits == ("sq", "mean", "root")
    assert diagnosis.confirmed
    assert diagnosis.before is not None
    assert [(output.tensor, output.passed) for output in diagnosis.before.outputs] == [
        ("a", False),
        ("b", False),
    ]
    assert diagnosis.before.reason.startswith("b: ")
    (sentence,) = diagnosis.beside
    assert sentence.startswith("a was not judged: the error of the FP32 reference itself is ")
    assert [each.label for each in statements(diagnosis) if each.text == sentence] == ["beside"], "said once"
    assert sentence in [evidence.text for evidence in diagnosis.evidence]
    assert diagnosis.after is not None
    assert [output.tensor for output in diagnosis.after.outputs] == ["b"]
    assert '"tensor": "a"' in document(diagnosis)


def test_an_engine_is_held_to_what_the_reference_decides() -> None:
    model = doubtful_and_sound(shift=6e4)
    candidate = FakeEngine(model, "norm", lambda build: False)
    diagnosis = diagnose_model(model, [SAMPLE], Precision.FP16, candidate=candidate)
    assert diagnosis.verdict is DiagnosisVerdict.PRECISION
    assert diagnosis.culprits == ("sq", "mean", "root")
    assert [output.tensor for output in diagnosis.cured] == ["b"]


def test_what_is_not_finite_needs_no_stable_reference() -> None:
    diagnosis = diagnose_model(doubtful_and_sound(shift=3e5), [SAMPLE], Precision.FP16)
    assert diagnosis.verdict is DiagnosisVerdict.PRECISION
    assert [origin.node for origin in diagnosis.origins] == ["far", "back", "sq"]
    assert diagnosis.culprits == ("far", "back", "sq", "mean", "root")
    assert diagnosis.before is not None
    (sentence,) = diagnosis.beside
    assert sentence.startswith("a was judged for being finite and of the right shape only: ")


def test_small_elements_that_are_lost_are_blamed_on_the_node_that_loses_them() -> None:
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["p"], name="p"),
        helper.make_node("Clip", ["p", "low"], ["clipped"], name="clipped"),
        helper.make_node("Log", ["clipped"], ["y"], name="log"),
    ]
    weights = {"low": np.float32(1e-9)}
    model = load_model(graph_model(nodes, inputs={"x": [8]}, outputs={"y": [8]}, weights=weights))
    x = np.array([-19, -18.5, -3, -2, 0, 1, 2, 3], dtype=np.float32)
    diagnosis = diagnose_model(model, [{"x": x}], Precision.BF16, tolerances=[Tolerance(nrmse=1e-6)])
    assert diagnosis.verdict is DiagnosisVerdict.REFERENCE
    assert [origin.node for origin in diagnosis.origins] == ["p"]
    assert diagnosis.origins[0].why.startswith("ONNX Runtime's FP32 kernel gives 0 where FP64 gives ")


def test_a_reference_that_is_not_finite_is_no_reference() -> None:
    nodes = [
        helper.make_node("Log", ["x"], ["a"], name="log"),
        helper.make_node("Relu", ["a"], ["y"], name="relu"),
    ]
    model = load_model(graph_model(nodes, inputs={"x": [8]}, outputs={"y": [8]}), name="log")
    diagnosis = diagnose_model(model, [{"x": X}], Precision.FP16)
    assert diagnosis.verdict is DiagnosisVerdict.REFERENCE
    assert [origin.node for origin in diagnosis.origins] == ["log"]
    assert diagnosis.origins[0].why == "it takes the logarithm of numbers below 0"
    assert diagnosis.before is None


def test_a_reference_that_is_drawn_anew_is_no_reference() -> None:
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["r"], name="draw", scale=1e-4),
        helper.make_node("Add", ["x", "r"], ["y"], name="add"),
    ]
    model = load_model(graph_model(nodes, inputs={"x": [8]}, outputs={"y": [8]}), name="drawn")
    diagnosis = diagnose_model(model, [{"x": X}], Precision.FP16)
    assert (diagnosis.verdict, diagnosis.exit_code) == (DiagnosisVerdict.REFERENCE, 1)
    assert [(origin.node, origin.why) for origin in diagnosis.origins] == [
        ("draw", "it draws random numbers, different ones in each run")
    ]
    assert "not reproducible: y differs" in diagnosis.evidence[0].text
    assert diagnosis.advice == ("make what is drawn an input of the model, or feed 0 to what scales it",)


def test_without_double_precision_the_inputs_are_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.diagnosis.stages import gates
    from harness.errors import ModelError

    def refuse(model: Model) -> DoubleReference:
        raise ModelError("no kernel")

    monkeypatch.setattr(gates, "DoubleReference", refuse)
    bench = make_bench(load_model(norm_chain()), [{"x": np.ones((2, 16), dtype=np.float32)}])
    found = check_stability(Subject(bench, Precision.FP16, bench.emulator))
    assert found.stable
    assert found.share is not None
    assert 0 < found.share < 1e-3
    assert "half an FP32 step" in found.method


def test_a_reference_that_fails_with_its_inputs_moved_says_nothing_of_stability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from harness.diagnosis.stages import gates
    from harness.errors import ModelError

    def refuse(model: Model) -> DoubleReference:
        raise ModelError("no kernel")

    monkeypatch.setattr(gates, "DoubleReference", refuse)
    nodes = [
        helper.make_node("Ceil", ["x"], ["whole"], name="whole"),
        helper.make_node("Cast", ["whole"], ["index"], name="index", to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["y"], name="read"),
    ]
    weights = {"table": np.arange(10, dtype=np.float32)}
    proto = graph_model(nodes, inputs={"x": [8]}, outputs={"y": [8]}, weights=weights)
    bench = make_bench(load_model(proto), [{"x": np.full(8, 9, dtype=np.float32)}])
    found = check_stability(Subject(bench, Precision.FP16, bench.emulator))
    assert found.share is None
    assert "with inputs moved a little ONNX Runtime fails at read (Gather)" in found.method


def test_without_float_inputs_nothing_is_said_of_stability(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.diagnosis.stages import gates
    from harness.errors import ModelError

    def refuse(model: Model) -> DoubleReference:
        raise ModelError("no kernel")

    monkeypatch.setattr(gates, "DoubleReference", refuse)
    nodes = [helper.make_node("Cast", ["x"], ["y"], name="cast", to=TensorProto.FLOAT)]
    proto = graph_model(nodes, inputs={"x": [2]}, outputs={"y": [2]}, dtypes={"x": TensorProto.INT64})
    bench = make_bench(load_model(proto), [{"x": np.array([1, 2], dtype=np.int64)}])
    found = check_stability(Subject(bench, Precision.FP16, bench.emulator))
    assert found.share is None
    assert found.stable


def test_the_double_graph_leaves_the_model_as_it_is() -> None:
    model = load_model(norm_chain())
    before = (
        model.skeleton.SerializeToString(deterministic=True),
        model.inferred.SerializeToString(deterministic=True),
    )
    DoubleReference(model).run({"x": np.ones((2, 16), dtype=np.float32)})
    assert before == (
        model.skeleton.SerializeToString(deterministic=True),
        model.inferred.SerializeToString(deterministic=True),
    )
    assert model.inferred.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
