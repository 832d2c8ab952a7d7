"""Each cure on a model that it rewrites and on one that it leaves alone, with the proof, and the real compiler."""

from __future__ import annotations

import os

import numpy as np
import onnx_ir as ir
import pytest
from cure_examples import NEGATIVE, POSITIVE, Example

from harness.backends import Reference
from harness.conversion.cures import CURES, Cure, apply, prove_rewrite
from harness.conversion.cures.building import Inapplicable
from harness.conversion.cures.samples import draw

BY_CODE = {cure.code: cure for cure in CURES}
EXAMPLES = [(code, number) for code, examples in POSITIVE.items() for number in range(len(examples))]
PYTHON = os.environ.get("HARNESS_RTX_PYTHON")


def rewritten(cure: Cure, example: Example):
    model = example.model()
    feeds = draw(model, 6) if cure.calibrate is not None else ()
    return model, apply(cure, model, example.refusals(model), feeds)


def test_every_cure_has_an_example_of_both_kinds_and_says_what_it_needs_and_where_it_is_from():
    assert set(POSITIVE) == set(NEGATIVE) == set(BY_CODE)
    assert all(cure.does and cure.needs and cure.source for cure in CURES)


@pytest.mark.parametrize(("code", "number"), EXAMPLES)
def test_a_cure_answers_as_the_original_on_several_inputs_and_shapes(code, number):
    model, rewrite = rewritten(BY_CODE[code], POSITIVE[code][number])
    assert rewrite is not None
    assert rewrite.nodes
    proof = prove_rewrite(model, rewrite)
    assert proof.holds, proof.why_not
    assert proof.samples >= 2
    assert (rewrite.model.inputs, rewrite.model.outputs) == (model.inputs, model.outputs)


@pytest.mark.parametrize("code", NEGATIVE)
def test_a_cure_leaves_alone_what_it_does_not_cure(code):
    try:
        _, rewrite = rewritten(BY_CODE[code], NEGATIVE[code])
    except Inapplicable:
        return  # and says why
    assert rewrite is None


def test_a_row_that_is_masked_throughout_is_even_as_before():
    """The lowest float absorbs scores: what is added and bounded by the safe number does, too."""
    model = POSITIVE["safe-mask"][1].model()
    rewrite = apply(BY_CODE["safe-mask"], model)
    feeds = {"x": np.arange(64, dtype=np.float32).reshape(1, 8, 8) - 32, "keep": np.zeros((1, 1, 8), bool)}
    (even,) = Reference(rewrite.model).run(feeds).values()
    np.testing.assert_array_equal(even, np.full((1, 8, 8), 0.125, np.float32))
    np.testing.assert_array_equal(even, *Reference(model).run(feeds).values())


@pytest.mark.parametrize("code", POSITIVE)
def test_the_original_stays_as_it_was(code):
    for example in POSITIVE[code]:
        model = example.model()
        before = str(ir.to_proto(model.ir))
        feeds = draw(model, 6) if BY_CODE[code].calibrate is not None else ()
        assert apply(BY_CODE[code], model, example.refusals(model), feeds) is not None
        assert str(ir.to_proto(model.ir)) == before


@pytest.mark.parametrize("number", [1e200, -1e200, 1e-60])
def test_a_factor_that_float32_does_not_hold_stays_in_float64(number):
    graph = "g (float[N,4] x) => (float[N,4] y) { d = Cast<to = 11>(x) e = Mul(d, c) y = Cast<to = 1>(e) }"
    with pytest.raises(Inapplicable, match="float32 does not hold"):
        apply(BY_CODE["float64"], Example(graph, {"c": np.array(number)}).model())


def test_rows_of_nan_that_the_model_looks_for_are_meant():
    graph = (
        "g (float[N,8] x, bool[N,8] keep) => (float[N,8] y) "
        "{ m = Where(keep, x, low) p = Softmax(m) n = IsNaN(p) y = Where(n, zero, p) }"
    )
    example = Example(graph, {"low": np.float32(-np.inf), "zero": np.float32(0)})
    assert apply(BY_CODE["safe-mask"], example.model()) is None


@pytest.mark.parametrize(
    ("number", "mask"), [(1e30, "Sub(one, c)"), (-1e30, "Sub(c, one)"), (1e30, "Identity(c)")]
)
def test_large_numbers_that_raise_scores_are_no_mask(number, mask):
    graph = (
        "g (float[N,8] x, bool[N,8] keep) => (float[N,8] y) "
        f"{{ c = Cast<to = 1>(keep) s = {mask} w = Mul(s, large) a = Add(x, w) y = Softmax(a) }}"
    )
    example = Example(graph, {"large": np.float32(number), "one": np.float32(1)})
    assert apply(BY_CODE["safe-mask"], example.model()) is None
