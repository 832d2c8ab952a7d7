"""Running a graph as far as it goes."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import looked_up, picked_elements

from harness.backends import Emulator, Observation, Plan, run_as_far_as_possible
from harness.errors import NodeFailedError
from harness.model import load_model
from harness.tensors import Precision

X = {"x": np.linspace(-2, 2, 8, dtype=np.float32)}


def test_a_failing_node_is_named_by_the_model_not_by_the_session() -> None:
    with pytest.raises(NodeFailedError, match=r"read \(Gather\): .*out of data bounds") as caught:
        Emulator(load_model(looked_up())).run(X, Precision.FP16)
    assert (caught.value.node, caught.value.op) == ("read", "Gather")
    assert "Non-zero status" not in str(caught.value)


def test_what_does_not_depend_on_the_failing_node_is_computed() -> None:
    plan = Plan(Precision.FP16, observation=Observation.TYPED)
    found = Emulator(load_model(looked_up())).evaluate(plan, X)
    assert set(found.failures) == {"read", "y"}
    assert set(found.tensors) == {"size", "near", "large", "bucket"}
    np.testing.assert_array_equal(found.tensors["size"], np.abs(X["x"]).astype(np.float16))


def test_an_island_that_keeps_the_numbers_in_range_leaves_nothing_failing() -> None:
    plan = Plan(Precision.FP16, islands=frozenset({"large", "bucket"}))
    found = Emulator(load_model(looked_up())).evaluate(plan, X)
    assert not found.failures
    assert set(found.tensors) == {"size", "y"}


def test_a_failure_at_a_node_that_the_model_lacks_fails_all_that_is_left() -> None:
    def run(names: tuple[str, ...]) -> dict[str, np.ndarray]:
        raise NodeFailedError(node="harness::3", op="If", reason="it broke", where="m")

    found = run_as_far_as_possible(load_model(picked_elements()), ["far", "picked"], run)
    assert dict(found.tensors) == {}
    assert set(found.failures) == {"far", "picked"}
