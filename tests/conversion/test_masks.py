"""Numbers that mask and are infinite at a precision are told where something becomes NaN by that, and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cure_examples import Example

from harness.backends import Emulator
from harness.compiler import FindingKind, GraphView
from harness.conversion import check
from harness.conversion.masks import MASK_BEYOND, mask_findings
from harness.model import Model, save_model
from harness.tensors import Precision

SCORES = "g (float[2,4,8] x, %s) => (float[2,4,8] y) { %s y = Softmax(a) }"
CAUSAL = np.triu(np.full((8, 8), -1e30, np.float32), 1)[:4]
WHOLE_ROW = np.where(np.arange(4)[:, None] == 2, -1e30, CAUSAL).astype(np.float32)
ONE, AXIS = np.float32(1), np.array([1])
FLOAT = "float[2,8] attention_mask"


def model(body: str, given: str, **constants: Any) -> Model:
    return Example(SCORES % (given, body), constants).model()


PRODUCTS = {
    "less one, times 1e30": model(
        "u = Unsqueeze(attention_mask, ax) s = Sub(u, one) w = Mul(s, big) a = Add(x, w)",
        FLOAT,
        one=ONE,
        ax=AXIS,
        big=np.float32(1e30),
    ),
    "one less, times -1e30": model(
        "u = Unsqueeze(attention_mask, ax) s = Sub(one, u) w = Mul(s, big) a = Add(x, w)",
        FLOAT,
        one=ONE,
        ax=AXIS,
        big=np.float32(-1e30),
    ),
    "1e30 where it is kept": model(
        "c = Cast<to = 1>(keep) w = Mul(c, big) a = Add(x, w)",
        "bool[2,4,8] keep",
        big=np.float32(1e30),
    ),
}
ROWS = {
    "chosen": model("a = Where(keep, x, big)", "bool[2,4,8] keep", big=np.float32(-1e30)),
    "added": model(
        "w = Where(keep, zero, big) a = Add(x, w)",
        "bool[2,4,8] keep",
        zero=np.float32(0),
        big=np.float32(-1e30),
    ),
    "a constant with a whole row": model("a = Add(x, w)", "bool[2,4,8] keep", w=WHOLE_ROW),
}
RAISED = {"added": model("a = Add(x, w)", "bool[2,4,8] keep", w=-CAUSAL)}
NOTHING = {
    "a causal constant": model("a = Add(x, w)", "bool[2,4,8] keep", w=CAUSAL),
    "a causal constant that is chosen": model(
        "a = Where(c, big, x)", "bool[2,4,8] keep", c=CAUSAL != 0, big=np.float32(-1e30)
    ),
    "a number that FP16 holds": model(
        "u = Unsqueeze(attention_mask, ax) s = Sub(one, u) w = Mul(s, big) a = Add(x, w)",
        FLOAT,
        one=ONE,
        ax=AXIS,
        big=np.float32(-1e4),
    ),
    "infinite as it is written": model(
        "a = Where(keep, x, big)", "bool[2,4,8] keep", big=np.float32(-np.inf)
    ),
    "a bound": model("m = Max(x, big) a = Identity(m)", "bool[2,4,8] keep", big=np.float32(-1e30)),
}


def told(model: Model, precision: Precision | None) -> list[str]:
    found = mask_findings(model, GraphView(model), precision)
    assert all((each.code, each.kind) == (MASK_BEYOND, FindingKind.RISKY) for each in found)
    return [each.explanation for each in found]


@pytest.mark.parametrize(
    ("model", "word"),
    [
        *((each, "times 0 it is NaN") for each in PRODUCTS.values()),
        *((each, "masked throughout") for each in ROWS.values()),
        *((each, "that it raises") for each in RAISED.values()),
    ],
)
def test_a_number_beyond_fp16_is_told_at_fp16_alone(model: Model, word: str) -> None:
    (said,) = told(model, Precision.FP16)
    assert "1e+30, which is infinite at fp16: " in said
    assert word in said
    assert [told(model, each) for each in (None, Precision.FP32, Precision.BF16, Precision.TF32)] == [[]] * 4


@pytest.mark.parametrize("name", list(NOTHING))
def test_what_breaks_nothing_is_no_finding(name: str) -> None:
    assert told(NOTHING[name], Precision.FP16) == []


def test_the_lowest_float_is_beyond_bf16_too() -> None:
    lowest = model("a = Where(keep, x, big)", "bool[2,4,8] keep", big=np.finfo(np.float32).min)
    assert len(told(lowest, Precision.BF16)) == 1


def test_what_is_told_is_what_the_emulator_computes() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 4, 8)).astype(np.float32)
    mask, keep = np.ones((2, 8), np.float32), np.ones((2, 4, 8), bool)
    mask[:, 6:], keep[:, 1] = 0, False
    feeds = {"x": x, "attention_mask": mask, "keep": keep}

    def is_right(model: Model) -> bool:
        given = {info.name: feeds[info.name] for info in model.inputs}
        return bool(np.isfinite(Emulator(model).run(given, Precision.FP16)["y"]).all())

    broken = {**PRODUCTS, **ROWS, **{f"raised: {name}": each for name, each in RAISED.items()}}
    assert {name: is_right(each) for name, each in broken.items()} == dict.fromkeys(broken, False)
    sound = {
        name: each for name, each in NOTHING.items() if name != "infinite as it is written"
    }  # NaN in FP32, too
    assert {name: is_right(each) for name, each in sound.items()} == dict.fromkeys(sound, True)


def test_check_tells_it_and_does_not_fail(tmp_path) -> None:
    path = save_model(PRODUCTS["less one, times 1e30"], tmp_path / "masked.onnx")
    (result,) = check(path, precision="fp16").results
    (finding,) = [each for each in result.findings if each.code == MASK_BEYOND]
    assert finding.node is not None
    assert finding.node.op == "Mul"
    assert "--fix" in finding.advice
    assert not result.fails
    assert MASK_BEYOND not in [each.code for each in check(path).results[0].findings]
