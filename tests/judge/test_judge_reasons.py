"""Why a run has its verdict: fields that JSON keeps, and the sentence that is made from them last."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math

import numpy as np
import pytest

from harness.case import Waived
from harness.comparison import GateResult, Slice, compare_tensors
from harness.judge import (
    Baked,
    Cause,
    OutputResult,
    OwnRoundings,
    Region,
    RunError,
    RunReason,
    Score,
    Selection,
    ShapeFault,
    ShapeResult,
)
from harness.judge.results import Which, describe_failure
from harness.judge.results.tensors import worst_of
from harness.tensors import Precision, from_json, to_json
from harness.worker.protocol import CompileFailure, CompileReport, RefusedNode

WAIVED = Waived("fixed in 10.14", datetime.date(2026, 12, 31), expired=False)
PICK = Selection("top", "TopK", "places", changed=2, size=64, others=0, gap=1e-4, steps=0.5)
NODE = RefusedNode(3, "pick", "NonZero", "UNSUPPORTED_NODE", "no such operator")
RTX = CompileReport("TensorRT for RTX", "1.6.1", "strong")


def failing(**changes: object) -> OutputResult:
    metrics = dataclasses.replace(compare_tensors(np.float64([1, 2]), np.float64([1, 2.5])), **changes)  # type: ignore[arg-type]
    return OutputResult("y", 0, metrics, (GateResult("nrmse", 0.01, 0.3, False),))


def gated(metric: str, **changes: object) -> OutputResult:
    return dataclasses.replace(failing(**changes), gates=(GateResult(metric, 0.0, math.inf, False),))


def ragged() -> OutputResult:
    metrics = compare_tensors(np.zeros(3), np.zeros(4))
    return OutputResult("y", 0, metrics, (GateResult("shape", 0.0, math.inf, False),))


def standing_out() -> OutputResult:
    worst = Slice(axis=1, index=5, rank=2, size=1, rmse=3.0, reference_rms=1.0, nrmse=3.0)
    mine = GateResult("slice_nrmse", 0.1, 3.0, False, slice=str(worst))
    whole = failing(worst_slice=worst)
    return dataclasses.replace(whole, gates=(*whole.gates, mine))


SENTENCES = {
    "": RunReason(),
    "all gates hold": RunReason(Cause.GATES_HOLD),
    "3 builds: all gates hold; of y, z only finiteness was judged, not the values": RunReason(
        Cause.GATES_HOLD, finite=("y", "z"), builds=3
    ),
    "all gates hold; the order of near ties changes at top (TopK); the set is the same; gaps are below one FP16 "
    "step; scoring:top1 drops by 0.01, from 0.9 to 0.89, limit 0.02": RunReason(
        Cause.GATES_HOLD,
        selections=(PICK,),
        precision=Precision.FP16,
        scores=(Score("scoring:top1", 0.9, 0.89, 0.02),),
    ),
    "2 of 3 builds: y: nrmse 0.3, limit 0.01": RunReason(
        Cause.GATE_FAILED, output=failing(), builds=3, failing=2
    ),
    "y: nrmse 0.3, limit 0.01; worst in [:, 5], nrmse 3": RunReason.of_outputs([standing_out()]),
    "y: shape (3,) instead of (4,)": RunReason.of_outputs([ragged()]),
    "y: not computed: no kernel": RunReason.of_outputs([gated("computed", failure="no kernel")]),
    "y: 1 of 2 elements is not finite": RunReason.of_outputs([gated("nonfinite", nonfinite=1, inf_count=1)]),
    "y: 1 of 2 elements differs": RunReason.of_outputs([gated("mismatch_fraction", mismatch_fraction=0.5)]),
    "fails as expected: sq overflows": RunReason(Cause.EXPECTED, expected="sq overflows"),
    "passes, although the case expects it to fail: sq overflows": RunReason(
        Cause.UNEXPECTED_PASS, expected="sq overflows"
    ),
    "fails as expected, but the error starts at exp, one of the 2 nodes up to t, not sq": RunReason(
        Cause.OTHER_ORIGIN, starts=("exp",), regions=(Region("t", ("x",), ("a", "b")),), origin=("sq",)
    ),
    "fails as expected, but the error starts at nowhere that was observed, not sq": RunReason(
        Cause.OTHER_ORIGIN, origin=("sq",)
    ),
    "the file itself: its own float16 makes y wrong: nrmse 0.3 against the same model without, limit 0.01": RunReason(
        Cause.FILE, own=OwnRoundings(dtypes=("float16",), output="y", gate=failing().gates[0])
    ),
    "the file itself: sq overflows": RunReason(Cause.FILE, "the file itself: sq overflows"),
    "nothing to round for fp16; the model's Q/DQ nodes cost nrmse 0.2 against the same model without": RunReason(
        Cause.NOTHING_TO_ROUND, "nothing to round for fp16", own=OwnRoundings(cost=0.2, quantized=True)
    ),
    "top5 rises by 0.5, from 1 to 1.5, limit 0.1": RunReason(
        Cause.SCORE, scores=(Score("top5", 1.0, 1.5, 0.1, higher=False),)
    ),
    "the batch is written into flat (Reshape to [1, 8]): export with flatten(1); at batch 4 (x [4, 8]) its 4 rows "
    "become one": RunReason(
        Cause.SHAPE,
        shape=ShapeResult(
            Which.BATCH, {"x": (4, 8)}, 4, ShapeFault.FOLDED, baked=(Baked("flat", "Reshape", (1, 8), "x"),)
        ),
    ),
    "net.onnx: cannot be read (export it again)": RunReason(
        Cause.CASE, error=RunError("ModelError", "cannot be read", "net.onnx", "export it again")
    ),
    "the worker died": RunReason(Cause.CANDIDATE, error=RunError("WorkerDiedError", "the worker died")),
    "TensorRT for RTX 1.6.1 refuses pick (NonZero): no such operator, and 1 more": RunReason(
        Cause.NOT_BUILT, compiled=dataclasses.replace(RTX, refused=(NODE, NODE))
    ),
    "no kernel for it": RunReason(
        Cause.NOT_BUILT,
        compiled=dataclasses.replace(RTX, failure=CompileFailure("failed", "no kernel for it")),
    ),
    "the golden reference changed; waived until 2026-12-31: fixed in 10.14": RunReason(
        Cause.GOLDEN_CHANGED, "the golden reference changed", waiver=WAIVED
    ),
}
"""Each way to say why, and the fields that it is said from."""


@pytest.mark.parametrize(("sentence", "reason"), SENTENCES.items())
def test_a_sentence_is_made_from_fields_that_json_keeps(sentence: str, reason: RunReason) -> None:
    assert str(reason) == sentence
    kept = from_json(RunReason, json.loads(json.dumps(to_json(reason), allow_nan=False)))
    assert (str(kept), kept.code, kept.cause) == (sentence, reason.code, reason.cause)


def test_a_reason_has_in_json_what_its_cause_is_about_and_no_more() -> None:
    assert to_json(RunReason(Cause.GATES_HOLD)) == {"cause": "gates hold"}
    assert to_json(RunReason(Cause.EXPECTED, expected="sq overflows")) == {
        "cause": "fails as expected",
        "expected": "sq overflows",
    }


def test_a_waiver_is_the_code_of_what_it_covers_and_leaves_its_cause() -> None:
    covered = RunReason(Cause.GOLDEN_CHANGED, "changed", waiver=WAIVED)
    assert (covered.code, covered.cause) == (Cause.WAIVED, Cause.GOLDEN_CHANGED)
    expired = dataclasses.replace(covered, waiver=dataclasses.replace(WAIVED, expired=True))
    assert expired.code is Cause.WAIVER_EXPIRED
    assert str(expired) == "changed; the waiver expired on 2026-12-31: fixed in 10.14"


def test_the_headline_is_the_first_line_of_an_error() -> None:
    reason = RunReason(Cause.CANDIDATE, error=RunError("BuildError", "no engine\nlast words\nmore"))
    assert (reason.headline, RunReason().headline) == ("no engine", "")


def test_a_failing_run_names_its_worst_output_and_the_sample() -> None:
    """The furthest beyond its gates; integers that differ, beyond a limit of 0 by any factor, come last."""

    def output(tensor: str, sample: int, metric: str, limit: float, value: float) -> OutputResult:
        gates = (GateResult(metric, limit, value, value <= limit),)
        return dataclasses.replace(failing(nrmse=value), tensor=tensor, sample=sample, gates=gates)

    outputs = [
        output("indices", 0, "mismatch_fraction", 0.0, 0.5),
        output("y", 0, "nrmse", 0.02, 2.06),
        output("y", 1, "nrmse", 0.0175, 2.0),
        output("z", 1, "nrmse", 1.0, 0.9),
    ]
    reason = RunReason.of_outputs(outputs)
    assert reason.output == worst_of(outputs) == outputs[2]
    assert reason.headline.startswith("y (sample 1): nrmse 2")
    assert describe_failure(outputs) == reason.headline
    assert RunReason.of_outputs(outputs[:1]).headline.startswith("indices: ")
