"""Names, patterns and what completes them."""

from __future__ import annotations

import pytest
from models import rmsnorm

from harness.errors import NothingSelectedError, UsageError
from harness.explore.commands import Command, parse
from harness.explore.completion import Candidate, complete
from harness.explore.names import Names, quoted

NOTHING: frozenset[str] = frozenset()


@pytest.fixture(scope="module")
def names() -> Names:
    model = rmsnorm(scale=600.0)
    return Names(model, [node.name for node in model.lowerable])


def offered(names: Names, before: str, kept: frozenset[str] = NOTHING) -> list[str]:
    return [candidate.text for candidate in complete(before, names, kept)]


def test_a_name_is_a_node_a_tensor_or_a_glob_of_one(names: Names) -> None:
    assert names.node("b1_sq").name == "b1_sq"
    assert names.node("b1_sq*t").name == "b1_sqrt"
    tensor = next(tensor for tensor, node in names.tensors.items() if node == "b2_add")
    assert names.node(tensor).name == "b2_add"


def test_patterns_add_up_in_the_order_of_the_graph(names: Names) -> None:
    assert names.all_of(["b2_sq", "b1_sq*"]) == ("b1_sq", "b1_sqrt", "b2_sq")
    assert len(names.all_of(["b1_*"])) == 11


def test_an_unknown_name_suggests_the_nearest(names: Names) -> None:
    with pytest.raises(NothingSelectedError, match="did you mean `b1_sq`") as caught:
        names.all_of(["b1_sqq"])
    assert caught.value.exit_code == 5
    with pytest.raises(NothingSelectedError, match=r"did you mean `b1_\*`"):
        names.all_of(["b11_*"])
    with pytest.raises(NothingSelectedError, match=r"Tab completes"):
        names.all_of(["something else altogether"])


def test_a_glob_of_several_nodes_is_not_one_node(names: Names) -> None:
    with pytest.raises(UsageError, match="matches 11 nodes") as caught:
        names.node("b1_*")
    assert "b1_scale" in str(caught.value.hint)


def test_nodes_that_the_precision_does_not_lower_cannot_be_kept() -> None:
    model = rmsnorm(scale=600.0)
    products = Names(model, ["b0_up"])
    with pytest.raises(NothingSelectedError, match="tf32 does not lower this node"):
        products.units_of(["b0_sq"], "tf32")
    assert products.units_of(["b0_*"], "tf32") == ("b0_up",)


def test_blocks_are_globs_that_match_just_the_block(names: Names) -> None:
    assert list(names.patterns) == ["b0_*", "b1_*", "b2_*"]
    assert names.patterns["b1_*"] == names.all_of(["b1_*"])


def test_a_completed_command_ends_with_a_space_if_words_follow(names: Names) -> None:
    assert offered(names, "la") == ["layers "]
    assert offered(names, "un") == ["undo"]
    assert set(offered(names, "")) >= {"layers ", "why ", "keep ", "undo", "quit"}


def test_blocks_come_first_then_prefixes_then_substrings(names: Names) -> None:
    found = offered(names, "keep b1")
    assert found[:3] == ["b1_*", "b1_scale", "b1_sq"]
    assert offered(names, "why mean") == ["b0_mean", "b1_mean", "b2_mean"]
    assert next(complete("keep b1", names, NOTHING)) == Candidate("b1_*", 2, "11 nodes")


def test_a_glob_offers_what_it_matches(names: Names) -> None:
    found = list(complete("bisect b?_sq", names, NOTHING))
    assert [candidate.text for candidate in found] == ["b?_sq", "b0_sq", "b1_sq", "b2_sq"]
    assert found[0].about == "3 nodes"


def test_lower_offers_only_kept_nodes(names: Names) -> None:
    assert offered(names, "lower ", frozenset({"b1_sq"})) == ["b1_*", "b1_sq"]
    assert offered(names, "lower ") == []


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("layers by ", ["introduced", "accumulated", "max"]),
        ("layers b1_* by m", ["max"]),
        ("layers by introduced ", []),
        ("try ", ["--engine"]),
        ("try --engine ", []),
        ("help wh", ["why"]),
        ("undo ", []),
        ("why b1_sq ", []),
        ("nonsense ", []),
    ],
)
def test_words_of_a_command(names: Names, before: str, expected: list[str]) -> None:
    assert offered(names, before) == expected


def test_layers_offers_its_order_too(names: Names) -> None:
    assert offered(names, "layers b")[0] == "by "


@pytest.mark.parametrize("name", ["plain", "/a/b.c", "two words", "it's", 'it\'s "sq"', "a\\b", "#3", "x;y"])
def test_a_quoted_name_can_be_typed(name: str) -> None:
    assert parse(f"why {quoted(name)}") == Command("why", (name,))
