"""Engines with debug tensors between their kernels are observed there, and inside of a kernel only where it helps."""

from __future__ import annotations

import pytest
from engines import FakeEngine, when_fused, when_lowered
from models import ISLAND, feeds, rmsnorm

from harness.backends import Observation
from harness.diagnosis import Diagnosis, DiagnosisVerdict, diagnose_model
from harness.model import Model
from harness.tensors import Precision

BETWEEN = frozenset({"b0_gain", "b0_relu", "b0_add", "b1_gain", "b1_relu", "b1_add", "b2_gain", "b2_relu"})
"""As TensorRT for RTX has them: the norm is one kernel, and a matrix product and what follows another."""


def diagnose(engine: FakeEngine) -> Diagnosis:
    return diagnose_model(engine.model, feeds(engine.model), Precision.FP16, candidate=engine)


def looked(engine: FakeEngine) -> list[tuple[Observation, frozenset[str]]]:
    """How the engine was observed, and the marks."""
    plans = (plan for plan in engine.plans if plan.observation is not Observation.NONE)
    return [(plan.observation, plan.marks) for plan in plans]


@pytest.mark.parametrize("node", ["b1_up", "b1_sqrt"])
def test_a_fault_of_the_engine_alone_is_looked_for_inside_of_the_kernel_where_it_starts(node: str) -> None:
    engine = FakeEngine(rmsnorm(), node, when_lowered(node), between=BETWEEN)
    diagnosis = diagnose(engine)
    assert (diagnosis.verdict, diagnosis.culprits) == (DiagnosisVerdict.PRECISION, (node,))
    assert [origin.node for origin in diagnosis.origins] == [node]
    (first, _), (second, marks) = looked(engine)
    assert (first, second) == (Observation.DEBUG, Observation.TYPED)
    inside = {
        "b1_up": {"b1_up"},
        "b1_sqrt": {"b1_scale", "b1_sq", "b1_mean", "b1_addeps", "b1_sqrt", "b1_norm"},
    }
    assert marks == inside[node]
    assert diagnosis.faithful


def test_a_fault_that_the_emulator_explains_is_observed_between_kernels_alone() -> None:
    engine = FakeEngine(rmsnorm(scale=600.0), "b1_up", lambda build: False, between=BETWEEN)
    diagnosis = diagnose(engine)
    assert diagnosis.culprits == ISLAND
    assert looked(engine) == [(Observation.DEBUG, frozenset())]
    assert engine.builds == 3
    starts = [
        each.text for each in diagnosis.evidence if "starts" in each.text and "on the engine" in each.text
    ]
    assert starts == ["on the engine the error starts at one of the 7 nodes up to b1_gain"]


def test_marks_inside_of_a_kernel_that_cure_it_show_a_fault_of_fusion() -> None:
    engine = FakeEngine(rmsnorm(), "b1_up", when_fused("b1_up", "b1_up"), between=BETWEEN)
    diagnosis = diagnose(engine)
    assert diagnosis.verdict is DiagnosisVerdict.FUSION
    assert [each.tensor for each in diagnosis.separations] == ["b1_up"]


def test_where_marks_move_the_fault_the_region_is_all_that_is_said() -> None:
    model: Model = rmsnorm()

    def wrong(build) -> bool:  # type: ignore[no-untyped-def]
        plan = build.plan
        return plan.precision is Precision.FP16 and not {"b1_up", "b1_norm"} <= plan.islands

    engine = FakeEngine(model, "b1_up", wrong, between=BETWEEN, breaks=lambda plan: bool(plan.marks))
    diagnosis = diagnose(engine)
    assert looked(engine) == [(Observation.DEBUG, frozenset())]
    assert any("one of the 2 nodes up to b1_relu" in each.text for each in diagnosis.evidence)
