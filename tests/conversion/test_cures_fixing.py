"""Models that are fixed: what stays is proved and taken by the compiler, what is left out is said."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from cure_examples import NEGATIVE, POSITIVE, Example
from onnxruntime.quantization import quantize_dynamic

from cases.models.transformer import attention_encoder
from harness.compiler import ReportCache
from harness.conversion.cures import fix, write_fixed
from harness.environments import Environment, close_shared
from harness.model import Model, load_model

PYTHON = os.environ.get("HARNESS_RTX_PYTHON")
#: Refused before and built after by TensorRT for RTX.
CURED = (
    "topk-beyond-limit",
    "scatter-with-reduction",
    "dilated-pool",
    "inline-definition",
    "fourier-transform",
    "static-quantisation",
)


def test_cures_follow_each_other():
    model = Example(
        "g (float[N,4,8] x) => (float[N,4,8] y) { m = ReduceMean(x, ax) d = Sub(x, m) q = Mul(d, d) "
        "v = ReduceMean(q, ax) e = Add(v, eps) s = Sqrt(e) n = Div(d, s) w = Mul(n, g) c = Add(w, b) y = Add(c, b) }",
        {
            "ax": np.array([-1]),
            "eps": np.float32(1e-5),
            "g": np.ones(8, np.float32),
            "b": np.ones(8, np.float32),
        },
    ).model()
    fixed = fix(model)
    assert [each.code for each in fixed.applied] == ["layer-normalisation", "layer-normalisation-bias"]
    assert [node.op for node in fixed.model.nodes] == ["LayerNormalization"]
    assert all(each.proof.holds and not each.taken_by for each in fixed.applied)


def test_a_cure_that_is_not_proved_is_left_out_and_nothing_is_written(tmp_path):
    masked = POSITIVE["safe-mask"][5].model()
    # Two lowest floats are −inf: in rows that are masked throughout what is masked once had all the weight.
    rows = {"x": np.ones((1, 8, 8), np.float32), "attention_mask": np.zeros((1, 8), np.int64)}
    fixed = fix(masked, feeds=[rows])
    assert not fixed.applied
    assert [each.code for each in fixed.left_out] == ["safe-mask"]
    assert "'y'" in fixed.left_out[0].why
    assert fixed.model is masked
    assert write_fixed(fixed, tmp_path / "out.onnx") is None
    assert not list(tmp_path.iterdir())


def test_a_mask_of_the_lowest_float64_is_cured_twice():
    fixed = fix(POSITIVE["float64"][1].model())
    assert [each.code for each in fixed.applied] == ["float64", "safe-mask"]
    assert not fixed.left_out


def test_a_proof_says_how_large_numbers_were_and_which_masks_were_of_0_and_1_only():
    by_code = {each.code: each for each in fix(POSITIVE["safe-mask"][2].model()).applied}
    proof = by_code["safe-mask"].proof
    assert proof.binary == ("attention_mask",)
    assert 0 < proof.largest < 100
    wide = fix(POSITIVE["float64"][0].model()).applied[0].proof
    assert (wide.binary, wide.largest) == ((), 1e4)


def test_what_is_written_is_the_proved_model(tmp_path):
    fixed = fix(POSITIVE["floored-mod"][0].model())
    path = write_fixed(fixed, tmp_path / "out.onnx")
    assert path is not None
    assert [node.op for node in load_model(path).nodes] == [node.op for node in fixed.model.nodes]


def test_a_model_without_faults_stays_as_it_is():
    fixed = fix(NEGATIVE["constant-folding"].model())
    assert not fixed.applied
    assert not fixed.left_out


def test_why_a_refused_node_has_no_cure_is_told():
    large = Example("g (float[N,4,4] x) => (float[N] y) { y = Det(x) }").model()
    fixed = fix(large, refused=frozenset(node.name for node in large.nodes))
    assert [(each.code, each.why) for each in fixed.left_out] == [("determinant", "its matrices are 4 × 4")]
    assert not fix(large, refused=frozenset()).left_out  # where nobody refuses it there is nothing to cure


def test_what_onnx_cannot_convert_is_told_in_its_words():
    old = Example(
        "g (float[1,1,4,4] x) => (float[1,1,2,2] y) { n = BatchNormalization<spatial = 0>(x, a, b, a, a) "
        "y, i = MaxPool<kernel_shape = [3, 3]>(n) j = Cast<to = 1>(i) k = ReduceMax<keepdims = 0>(j) y2 = Add(y, k) }",
        {"a": np.ones((1, 4, 4), np.float32), "b": np.zeros((1, 4, 4), np.float32)},
        opset=8,
    ).model()
    fixed = fix(old, refused=frozenset(node.name for node in old.nodes if node.op == "MaxPool"))
    (why,) = (each.why for each in fixed.left_out if each.code == "dilated-pool")
    assert why.startswith("opset ")
    assert "Attribute spatial must have value 1" in why


def dynamically_quantised(folder: Path) -> Model:
    """An encoder as ONNX Runtime's dynamic quantisation writes it."""
    onnx.save(attention_encoder(layers=1, width=64, heads=2, tokens=16), folder / "float.onnx")
    quantize_dynamic(folder / "float.onnx", folder / "dynamic.onnx")
    return load_model(folder / "dynamic.onnx")


def test_what_onnx_runtime_quantised_dynamically_gets_static_scales_of_the_data(tmp_path):
    model = dynamically_quantised(tmp_path)
    tokens = np.random.default_rng(0).standard_normal((10, 2, 16, 64)).astype(np.float32)
    fixed = fix(model, feeds=[{"tokens": each} for each in tokens], given=True)
    first = fixed.applied[0]
    assert first.code == "static-quantisation"
    assert (first.proof.calibrated, first.proof.samples, first.proof.given) == (5, 5, True)
    assert first.proof.before is not None
    assert 0.5 * first.proof.before < first.proof.error < 3 * first.proof.before < 0.05
    ops = Counter(node.op for node in fixed.model.nodes)
    assert (ops["QuantizeLinear"], ops["MatMulInteger"], ops["DynamicQuantizeLinear"]) == (4, 0, 0)


def test_scales_that_do_not_fit_other_inputs_are_left_out_for_those_at_run_time(tmp_path):
    model = dynamically_quantised(tmp_path)
    tokens = np.random.default_rng(0).standard_normal((10, 2, 16, 64)).astype(np.float32)
    tokens[::2] *= 1e-3  # what is calibrated on
    fixed = fix(model, feeds=[{"tokens": each} for each in tokens])
    assert "ranges differ from input to input" in fixed.left_out[0].why
    assert {"integer-products", "asymmetric-quantisation"} <= {each.code for each in fixed.applied}


@pytest.mark.skipif(PYTHON is None, reason="HARNESS_RTX_PYTHON names no Python with TensorRT for RTX")
@pytest.mark.parametrize("code", CURED)
def test_the_compiler_takes_what_it_refused(code, tmp_path):
    model = POSITIVE[code][0].model()
    environment = Environment("rtx", (str(PYTHON),))
    profiles = {
        info.name: (shape, shape, shape)
        for info in model.inputs
        for shape in [tuple(size if isinstance(size, int) else 3 for size in info.shape or ())]
        if shape != info.shape
    }
    fixed = fix(model, [environment], profiles=profiles, cache=ReportCache(tmp_path))
    close_shared()
    assert fixed.applied[0].code == code
    assert fixed.applied[0].taken_by == ("rtx",)
    assert fixed.reports["rtx"].built


def test_what_folding_of_constants_makes_no_sense_of_is_left_as_it_is():
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 17]>
        g (float[3, 6] x, int64 split) => (seq(float[]) parts) { parts = SplitToSequence <axis: int = 1> (x, split) }
    """)
    assert fix(load_model(model)).applied == ()


def test_static_scales_keep_the_integers_of_the_weights(tmp_path):
    def integers(model: Model) -> list[np.ndarray]:
        arrays = [value.const_value.numpy() for value in model.ir.graph.initializers.values()]
        return [array for array in arrays if array.dtype == np.int8 and array.ndim > 1]

    model = dynamically_quantised(tmp_path)
    fixed = fix(model)
    assert (fixed.applied[0].code, len(integers(model))) == ("static-quantisation", 6)
    for array in integers(model):
        assert any(np.array_equal(array, each) for each in integers(fixed.model))
