import datetime
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.case import (
    BuildOptions,
    Case,
    InputSpec,
    MetricLimits,
    RunSpec,
    Tolerance,
    Waiver,
    merge_tolerances,
)
from harness.case.scalars import version_in_range
from harness.tensors import Precision


def case(**keys) -> Case:
    return Case.model_validate({"name": "x", "model": {"path": "m.onnx"}, **keys})


def test_importing_the_room_imports_nothing_heavy():
    code = (
        "import sys, harness.case\n"
        "print([m for m in ('numpy', 'onnx', 'onnxruntime', 'pandas', 'ruamel.yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_can_be_imported():
    import harness.case

    for name in harness.case.__all__:
        assert getattr(harness.case, name) is not None
    with pytest.raises(AttributeError, match="load_everything"):
        _ = harness.case.load_everything


def test_build_options_are_hashable_and_equal_by_value():
    one = BuildOptions.model_validate({"tactic_sources": ["cublas"], "workspace_mib": 64})
    same = BuildOptions.model_validate({"tactic_sources": "cublas", "workspace_mib": 64})
    assert one == same
    assert hash(one) == hash(same)
    assert one != BuildOptions()
    assert pickle.loads(pickle.dumps(one)) == one  # xdist and process pools


def test_a_case_is_immutable():
    with pytest.raises(ValidationError):
        case().seed = 3
    with pytest.raises(ValidationError):
        case().build.timing_cache = False


def test_shorthands_mean_their_long_forms():
    short = case(
        runs=["fp16"],
        inputs={"x": [1, 2], "y": {"fill": 0.5}, "z": {"fill": "uniform"}},
        tags="slow",
        tolerances=[{"precision": "fp16", "nrmse": 1}],
    )
    long = case(
        runs=[{"precision": "fp16"}],
        inputs={
            "x": {"shape": [1, 2]},
            "y": {"fill": {"kind": "constant", "value": 0.5}},
            "z": {"fill": {"kind": "uniform"}},
        },
        tags=["slow"],
        tolerances=[{"precision": ["fp16"], "nrmse": 1.0}],
    )
    assert short == long


def test_without_runs_a_case_asks_for_fp32_and_fp16():
    assert [run.precision for run in case().runs] == [Precision.FP32, Precision.FP16]


def test_runs_are_selected_in_the_order_of_the_case():
    asked = case(runs=["bf16", "fp32", "fp16"])
    assert [run.precision.value for run in asked.select_runs()] == ["bf16", "fp32", "fp16"]
    picked = asked.select_runs([Precision.FP16, Precision.BF16, Precision.TF32])
    assert [run.precision.value for run in picked] == ["bf16", "fp16"]


RTX, TENSORRT = "tensorrt-rtx", "tensorrt"


@pytest.mark.parametrize(
    ("where", "candidate", "release", "expected"),
    [
        ((), "emulator", None, True),
        ((), TENSORRT, "8.6.0", True),
        ((), RTX, "1.6.1.120", True),
        # A failure of some releases is none of the emulator.
        (("tensorrt>=10.3,<11",), "emulator", None, False),
        (("tensorrt>=10.3,<11",), TENSORRT, "10.13.3.9", True),
        (("tensorrt>=10.3,<11",), TENSORRT, "10.14.1.48.post1", True),
        (("tensorrt >=10.3,<11",), TENSORRT, "11.0.0.114", False),
        (("tensorrt>=10.3,<11",), TENSORRT, "8.6.0", False),
        (("tensorrt<2",), RTX, "1.6.1.120", False),  # numbers of the other product
        (("emulator", "tensorrt-rtx>=1.5"), "emulator", None, True),
        (("emulator", "tensorrt-rtx>=1.5"), RTX, "1.4.0.76", False),
        (("emulator", "tensorrt-rtx>=1.5"), RTX, "1.5.0.114", True),
        (("tensorrt", "emulator+kernels"), TENSORRT, "11.0.0.114", True),
        (("tensorrt", "emulator+kernels"), "emulator", None, False),
        (("tensorrt", "emulator+kernels"), "emulator+kernels", None, True),
        (("emulator",), "emulator+kernels", None, False),
    ],
)
def test_an_expected_failure_is_limited_to_where_it_holds(where, candidate, release, expected):
    run = RunSpec(precision=Precision.FP16, expect="fail", where=where, reason="overflow")
    assert run.expects_failure(candidate, release) is expected
    assert RunSpec(precision=Precision.FP16).expects_failure(candidate, release) is False


def test_pre_releases_lie_in_a_range():
    assert version_in_range("10.0.0b6", ">=9")


def test_a_waiver_ends_after_its_last_day():
    waiver = Waiver(
        reason="known",
        expires=datetime.date(2026, 12, 31),
        precision=(Precision.FP16,),
        tensorrt=">=10",
        environment="trt10-*",
    )
    last = {"tensorrt": "10.3.0", "environment": "trt10-h200", "today": datetime.date(2026, 12, 31)}
    assert waiver.covers(Precision.FP16, **last)
    assert not waiver.covers(Precision.FP16, **{**last, "today": datetime.date(2027, 1, 1)})
    assert not waiver.covers(Precision.FP32, **last)
    assert not waiver.covers(Precision.FP16, **{**last, "tensorrt": "8.6.0"})
    assert not waiver.covers(Precision.FP16, **{**last, "tensorrt": None})
    assert not waiver.covers(Precision.FP16, **{**last, "environment": "trt8"})


RULES = (
    Tolerance(nrmse=1e-2, cosine=0.99),
    Tolerance(precision=(Precision.FP16,), nrmse=1e-1),
    Tolerance(output=("logits*",), max_abs=3.0),
    Tolerance(layer=("block*/sq",), nrmse=0.5),
)


@pytest.mark.parametrize(
    ("precision", "where", "expected"),
    [
        ("fp32", {"tensor": "t"}, {"nrmse": 1e-2, "cosine": 0.99}),
        ("fp16", {"tensor": "t"}, {"nrmse": 1e-1, "cosine": 0.99}),
        ("fp32", {"tensor": "logits_1", "is_output": True}, {"nrmse": 1e-2, "cosine": 0.99, "max_abs": 3.0}),
        ("fp32", {"tensor": "logits_1", "is_output": False}, {"nrmse": 1e-2, "cosine": 0.99}),
        ("fp16", {"tensor": "t", "node": "block1/sq"}, {"nrmse": 0.5, "cosine": 0.99}),
        ("fp16", {"tensor": "block1/sq", "node": "n"}, {"nrmse": 0.5, "cosine": 0.99}),
    ],
)
def test_matching_rules_are_merged_and_the_later_wins(precision, where, expected):
    limits = merge_tolerances(RULES, Precision(precision), **where)
    assert limits.gates() == expected


def test_without_a_matching_rule_there_are_no_limits():
    assert merge_tolerances(RULES[2:], Precision.FP16, tensor="t", is_output=True) is None


def test_atol_and_topk_imply_their_gates():
    assert MetricLimits(rtol=1e-2).gates() == {"mismatch_fraction": 0.0}
    assert MetricLimits(atol=1e-2, mismatch_fraction=0.1).gates() == {"mismatch_fraction": 0.1}
    assert MetricLimits(topk=5).gates() == {"topk_agreement": 1.0}


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4),
)
def test_a_range_of_shapes_is_accepted_exactly_when_it_is_ordered(axes):
    low, likely, high = (list(sizes) for sizes in zip(*axes, strict=True))
    ordered = all(a <= b <= c for a, b, c in axes)
    try:
        spec = InputSpec.model_validate({"shape": likely, "min": low, "opt": likely, "max": high})
    except ValidationError:
        assert not ordered
    else:
        assert ordered
        assert spec.concrete_shape == tuple(likely)


def test_the_shape_that_an_engine_is_tuned_for_lies_below_the_largest():
    with pytest.raises(ValidationError, match="axis 1 is 4, below the 5 of `opt`"):
        InputSpec.model_validate({"min": [1, 1], "opt": [2, 5], "max": [8, 4]})


@pytest.mark.parametrize("kind", ["uniform", "integers"])
def test_a_range_without_a_value_is_refused(kind: str):
    with pytest.raises(ValidationError, match=r"must be above `low`, which is 3(\.0)?, not 3"):
        InputSpec.model_validate({"fill": {"kind": kind, "low": 3, "high": 3}})


@pytest.mark.parametrize("metric", ["scoring:top1", {"function": "scoring:top1"}])
def test_a_metric_alone_stands_for_the_list_that_holds_it(metric: object) -> None:
    case = Case.model_validate({"name": "net", "model": {"path": "net.onnx"}, "metric": metric})
    assert [each.function for each in case.metric] == ["scoring:top1"]


def test_no_source_is_read_until_the_schema_is_asked_for() -> None:
    code = (
        "import inspect, linecache\n"
        "read = []\n"
        "lines = linecache.getlines\n"
        "linecache.getlines = lambda path, *more: read.append(path) or lines(path, *more)\n"
        "import harness.case.schema\n"
        "assert not read, read\n"
        "from harness.case import case_schema_text\n"
        "assert 'Smallest value.' in case_schema_text()\n"
        "assert read\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
