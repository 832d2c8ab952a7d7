"""Emulated releases: how they are written, that rebuilds can be had again, and what noise and plants do."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_cases import write_cases

from harness.backends import Observation, Plan
from harness.case import load_case
from harness.errors import UsageError
from harness.history.matrix.emulated import EmulatedBuild, EmulatedRelease, is_emulated
from harness.judge import Workbench
from harness.tensors import Precision

PLAN = Plan(Precision.FP16, observation=Observation.TYPED)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    folder = write_cases(tmp_path_factory.mktemp("cases"), "clean")
    return Workbench(load_case(folder / "clean.case.yaml"), memory_budget=1 << 30)


def tensors(bench: Workbench, text: str, rebuild: int = 0, plan: Plan = PLAN) -> dict[str, np.ndarray]:
    build = EmulatedBuild(EmulatedRelease.parse(text), bench.model, rebuild)
    return dict(build.evaluate(plan, bench.feeds[0]).tensors)


def test_everything_that_can_be_written() -> None:
    text = "emulator:fp16,noise=0.2,seed=3,plant=layers.3/fc1:0@bf16"
    release = EmulatedRelease.parse(text)
    assert release == EmulatedRelease(text, Precision.FP16, 0.2, 3, "layers.3/fc1:0", Precision.BF16)
    assert EmulatedRelease.parse("emulator") == EmulatedRelease("emulator")
    assert EmulatedRelease.parse("emulator,plant=a@b@fp8").planted == "a@b"


@pytest.mark.parametrize(
    "text",
    ["emulator:fp17", "emulator,", "emulator,noise", "emulator,noise=", "emulator,noise=x", "emulator,noise=-1",
     "emulator,noise=inf", "emulator,noise=nan", "emulator,seed=1.5", "emulator,speed=3", "emulator,plant=a@fp17"],
)  # fmt: skip
def test_what_means_nothing_is_refused_with_the_syntax(text: str) -> None:
    with pytest.raises(UsageError, match="write emulator"):
        EmulatedRelease.parse(text)


def test_environments_are_not_taken_for_emulated_releases() -> None:
    assert is_emulated("emulator")
    assert is_emulated("emulator:bf16,seed=1")
    assert not is_emulated("emulator-8.6")
    assert not is_emulated("trt-8.6")


def test_without_noise_it_is_the_emulator(bench: Workbench) -> None:
    expected = bench.emulator.evaluate(PLAN, bench.feeds[0]).tensors
    found = tensors(bench, "emulator")
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_a_release_keeps_its_own_precision(bench: Workbench) -> None:
    asked = Plan(Precision.BF16, observation=Observation.TYPED)
    np.testing.assert_array_equal(
        tensors(bench, "emulator:fp16", plan=asked)["y"], tensors(bench, "emulator:fp16")["y"]
    )


def test_rebuilds_differ_and_can_be_had_again(bench: Workbench) -> None:
    text = "emulator:fp16,noise=2,seed=1"
    builds = [tensors(bench, text, number)["y"] for number in (0, 1, 0)]
    assert (builds[0] != builds[1]).any()
    np.testing.assert_array_equal(builds[0], builds[2])
    assert (tensors(bench, "emulator:fp16,noise=2,seed=2")["y"] != builds[0]).any()


def test_noise_moves_values_by_no_more_than_roundings(bench: Workbench) -> None:
    calm, noisy = tensors(bench, "emulator:fp16")["y"], tensors(bench, "emulator:fp16,noise=0.5")["y"]
    apart = np.abs(noisy - calm) / np.maximum(np.abs(calm), 1e-6)
    assert apart.max() < 8 * 2**-11


def test_an_overflow_stays_an_overflow_under_noise(tmp_path) -> None:
    case = load_case(write_cases(tmp_path, "expected") / "expected.case.yaml")
    overflowing = Workbench(case, memory_budget=1 << 30)
    calm = tensors(overflowing, "emulator:fp16")
    assert any(np.isinf(values).any() for values in calm.values())
    for seed in range(8):
        for name, values in tensors(overflowing, f"emulator:fp16,noise=1,seed={seed}").items():
            np.testing.assert_array_equal(np.isnan(values), np.isnan(calm[name]), err_msg=name)


def test_a_planted_fault_changes_only_its_node_and_what_follows(bench: Workbench) -> None:
    calm, planted = tensors(bench, "emulator:fp16"), tensors(bench, "emulator:fp16,plant=square@bf16")
    changed = {name for name, values in calm.items() if (values != planted[name]).any()}
    assert changed == {"square", "root", "y"}
    as_bf16 = planted["square"].view(np.uint32) & 0xFFFF
    assert not as_bf16.any(), "its values are BF16 values"


def test_a_planted_fault_at_a_node_that_a_model_lacks_does_nothing(bench: Workbench) -> None:
    np.testing.assert_array_equal(
        tensors(bench, "emulator:fp16,plant=nowhere")["y"], tensors(bench, "emulator:fp16")["y"]
    )


def test_islands_are_refused(bench: Workbench) -> None:
    with pytest.raises(UsageError, match="islands"):
        tensors(bench, "emulator:fp16", plan=Plan(Precision.FP16, islands=frozenset({"square"})))
