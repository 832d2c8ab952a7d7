"""Which tensors are in memory: how many at a time, and what is kept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from harness.backends import Computed
from harness.judge.memory import TensorMemory

BYTES = 80


class Counted:
    """Computes tensors, and counts how often."""

    def __init__(self, *tensors: str, failures: Mapping[str, str] | None = None) -> None:
        self.tensors = tensors
        self.failures = failures or {}
        self.times = 0

    def __call__(self) -> Computed:
        self.times += 1
        return Computed({name: np.full(BYTES // 8, ord(name), float) for name in self.tensors}, self.failures)


@pytest.fixture
def memory() -> TensorMemory:
    return TensorMemory(dict.fromkeys("abcd", BYTES), 4 * BYTES)


@pytest.mark.parametrize(
    ("copies", "chunks"),
    [
        (1, [("a", "b", "c", "d")]),
        (2, [("a", "b"), ("c", "d")]),
        (4, [("a",), ("b",), ("c",), ("d",)]),
        (9, [("a",), ("b",), ("c",), ("d",)]),  # one tensor is always computed
    ],
)
def test_chunks_fit_the_budget_with_every_copy(
    memory: TensorMemory, copies: int, chunks: list[tuple[str, ...]]
) -> None:
    assert memory.chunks("abcd", copies=copies) == chunks


def test_what_is_kept_is_not_computed_again(memory: TensorMemory) -> None:
    compute = Counted("a", "b")
    first = memory.recall("reference", ("a", "b"), compute, most=2 * BYTES)
    again = memory.recall("reference", ("b",), compute, most=2 * BYTES)
    assert compute.times == 1
    assert list(again.tensors) == ["b"]
    assert again.tensors["b"] is first.tensors["b"]


def test_what_is_kept_under_one_key_does_not_answer_for_another(memory: TensorMemory) -> None:
    memory.recall(("reference", 0), ("a",), Counted("a"), most=4 * BYTES)
    compute = Counted("a")
    memory.recall(("reference", 1), ("a",), compute, most=4 * BYTES)
    assert compute.times == 1


def test_a_tensor_that_is_not_among_those_kept_is_computed(memory: TensorMemory) -> None:
    memory.recall("reference", ("a",), Counted("a"), most=4 * BYTES)
    compute = Counted("a", "c")
    found = memory.recall("reference", ("a", "c"), compute, most=4 * BYTES)
    assert compute.times == 1
    assert set(found.tensors) == {"a", "c"}


def test_all_that_is_kept_counts_whatever_its_key(memory: TensorMemory) -> None:
    memory.recall("reference", ("a",), Counted("a"), most=2 * BYTES)
    compute = Counted("a", "b")
    for _ in range(2):
        memory.recall("emulator", ("a", "b"), compute, most=2 * BYTES)  # three in all
    assert compute.times == 2
    for _ in range(2):
        memory.recall("emulator", ("a", "b"), compute, most=3 * BYTES)
    assert compute.times == 3


def test_what_failed_in_part_is_not_kept(memory: TensorMemory) -> None:
    compute = Counted("a", failures={"b": "no kernel"})
    for _ in range(2):
        found = memory.recall("emulator", ("a",), compute, most=4 * BYTES)
        assert found.failures == {"b": "no kernel"}
    assert compute.times == 2


def test_what_is_cleared_is_computed_again(memory: TensorMemory) -> None:
    compute = Counted("a")
    memory.recall("reference", ("a",), compute, most=BYTES)
    memory.clear()
    memory.recall("reference", ("a",), compute, most=BYTES)
    assert compute.times == 2
