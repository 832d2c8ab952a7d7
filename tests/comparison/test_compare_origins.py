"""Where the error starts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.comparison import find_origins

CHAIN = {"b": ["a"], "c": ["b"], "d": ["c"]}


def test_the_first_failing_tensor_of_a_chain_is_the_origin() -> None:
    assert find_origins("abcd", {"a": False, "b": True, "c": True, "d": True}, CHAIN) == ["b"]


def test_nothing_fails() -> None:
    assert find_origins("abcd", dict.fromkeys("abcd", False), CHAIN) == []


def test_an_error_that_heals_and_comes_back_has_two_origins() -> None:
    assert find_origins("abcd", {"a": True, "b": False, "c": False, "d": True}, CHAIN) == ["a", "d"]


def test_tensors_that_were_not_observed_are_skipped() -> None:
    assert find_origins("abcd", {"a": True, "d": True}, CHAIN) == ["a"]
    assert find_origins("abcd", {"a": False, "d": True}, CHAIN) == ["d"]


def test_every_branch_counts() -> None:
    joined = {"left": ["x"], "right": ["x"], "sum": ["left", "right", "weight"]}
    order = ["x", "left", "right", "sum"]
    assert find_origins(order, {"left": False, "right": True, "sum": True}, joined) == ["right"]
    assert find_origins(order, {"left": False, "sum": True}, joined) == ["sum"]
    assert find_origins(order, {"left": True, "right": True, "sum": True}, joined) == ["left", "right"]


def test_long_unobserved_chains_and_shared_tensors() -> None:
    count = 20_000
    chain = {f"t{i + 1}": [f"t{i}", f"t{max(i - 1, 0)}", f"t{i}"] for i in range(count)}
    order = [f"t{i}" for i in range(count + 1)]
    assert find_origins(order, {"t0": True, f"t{count}": True}, chain) == ["t0"]


@given(st.data())
def test_an_origin_fails_and_no_failing_tensor_leads_to_it_unobserved(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    names = [f"t{i}" for i in range(count)]
    before = {
        name: [names[j] for j in data.draw(st.sets(st.integers(0, i - 1), max_size=3))] if i else []
        for i, name in enumerate(names)
    }
    states = data.draw(st.lists(st.sampled_from([None, False, True]), min_size=count, max_size=count))
    failed = {name: state for name, state in zip(names, states, strict=True) if state is not None}

    def nearest(name: str) -> set[str]:
        return {
            found for parent in before[name] for found in ({parent} if parent in failed else nearest(parent))
        }

    expected = [
        name for name in names if failed.get(name) and not any(failed[parent] for parent in nearest(name))
    ]
    assert find_origins(names, failed, before) == expected
