"""What a proof refuses: a rewrite that is wrong in one place, in one shape, or in its interface."""

from __future__ import annotations

import numpy as np
import pytest
from cure_examples import Example

from harness.conversion.cures import fix, prove
from harness.conversion.cures.evaluator import Evaluator
from harness.errors import ModelError

RELU = Example("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")


@pytest.mark.parametrize(
    ("graph", "constants", "why"),
    [
        ("g (float[N,4] x) => (float[N,4] y) { y = Abs(x) }", {}, "differs by"),
        ("g (float[N,4] x) => (float[N,4] y) { y = LeakyRelu<alpha = 0.0005>(x) }", {}, "differs by"),
        ("g (float[N,4] x) => (float[N,4] z) { z = Relu(x) }", {}, "inputs or outputs"),
        ("g (float[N,M] x) => (float[N,M] y) { y = Relu(x) }", {}, "inputs or outputs"),
        (
            "g (float[N,4] x) => (float[N,4] y) { r = Relu(x) y = Reshape(r, s) }",
            {"s": np.array([2, 4])},
            "cannot be run",
        ),
        (
            "g (float[N,4] x) => (float[N,4] y) { r = Relu(x) y = Div(r, z) }",
            {"z": np.float32(0)},
            "not finite",
        ),
    ],
)
def test_a_wrong_rewrite_is_not_proved(graph, constants, why):
    proof = prove(RELU.model(), Example(graph, constants).model())
    assert not proof.holds
    assert why in proof.why_not


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("y = Mul(x, one)", "q = Div(x, x) y = Mul(q, x)"),  # at 0
        ("y = Mul(x, one)", "y = Clip(x, low, high)"),  # beyond 1000
        (
            "a = Min(x, high) y = Max(a, low)",
            "a = Sub(x, x) b = Min(x, high) c = Max(b, low) y = Add(a, c)",
        ),  # at ∞
    ],
)
def test_what_is_wrong_at_zero_for_large_or_infinite_numbers_is_not_proved(right, wrong):
    constants = {
        "one": np.float32(1),
        "lot": np.float32(1e6),
        "low": np.float32(-1e3),
        "high": np.float32(1e3),
    }
    head = "g (float[N,4] x) => (float[N,4] y) { %s }"
    models = [Example(head % body, constants).model() for body in (right, wrong)]
    assert not prove(*models).holds
    assert prove(models[0], models[0]).holds


def test_a_float_mask_is_drawn_as_fractions_where_nothing_bars_it():
    head = "g (float[N,4] x, float[N,4] attention_mask) => (float[N,4] y) { %s }"
    masked = "s = Sub(one, %s) w = Mul(s, low) a = Add(x, w) y = Softmax(a)"
    constants = {"one": np.float32(1), "low": np.float32(-np.finfo(np.float32).max)}
    fraction = Example(head % masked % "attention_mask", constants).model()
    whole = Example(head % ("f = Ceil(attention_mask) " + masked % "f"), constants).model()
    assert not prove(fraction, whole).holds
    proof = prove(fraction, whole, where_finite=True)
    assert (proof.holds, proof.binary) == (True, ("attention_mask",))


def test_rounding_that_sums_amplify_is_no_difference():
    plain = Example("g (float[N,64] x) => (float[N,1] y) { y = ReduceSum(x, ax) }", {"ax": np.array([1])})
    split = Example(
        "g (float[N,64] x) => (float[N,1] y) { a, b = Split<axis = 1, num_outputs = 2>(x) "
        "s = ReduceSum(a, ax) t = ReduceSum(b, ax) y = Add(s, t) }",
        {"ax": np.array([1])},
    )
    proof = prove(plain.model(), split.model())
    assert proof.holds, proof.why_not
    assert proof.shapes >= 3


def test_integers_must_be_equal():
    plain = Example("g (int32[N,4] x) => (int32[N,4] y) { y = Identity(x) }")
    other = Example("g (int32[N,4] x) => (int32[N,4] y) { y = Abs(x) }")
    assert "values of output 'y' differ" in prove(plain.model(), other.model()).why_not


def test_what_is_not_finite_in_the_original_may_be_left_out():
    plain = Example("g (float[N,4] x) => (float[N,4] y) { l = Log(x) y = Relu(l) }")
    other = Example("g (float[N,4] x) => (float[N,4] y) { a = Abs(x) l = Log(a) y = Relu(l) }")
    assert not prove(plain.model(), other.model()).holds
    assert prove(plain.model(), other.model(), where_finite=True).holds


def test_a_batch_that_mixes_its_rows_is_not_freed():
    baked = Example("g (float[N,4] x) => (float[N,4] y) { y = Reshape(x, s) }", {"s": np.array([2, 4])})
    mixes = Example(
        "g (float[N,4] x) => (float[N,4] y) { m = ReduceMean(x, ax) d = Sub(m, m) y = Add(x, d) }",
        {"ax": np.array([0])},
    )
    wrong = Example(
        "g (float[N,4] x) => (float[N,4] y) { s = Shape(x) n = Gather(s, z) f = Cast<to = 1>(n) t = Sub(f, two) "
        "y = Add(x, t) }",
        {"z": np.array(0), "two": np.float32(2)},
    )
    assert prove(baked.model(), mixes.model(), batch=2).holds
    assert "depends on the others" in prove(baked.model(), wrong.model(), batch=2).why_not


def test_a_model_that_nothing_runs_proves_nothing():
    strings = Example("g (string[N,4] x) => (string[N,4] y) { y = Identity(x) }")
    proof = prove(strings.model(), strings.model())
    assert not proof.holds
    assert proof.samples == 0


def test_a_first_size_that_is_declared_is_meant():
    meant = Example("g (float[N,4,8] x) => (float[1,M] y) { y = Reshape(x, s) }", {"s": np.array([1, -1])})
    fixed = fix(meant.model())
    assert not fixed.applied
    assert "is declared as [1, 'M']" in fixed.left_out[0].why


def test_strings_that_a_model_writes_are_compared():
    models = [
        Example(f"g (int64[N,4] x) => (string[N,4] y) {{ a = {operator}(x) y = Cast<to = 8>(a) }}").model()
        for operator in ("Identity", "Abs")
    ]
    assert prove(models[0], models[0]).holds
    assert not prove(*models).holds


IMAGE = Example('g (uint8[N] x) => (uint8[H,W,C] y) { y = ImageDecoder<pixel_format = "RGB">(x) }', opset=20)


def test_bytes_that_are_no_image_prove_nothing():
    proof = prove(IMAGE.model(), IMAGE.model())
    assert not proof.holds
    assert proof.samples == 0


@pytest.mark.parametrize("fault", [TypeError, RuntimeError, KeyError, ValueError])
def test_a_fault_of_harness_is_not_taken_for_inputs_without_sense(monkeypatch, fault):
    def misuse(*arguments):
        raise fault("ours")

    monkeypatch.setattr("onnx.reference.ReferenceEvaluator.run", misuse)
    with pytest.raises(fault, match="ours"):
        prove(IMAGE.model(), IMAGE.model())


def test_what_is_fed_under_another_name_is_a_fault_of_harness():
    with pytest.raises(ValueError, match=r"fed \['u'\] in place of \['x'\]"):
        Evaluator(RELU.model()).run({"u": np.zeros((2, 4), np.float32)})


def test_whatever_the_evaluator_raises_of_values_is_its_refusal():
    """It raises a TypeError where NumPy says that shapes do not broadcast."""
    model = Example("g (float[N,4] x) => (float[N,4] y) { y = Add(x, c) }", {"c": np.ones(4, np.float32)})
    with pytest.raises(ModelError, match="could not be broadcast") as refusal:
        Evaluator(model.model()).run({"x": np.zeros((2, 3), np.float32)})
    assert isinstance(refusal.value.__cause__, TypeError)


def test_a_number_that_no_integer_holds_is_none_that_the_evaluator_quantizes():
    """It casts to int32 before it saturates, and of infinity it makes the least number there is."""
    model = Example(
        "g (float[N,4] x) => (uint8[N,4] y) { y = QuantizeLinear(x, s, z) }",
        {"s": np.float32(0.5), "z": np.uint8(3)},
    ).model()
    numbers = np.array([[1, 2, 300, 4]], np.float32)
    (found,) = Evaluator(model).run({"x": numbers}).values()
    assert found.tolist() == [[5, 7, 255, 11]]
    with pytest.raises(ModelError, match="invalid value"):
        Evaluator(model).run({"x": np.where(numbers > 100, np.inf, numbers)})


@pytest.mark.parametrize("dtype", ["bfloat16", "float8e4m3fn", "float8e5m2"])
def test_floats_that_numpy_lacks_are_proved(dtype):
    model = Example(
        f"g (float[N,4] x, {dtype}[N,4] s) => ({dtype}[N,4] y) {{ y = CastLike(x, s) }}", opset=19
    ).model()
    proof = prove(model, model)
    assert proof.holds, proof.why_not


@pytest.mark.parametrize(("before", "proved"), [("h = Reciprocal(x)", True), ("h = Log(x)", False)])
def test_what_a_runtime_makes_of_a_scale_that_is_not_finite_is_no_answer(before, proved):
    """Of 1 / 0 it takes a scale that is infinite, and the model hides that; of the logarithms there is nothing else."""
    graph = (
        f"g (float[N,64] x) => (float[N,6] y) {{ {before} q, d, t = DynamicQuantizeLinear(h) "
        "i = MatMulInteger(q, w, t, z) c = Cast<to = 1>(i) m = Mul(c, d) n = IsNaN(m) y = Where(n, low, m) }"
    )
    weights = np.random.default_rng(0).integers(-127, 128, (64, 6)).astype(np.int8)
    model = Example(graph, {"w": weights, "z": np.int8(0), "low": np.float32(-1)}).model()
    fixed = fix(model, refused=frozenset(node.name for node in model.nodes))
    left = {each.code: each.why for each in fixed.left_out}
    assert ("asymmetric-quantisation" in {each.code for each in fixed.applied}) == proved
    assert left.get("asymmetric-quantisation", "") == (
        "" if proved else "the original takes none of the inputs: it quantizes numbers that are not finite"
    )
