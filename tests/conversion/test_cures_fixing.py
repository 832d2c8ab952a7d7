"""Models that are fixed: what stays is proved and taken by the compiler, what is left out is said."""

from __future__ import annotations

import os

import numpy as np
import pytest
from cure_examples import NEGATIVE, POSITIVE, Example

from harness.compiler import ReportCache
from harness.conversion.cures import fix, write_fixed
from harness.environments import Environment, close_shared
from harness.model import load_model

PYTHON = os.environ.get("HARNESS_RTX_PYTHON")
#: Refused before and built after by TensorRT for RTX.
CURED = (
    "topk-beyond-limit",
    "scatter-with-reduction",
    "dilated-pool",
    "inline-definition",
    "fourier-transform",
)


def test_cures_follow_each_other():
    model = Example(
        "g (float[N,4,8] x) => (float[N,4,8] y) { m = ReduceMean(x, ax) d = Sub(x, m) q = Mul(d, d) "
        "v = ReduceMean(q, ax) e = Add(v, eps) s = Sqrt(e) n = Div(d, s) w = Mul(n, g) y = Add(w, b) }",
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
    guarded = Example(
        "g (float[N,8] x, bool[N,8] keep) => (float[N,8] y) { m = Where(keep, x, low) s = Softmax(m) "
        "bad = IsNaN(s) y = Where(bad, zero, s) }",
        {"low": np.float32(-np.inf), "zero": np.float32(0)},
    ).model()
    fixed = fix(guarded)
    assert not fixed.applied
    assert [each.code for each in fixed.left_out] == ["safe-mask"]
    assert "'y'" in fixed.left_out[0].why
    assert fixed.model is guarded
    assert write_fixed(fixed, tmp_path / "out.onnx") is None
    assert not list(tmp_path.iterdir())


def test_what_is_written_is_the_proved_model(tmp_path):
    fixed = fix(POSITIVE["floored-mod"][0].model())
    path = write_fixed(fixed, tmp_path / "out.onnx")
    assert path is not None
    assert [node.op for node in load_model(path).nodes] == [node.op for node in fixed.model.nodes]


def test_a_model_without_faults_stays_as_it_is():
    fixed = fix(NEGATIVE["constant-folding"].model())
    assert not fixed.applied
    assert not fixed.left_out


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
