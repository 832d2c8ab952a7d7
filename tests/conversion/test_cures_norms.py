"""Normalisations and GELUs in every way in which exporters write them, and what only looks like them."""

from __future__ import annotations

import contextlib
import itertools

import numpy as np
import pytest
from cure_examples import Example

from harness.compiler import GraphView, match_rules
from harness.conversion.cures import CURES, apply, prove_rewrite
from harness.conversion.cures.building import Inapplicable

BY_CODE = {cure.code: cure for cure in CURES}
F = np.float32
RANDOM = np.random.default_rng(1)
CONSTANTS = {
    "two": F(2),
    "three": F(3),
    "one": F(1),
    "half": F(0.5),
    "minus": F(-0.5),
    "eps": F(1e-5),
    "scale": RANDOM.normal(size=8).astype(F),
    "bias": RANDOM.normal(size=(1, 1, 8)).astype(F),
    "ax": np.array([-1]),
    "a1": np.array([1]),
    "a012": np.array([0, 1, 2]),
    "eight": F(8),
    "root2": F(2**0.5),
    "inverse": F(0.5**0.5),
    "cubic": F(0.044715),
    "inner": F((2 / np.pi) ** 0.5),
}
SQUARES = {
    "product": "q = Mul({0}, {0}) v = ReduceMean(q, ax)",
    "power": "q = Pow({0}, two) v = ReduceMean(q, ax)",
}
SQUARES |= {
    "sum": "q = Mul({0}, {0}) u = ReduceSum(q, ax) v = Div(u, eight)",
    "sum of squares": "u = ReduceSumSquare(x, ax) v = Div(u, eight)",
}
ROOTS = {
    "by the root": "e = Add(v, eps) s = Sqrt(e) n = Div({0}, s)",
    "by its reciprocal": "e = Add(v, eps) s = Sqrt(e) r = Reciprocal(s) n = Mul({0}, r)",
    "by 1 over it": "e = Add(eps, v) s = Sqrt(e) r = Div(one, s) n = Mul(r, {0})",
    "by a power": "e = Add(v, eps) r = Pow(e, minus) n = Mul({0}, r)",
    "by a positive power": "e = Add(v, eps) r = Pow(e, half) n = Div({0}, r)",
    "by the root of the reciprocal": "e = Add(v, eps) i = Reciprocal(e) r = Sqrt(i) n = Mul({0}, r)",
}
TAILS = {
    "alone": "y = Identity(n)",
    "scaled": "y = Mul(scale, n)",
    "scaled and shifted": "t = Mul(n, scale) y = Add(bias, t)",
    "shifted": "y = Add(n, bias)",
}
ERFS = {"over": "a = Div(x, root2) e = Erf(a)", "times": "a = Mul(inverse, x) e = Erf(a)"}
TANHS = {
    "a power": "c = Pow(x, three) k = Mul(c, cubic) a = Add(x, k) t = Mul(a, inner) e = Tanh(t)",
    "products": "q = Mul(x, x) c = Mul(q, x) k = Mul(cubic, c) a = Add(k, x) t = Mul(inner, a) e = Tanh(t)",
    "factored": "q = Pow(x, two) k = Mul(q, cubic) f = Add(one, k) a = Mul(x, inner) t = Mul(a, f) e = Tanh(t)",
}
HALVES = {
    "last": "p = Add(e, one) b = Mul(x, p) y = Mul(b, half)",
    "at the sum": "p = Add(one, e) b = Mul(p, half) y = Mul(x, b)",
    "first": "p = Add(e, one) b = Mul(half, x) y = Mul(b, p)",
    "divided last": "p = Add(e, one) b = Mul(x, p) y = Div(b, two)",
    "divided first": "p = Add(e, one) b = Div(x, two) y = Mul(b, p)",
    "multiplied out": "m = Mul(e, half) p = Add(m, half) y = Mul(x, p)",
}


def example(body: str) -> Example:
    used = {
        name: value
        for name, value in CONSTANTS.items()
        if name in body.replace(",", " ").replace(")", " ").replace("(", " ").split()
    }
    return Example(f"g (float[N,4,8] x) => (float[N,4,8] y) {{ {body} }}", used)


def cured(code: str, body: str) -> list[str]:
    """The operators of the model that a cure makes of a graph; it is proved."""
    model = example(body).model()
    rewrite = apply(BY_CODE[code], model)
    assert rewrite is not None
    proof = prove_rewrite(model, rewrite)
    assert proof.holds, proof.why_not
    return [node.op for node in rewrite.model.nodes if node.op != "Identity"]


CENTRED = "m = ReduceMean(x, ax) d = Sub(x, m)"
NORMS = [
    (square, root, tail)
    for square, root, tail in itertools.product(SQUARES, ROOTS, TAILS)
    if square == "power" or (root in ("by the root", "by 1 over it") and tail == "scaled")
]


@pytest.mark.parametrize(("square", "root", "tail"), [each for each in NORMS if each[0] != "sum of squares"])
def test_a_layer_normalisation_is_one_however_it_is_written(square: str, root: str, tail: str) -> None:
    parts = (SQUARES[square].format("d"), ROOTS[root].format("d"), TAILS[tail])
    assert cured("layer-normalisation", f"{CENTRED} {' '.join(parts)}") == ["LayerNormalization"]


@pytest.mark.parametrize(("square", "root", "tail"), [each for each in NORMS if "shifted" not in each[2]])
def test_a_root_mean_square_normalisation_is_one_however_it_is_written(
    square: str, root: str, tail: str
) -> None:
    parts = (SQUARES[square].format("x"), ROOTS[root].format("x"), TAILS[tail])
    assert cured("rms-normalisation", " ".join(parts)) == ["RMSNormalization"]


#: What is no normalisation that an operator computes, or a cure writes: what the advice says of it.
NEAR = {
    "what it divides is not what it squares": [
        "q = Mul(x, x) v = ReduceMean(q, ax) e = Add(v, eps) s = Sqrt(e) d = Sub(x, v) y = Div(d, s)",
        f"{CENTRED} q = Mul(d, d) v = ReduceMean(q, ax) e = Add(v, eps) s = Sqrt(e) y = Div(x, s)",
        "q = Mul(x, x) v = ReduceMean(q, ax) e = Add(v, eps) s = Sqrt(e) y = Mul(x, s)",
        "q = Mul(x, x) v = ReduceMean(q, ax) e = Add(v, eps) s = Sqrt(e) y = Div(s, x)",
    ],
    "what it averages is no square": [
        "q = Pow(x, three) v = ReduceMean(q, ax) e = Add(v, eps) s = Sqrt(e) y = Div(x, s)",
        "a = Abs(x) q = Mul(a, x) v = ReduceMean(q, ax) e = Add(v, eps) s = Sqrt(e) y = Div(x, s)",
    ],
    "its mean is over axis 1 of 3, and not over the last ones": [
        "q = Mul(x, x) v = ReduceMean(q, a1) e = Add(v, eps) s = Sqrt(e) y = Div(x, s)",
    ],
    "the size of an axis that it averages over is known at run time only": [
        "q = Mul(x, x) v = ReduceMean(q, a012) e = Add(v, eps) s = Sqrt(e) y = Div(x, s)",
    ],
    "its epsilon is no constant between 0 and 0.1": [
        "q = Mul(x, x) v = ReduceMean(q, ax) e = Add(v, one) s = Sqrt(e) y = Div(x, s)",
    ],
}


def advice_on(body: str) -> str:
    """What a rule advises on the norm of a graph."""
    matches = match_rules(GraphView(example(body).model()))
    (match,) = (each for each in matches if each.rule.code == "layernorm-decomposed")
    return match.advice


@pytest.mark.parametrize("body", [*itertools.chain(*NEAR.values())])
def test_what_is_nearly_a_normalisation_is_not_advised_to_be_one(body: str) -> None:
    """And no cure writes one."""
    (why,) = (why for why, bodies in NEAR.items() if body in bodies)
    said = f"it is neither LayerNormalization nor RMSNormalization, for {why}: keep its squares in FP32"
    assert advice_on(body) == said
    for code in ("layer-normalisation", "rms-normalisation"):
        with contextlib.suppress(Inapplicable):
            assert apply(BY_CODE[code], example(body).model()) is None


@pytest.mark.parametrize(
    ("square", "root", "tail"), [each for each in NORMS if each[0] in ("product", "power")]
)
def test_a_normalisation_is_advised_to_be_the_operator_that_a_cure_writes(
    square: str, root: str, tail: str
) -> None:
    for centred, operator in (
        (True, "LayerNormalization, at opset 17"),
        (False, "RMSNormalization, at opset 23"),
    ):
        of = "d" if centred else "x"
        body = f"{SQUARES[square].format(of)} {ROOTS[root].format(of)} {TAILS[tail]}"
        advice = advice_on(f"{CENTRED} {body}" if centred else body)
        assert advice == f"export it as {operator} or later; `harness check --fix` writes that, too"


@pytest.mark.parametrize(("inner", "half"), [*itertools.product([*ERFS, *TANHS], HALVES)])
def test_a_gelu_is_one_however_it_is_written(inner: str, half: str) -> None:
    assert cured("gelu", f"{(ERFS | TANHS)[inner]} {HALVES[half]}") == ["Gelu"]


@pytest.mark.parametrize(
    "body",
    [
        f"{CENTRED} q = Mul(x, x) v = ReduceMean(q, ax) e = Add(v, eps) s = Sqrt(e) y = Div(d, s)",
        f"{CENTRED} q = Mul(d, d) v = ReduceMean(q, ax) e = Add(v, one) s = Sqrt(e) y = Div(d, s)",
        f"{CENTRED} q = Mul(d, d) v = ReduceSum(q, ax) e = Add(v, eps) s = Sqrt(e) y = Div(d, s)",
        f"{CENTRED} q = Mul(d, d) v = ReduceMean(q, ax) e = Add(v, eps) y = Div(d, e)",
    ],
    ids=["another variance", "an epsilon that is none", "a sum", "no root"],
)
def test_what_looks_like_a_layer_normalisation_is_left_alone(body: str) -> None:
    for code in ("layer-normalisation", "rms-normalisation"):
        with contextlib.suppress(Inapplicable):
            assert apply(BY_CODE[code], example(body).model()) is None


@pytest.mark.parametrize(
    "body",
    [
        "a = Mul(x, half) e = Erf(a) p = Add(e, one) b = Mul(x, p) y = Mul(b, half)",
        "a = Div(x, root2) e = Erf(a) p = Add(e, one) b = Mul(a, p) y = Mul(b, half)",
        "a = Mul(x, inner) e = Tanh(a) p = Add(e, one) b = Mul(x, p) y = Mul(b, half)",
    ],
    ids=["another root", "of another tensor", "without the cube"],
)
def test_what_looks_like_a_gelu_is_left_alone(body: str) -> None:
    assert apply(BY_CODE["gelu"], example(body).model()) is None
