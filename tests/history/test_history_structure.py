"""Structure drift: fusions, precisions, tactics, and what becomes of Q/DQ nodes; rebuilding is no change."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from harness.history import ChangeKind, Floors
from harness.history.judgement.engines import judge_engines
from harness.history.judgement.structure import compare_structures, judge_compiled
from harness.history.judgement.wording import compiled_text
from harness.history.store.engines import BuiltLayer, read_layers, write_layers
from harness.history.types import BuildCount, DriftVerdict

Engine = tuple[BuiltLayer, ...]


def layer(*nodes: str, precision: str = "fp16", tactic: str | None = "t1", **ops: str) -> BuiltLayer:
    kinds = {"conv": "Conv", "add": "Add", "relu": "Relu", "q": "QuantizeLinear", "dq": "DequantizeLinear"}
    known = tuple(ops.get(node) or kinds[node.rstrip("0123456789")] for node in nodes)
    return BuiltLayer(" + ".join(nodes), onnx_nodes=nodes, ops=known, precision=precision, tactic=tactic)


def engine(*layers: BuiltLayer) -> Engine:
    """The layers of an engine, through the file and back."""
    return read_layers(write_layers(layers))


FUSED = engine(layer("conv1", "add1", "relu1"))
APART = engine(layer("conv1"), layer("add1"), layer("relu1"))


def changes(old: list[Engine], new: list[Engine]) -> list[tuple[ChangeKind, str, str]]:
    return [(item.change, item.old, item.new) for item in compare_structures(old, new)]


def test_the_same_structure_has_not_changed() -> None:
    assert compare_structures([FUSED] * 3, [FUSED] * 3) == []


def test_a_fusion_that_vanished() -> None:
    assert changes([FUSED] * 3, [APART] * 3) == [
        (ChangeKind.FUSION_VANISHED, "add1 + conv1 + relu1", "add1; conv1; relu1")
    ]


def test_a_fusion_that_appeared() -> None:
    (found,) = compare_structures([APART] * 3, [FUSED] * 3)
    assert found.change is ChangeKind.FUSION_APPEARED
    assert found.nodes == ("add1", "conv1", "relu1")
    assert (found.old_builds, found.new_builds) == (BuildCount(3, 3), BuildCount(3, 3))


def test_a_fusion_that_lost_a_member() -> None:
    new = engine(layer("conv1", "add1"), layer("relu1"))
    assert changes([FUSED], [new]) == [(ChangeKind.FUSION_CHANGED, "add1 + conv1 + relu1", "add1 + conv1")]


def test_what_rebuilding_also_does_does_not_count_as_a_change() -> None:
    assert compare_structures([FUSED, APART, FUSED], [APART, APART, APART]) == []
    assert compare_structures([APART, APART, APART], [FUSED, APART, FUSED]) == []


def test_a_precision_counts_if_no_build_had_it_before() -> None:
    fp32 = engine(layer("conv1", precision="fp32"))
    fp16 = engine(layer("conv1"))
    assert changes([fp16] * 2, [fp32] * 2) == [(ChangeKind.PRECISION, "fp16", "fp32")]
    assert changes([fp16, fp32], [fp32] * 2) == []


def test_casts_that_are_fused_away_are_a_kind_of_their_own_and_a_regression() -> None:
    casts = {"to32": "Cast", "to16": "Cast", "norm": "ReduceMean"}
    kept = engine(layer("to32", **casts), layer("norm", precision="fp32", **casts), layer("to16", **casts))
    away = engine(layer("to32", "norm", "to16", **casts))
    found = compare_structures([kept], [away])
    assert [(item.change, item.nodes) for item in found if item.change is not ChangeKind.FUSION_APPEARED] == [
        (ChangeKind.CASTS_FUSED, ("norm",))
    ]
    assert judge_compiled(True, True, found) is DriftVerdict.REGRESSED
    assert compiled_text(DriftVerdict.REGRESSED, "1.4", found) == (
        "the Casts around norm are fused away: FP32 is no longer kept there"
    )
    # Without Casts beside it, nothing asked for FP32: the builder chose another precision.
    assert changes([engine(layer("norm", precision="fp32", **casts))], [engine(layer("norm", **casts))]) == [
        (ChangeKind.PRECISION, "fp32", "fp16")
    ]
    back = compare_structures([away], [kept])
    assert ChangeKind.CASTS_KEPT in [item.change for item in back]
    assert judge_compiled(True, True, back) is DriftVerdict.SAME


def test_each_release_counts_its_own_builds() -> None:
    fp32 = engine(layer("conv1", precision="fp32"))
    untold = engine(layer("conv1", precision=""))
    (found,) = compare_structures([engine(layer("conv1"))] * 3, [fp32, untold])
    assert (str(found.old_builds), str(found.new_builds)) == ("3 of 3", "1 of 2")


def test_nodes_that_changed_their_precision_alike_are_one_change() -> None:
    old = engine(layer("conv1"), layer("conv2"), layer("conv3"))
    new = engine(
        layer("conv1", precision="bf16"), layer("conv2", precision="bf16"), layer("conv3", precision="fp32")
    )
    found = compare_structures([old], [new])
    assert [(item.nodes, item.new) for item in found] == [(("conv1", "conv2"), "bf16"), (("conv3",), "fp32")]


def test_a_tactic_counts_if_the_fusion_is_the_same_and_no_build_chose_it() -> None:
    builds = [engine(layer("conv1", tactic=name)) for name in ("a", "b", "c", "d")]
    assert changes(builds[:2], builds[2:]) == [(ChangeKind.TACTIC, "a or b", "c or d")]
    assert changes(builds[:3], [builds[3], builds[0]]) == []
    assert changes([engine(layer("conv1", tactic=None))], builds[:1]) == []


def test_a_quantized_convolution_that_lost_its_add() -> None:
    old = engine(layer("dq1", "conv1", "add1", "q1", precision="int8"))
    new = engine(
        layer("dq1", "conv1", precision="int8"),
        layer("add1", precision="int8"),
        layer("q1", precision="int8"),
    )
    found = compare_structures([old] * 3, [new] * 3)
    assert (found[0].change, found[0].nodes) == (ChangeKind.QDQ_UNFUSED, ("conv1", "add1"))
    left = [item for item in found if item.change is ChangeKind.QDQ_LEFT]
    assert [item.nodes for item in left] == [("q1",)]
    assert "fused with" in left[0].old


def test_what_only_some_builds_do_with_quantizers_does_not_count_as_a_change() -> None:
    fused = engine(layer("dq1", "conv1", "add1", "q1", precision="int8"))
    apart = engine(layer("dq1", "conv1", precision="int8"), layer("add1", precision="int8"), layer("q1"))
    found = compare_structures([fused] * 3, [apart, fused, apart])
    assert not {ChangeKind.QDQ_UNFUSED, ChangeKind.QDQ_LEFT} & {item.change for item in found}


def test_without_quantizers_a_lost_add_is_a_fusion_like_any_other() -> None:
    assert ChangeKind.QDQ_UNFUSED not in {item.change for item in compare_structures([FUSED], [APART])}


def test_engines_without_an_inspector_are_not_compared() -> None:
    assert compare_structures([], [FUSED]) == []


def engines(release: str, latencies: list[float], **columns: Any) -> pd.DataFrame:
    rows = {
        "case": "net",
        "precision": "fp16",
        "latency_ms": latencies,
        "engine_bytes": 1000,
        "build_seconds": 2.0,
    }
    return pd.DataFrame({**rows, **columns}, index=range(len(latencies))).assign(release=release)


@pytest.mark.parametrize(
    ("old", "new", "trend"),
    [
        ([1.0, 1.01, 0.99], [1.0, 1.02, 1.01], "within noise"),
        ([1.0, 1.01, 0.99], [1.5, 1.5, 1.5], "more"),
        ([1.0, 1.01, 0.99], [0.5, 0.5, 0.5], "less"),
        ([1.0, 1.4, 0.7], [1.5, 1.5, 1.5], "within noise"),
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], "same"),
        ([1.0, 1.0, 1.0], [1.02, 1.02, 1.02], "within noise"),
        ([1.0, 1.0, 1.0], [1.051, 1.051, 1.051], "more"),  # the floor is a share of what it was
    ],
)
def test_latency_has_a_noise_band_of_its_own(old: list[float], new: list[float], trend: str) -> None:
    judged = judge_engines(engines("old", old), engines("new", new), Floors())
    assert dict(zip(judged["quantity"], judged["trend"], strict=True)) == {
        "latency": trend,
        "engine size": "same",
        "build time": "same",
    }


def test_what_was_not_measured_is_left_out() -> None:
    nothing = engines("old", [1.0], latency_ms=None, engine_bytes=None, build_seconds=None)
    assert judge_engines(nothing, nothing, Floors()).empty
