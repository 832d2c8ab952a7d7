"""Findings: what fails a check, and of which releases a rule holds."""

from __future__ import annotations

import pytest

from harness.compiler import FindingKind, NodeFacts, Releases
from harness.conversion import CheckResult, CompileOutcome, EnvironmentResult, Finding, FoundBy
from harness.model import TensorInfo
from harness.tensors import from_json, to_json
from harness.worker.protocol import TENSORRT, TENSORRT_RTX, CompileReport

NODE = NodeFacts(3, "top", "TopK", inputs=(TensorInfo("x", "float32", (1, 8000)),))


def finding(kind: FindingKind) -> Finding:
    return Finding("topk-k-above-3840", kind, FoundBy.RULE, NODE)


def result(rule: FindingKind, *built: FindingKind) -> CheckResult:
    report = CompileReport(TENSORRT_RTX, "1.7.1.116", "strong")
    environments = tuple(
        EnvironmentResult("rtx", TENSORRT_RTX, "1.7.1.116", CompileOutcome.BUILT, (finding(kind),), report)
        for kind in built
    )
    return CheckResult("m.onnx", "m", None, "0" * 64, 4, (finding(rule),), environments)


def test_rules_fail_a_check_only_where_no_environment_was_asked() -> None:
    assert result(FindingKind.NOT_BUILT).fails
    assert result(FindingKind.DIFFERENT).fails
    assert not result(FindingKind.RISKY).fails
    assert not result(FindingKind.REFUSED, FindingKind.IMPROVABLE).fails
    assert result(FindingKind.RISKY, FindingKind.RISKY, FindingKind.DIFFERENT).fails


@pytest.mark.parametrize(
    ("first", "last", "release", "holds"),
    [
        (None, None, "1.4.0.76", True),
        ("1.5", None, "1.4.0.76", False),
        ("1.5", None, "1.5.0.114", True),
        (None, "1.4", "1.4.0.76", True),
        (None, "1.4", "1.5.0.114", False),
        (None, "8.6", "8.10.1", False),
        ("10.0", "10.12", "10.9.0", True),
    ],
)
def test_a_range_of_releases_compares_numbers(
    first: str | None, last: str | None, release: str, holds: bool
) -> None:
    assert Releases(TENSORRT, first, last).include(TENSORRT, release) is holds
    assert not Releases(TENSORRT, first, last).include(TENSORRT_RTX, release)


def test_a_finding_is_the_same_after_json() -> None:
    assert from_json(Finding, to_json(finding(FindingKind.REFUSED))) == finding(FindingKind.REFUSED)
