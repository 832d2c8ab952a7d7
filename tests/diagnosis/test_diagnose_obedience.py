"""Whether an engine keeps the Casts of its graph: told by its kernels, or by its numbers."""

from __future__ import annotations

import numpy as np
import pytest
from models import rmsnorm

from harness.diagnosis.context import Obedience, obeyed_by_kernels, obeyed_by_numbers
from harness.model import Model
from harness.worker.protocol import TENSORRT_RTX, Kernel, KernelList, KernelTensor


def kernels(*made: Kernel) -> KernelList:
    return KernelList(TENSORRT_RTX, "1.6.1.120", "inspector", made)


def kernel(
    nodes: tuple[str, ...], reads: dict[str, str], writes: dict[str, str], kind: str = "kgen"
) -> Kernel:
    ends = [tuple(KernelTensor(name, dtype) for name, dtype in each.items()) for each in (reads, writes)]
    return Kernel(" ".join(nodes), kind, nodes, *ends)


@pytest.fixture
def model() -> Model:
    return rmsnorm()


ISLAND = ("b1_sq", "b1_mean")


@pytest.mark.parametrize(
    ("between", "says"), [("float16", Obedience.FUSED_AWAY), ("float32", Obedience.KEPT)]
)
def test_a_tensor_between_two_kernels_tells(model: Model, between: str, says: Obedience) -> None:
    found = kernels(
        kernel(("b1_sq",), {"a": "float16"}, {"t": between}),
        kernel(("b1_mean",), {"t": between}, {"o": "float16"}),
    )
    assert obeyed_by_kernels(found, model, ISLAND) is says


def test_generated_code_keeps_the_casts_inside(model: Model) -> None:
    found = kernels(kernel(ISLAND, {"a": "float16"}, {"o": "float16"}))
    assert obeyed_by_kernels(found, model, ISLAND) is Obedience.KEPT


@pytest.mark.parametrize(("reads", "says"), [("float16", Obedience.OPEN), ("float32", Obedience.KEPT)])
def test_a_product_tells_only_by_what_it_reads(model: Model, reads: str, says: Obedience) -> None:
    found = kernels(kernel(("b1_up",), {"a": reads}, {"o": "float16"}, "gemm"))
    assert obeyed_by_kernels(found, model, ("b1_up",)) is says


def test_what_no_kernel_names_tells_nothing(model: Model) -> None:
    assert obeyed_by_kernels(kernels(kernel(("b0_up",), {}, {})), model, ISLAND) is Obedience.OPEN
    assert obeyed_by_kernels(None, model, ISLAND) is Obedience.OPEN


REFERENCE = np.random.default_rng(0).standard_normal(4096)


def erring(error: float, seed: int = 1) -> dict[str, np.ndarray]:
    return {"y": REFERENCE + error * np.random.default_rng(seed).standard_normal(REFERENCE.size)}


def says(
    engine: dict[str, np.ndarray], kept: float, away: float, **known: dict[str, np.ndarray]
) -> Obedience:
    return obeyed_by_numbers(
        engine, known.get("without", {}), {"y": REFERENCE}, erring(kept, 2), erring(away, 3)
    )


def test_the_bits_of_the_engine_without_are_no_obedience() -> None:
    assert says(erring(1e-3), 1e-3, 1.1e-3, without=erring(1e-3)) is Obedience.FUSED_AWAY


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (1.05e-3, Obedience.KEPT),
        (2e-3, Obedience.OPEN),
        (4.1e-3, Obedience.FUSED_AWAY),
        (9e-3, Obedience.OPEN),
    ],
)
def test_the_error_is_that_of_one_of_the_two(error: float, found: Obedience) -> None:
    assert says(erring(error), 1e-3, 4e-3) is found


def test_errors_that_are_alike_tell_nothing() -> None:
    assert says(erring(1e-3), 1e-3, 1.2e-3) is Obedience.OPEN


def test_what_is_finite_only_with_casts_has_them() -> None:
    overflowing = {"y": np.full_like(REFERENCE, np.inf)}
    assert (
        obeyed_by_numbers(erring(1e-3), overflowing, {"y": REFERENCE}, erring(1e-3, 2), overflowing)
        is Obedience.KEPT
    )
    assert (
        obeyed_by_numbers(overflowing, overflowing, {"y": REFERENCE}, erring(1e-3, 2), overflowing)
        is Obedience.FUSED_AWAY
    )
