"""Client, worker and adapter together, on doubles of TensorRT releases from the first to the last."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from graphs import norm_chain

from harness.backends import Observation, Plan, Reference, TensorRTCandidate, Timing
from harness.environments import Environment, Supervisor
from harness.errors import UnsupportedByReleaseError
from harness.model import load_model
from harness.tensors import Precision
from harness.worker.protocol import RUNTIME

ADAPTER = Path(__file__).parents[1] / "worker" / "doubled.py"
X = np.random.default_rng(1).standard_normal((5, 16)).astype(np.float32)
INNER = ("scaled", "sq", "mean", "root", "norm", "proj", "relu")
FP16 = Plan(Precision.FP16)
RELEASES = ("8.5.3.1", "8.6.0", "10.0.1", "10.13.3.9", "11.4.0.106")


@pytest.fixture(scope="module", params=RELEASES)
def candidate(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TensorRTCandidate]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_SCRATCH", str(tmp_path_factory.mktemp("s")))
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        environment = Environment(request.param, (sys.executable,), variables=(("RELEASE", request.param),))
        supervisor = Supervisor(environment, adapter=ADAPTER, keep_cache=False)
        model = load_model(norm_chain(scale=600.0))
        timing = Timing(repeats=5, layers=True)
        yield TensorRTCandidate(environment, model, supervisor=supervisor, timing=timing)
        supervisor.close()


@pytest.fixture(scope="module")
def reference(candidate: TensorRTCandidate) -> dict[str, np.ndarray]:
    return Reference(candidate.model).run({"x": X}, (*INNER, "y"))


def strong(candidate: TensorRTCandidate) -> bool:
    return "weak" not in candidate.supervisor.probe().capabilities


def test_fp32_is_the_reference(candidate: TensorRTCandidate, reference: dict[str, np.ndarray]) -> None:
    evaluation = candidate.evaluate(Plan(Precision.FP32), {"x": X})
    np.testing.assert_allclose(evaluation.tensors["y"], reference["y"], rtol=1e-5, atol=1e-6)
    assert evaluation.facts.fingerprint.tensorrt == candidate.name
    assert evaluation.facts.latency.n == 5
    assert evaluation.facts.layers


def test_an_overflow_is_seen_under_typed_observation_and_cured_by_its_island(
    candidate: TensorRTCandidate, reference: dict[str, np.ndarray]
) -> None:
    typed = replace(FP16, observation=Observation.TYPED)
    sick = candidate.evaluate(typed, {"x": X})
    assert sick.facts.typing == ("strong" if strong(candidate) else "weak")
    assert {name for name in INNER if name in sick.tensors} >= {"scaled", "sq"}
    assert np.isinf(sick.tensors["sq"]).any()
    assert np.isfinite(sick.tensors["scaled"]).all()
    assert sick.tensors["scaled"].dtype == np.float16

    island = frozenset({"sq", "mean", "root"})
    cured = candidate.evaluate(replace(typed, islands=island), {"x": X})
    assert np.isfinite(cured.tensors["sq"]).all()
    np.testing.assert_allclose(cured.tensors["y"], reference["y"], atol=0.1)


def test_an_island_between_casts_cures_too(
    candidate: TensorRTCandidate, reference: dict[str, np.ndarray]
) -> None:
    island = frozenset({"sq", "mean", "root"})
    cured = candidate.evaluate(replace(FP16, islands=island, casts=True), {"x": X})
    assert cured.facts.typing == ("strong" if strong(candidate) else "weak")
    np.testing.assert_allclose(cured.tensors["y"], reference["y"], atol=0.1)
    assert np.abs(cured.tensors["y"] - reference["y"]).max() > 0, "the rest is FP16"


def test_prefixes_agree_with_the_reference_up_to_the_overflow(
    candidate: TensorRTCandidate, reference: dict[str, np.ndarray]
) -> None:
    plan = replace(FP16, observation=Observation.PREFIX, marks=frozenset({"scaled", "sq"}))
    found = candidate.evaluate(plan, {"x": X})
    np.testing.assert_allclose(found.tensors["scaled"].astype(np.float32), reference["scaled"], rtol=2e-3)
    assert found.tensors["sq"].dtype == np.float16
    assert np.isinf(found.tensors["sq"]).any()
    assert found.facts.skipped_marks == {}


def test_debug_tensors_come_where_there_are_some(candidate: TensorRTCandidate) -> None:
    plan = replace(FP16, observation=Observation.DEBUG, marks=frozenset({"sq"}))
    if "debug_tensors" not in candidate.supervisor.probe().capabilities:
        with pytest.raises(UnsupportedByReleaseError, match="debug tensors"):
            candidate.evaluate(plan, {"x": X})
    else:
        assert "y" in candidate.evaluate(plan, {"x": X}).tensors


def test_the_timing_cache_goes_through_a_file_of_the_supervisor(
    candidate: TensorRTCandidate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    environment = candidate.supervisor.environment
    for _ in range(2):
        supervisor = Supervisor(environment, adapter=ADAPTER)
        other = TensorRTCandidate(environment, candidate.model, supervisor=supervisor)
        warnings = other.evaluate(Plan(Precision.FP32), {"x": X}).facts.warnings
        assert not [warning for warning in warnings if "timing cache" in warning]
        supervisor.close()
    assert len(list(tmp_path.rglob("*.cache"))) == 1


def test_two_workers_that_end_keep_the_kernels_of_both(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path_factory.mktemp("s")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    environment = Environment("rtx", (sys.executable,), variables=(("RELEASE", "1.6.1.120"),))
    supervisors = [Supervisor(environment, adapter=ADAPTER) for _ in range(2)]
    plans = (FP16, replace(FP16, islands=frozenset({"sq"})))
    for plan, supervisor in zip(plans, supervisors, strict=True):  # both are there before either ends
        model = load_model(norm_chain(scale=600.0))
        TensorRTCandidate(environment, model, supervisor=supervisor).evaluate(plan, {"x": X})

    def kept() -> set[str]:
        (file,) = (tmp_path / "harness" / RUNTIME).glob("*.cache")
        return {*file.read_text().split("\n")}

    supervisors[0].close()
    first = kept()
    supervisors[1].close()
    assert kept() > first
