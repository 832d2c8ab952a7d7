"""What a problem accepts, and what identifies it."""

from __future__ import annotations

import math
import re

import pytest

from harness.errors import UsageError
from harness.search import Budget, Group, Problem, SearchOptions


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": ("a", "")}, "empty name"),
        ({"units": ("a", "b", "a")}, "'a' is named twice"),
        (
            {"units": ("layer1", "b"), "scores": {"layer2": 1.0}},
            "unknown unit 'layer2' (did you mean `layer1`?)",
        ),
        ({"units": ("a", "b"), "scores": {"a": math.nan}}, "the score of unit 'a' is not a number"),
        ({"units": ("a", "b"), "hints": (frozenset("c"),)}, "hints names the unknown unit 'c'"),
        ({"units": ("a", "b"), "groups": (Group("g", ("c",)),)}, "group 'g' names the unknown unit 'c'"),
        ({"units": ("a", "b"), "groups": (Group("g", ("a", "a")),)}, "group 'g' names a unit twice"),
        (
            {"units": ("a", "b"), "groups": (Group("g", ("a",)), Group("h", ("b", "a")))},
            "unit 'a' is in two groups of the problem",
        ),
        (
            {"units": ("a", "b"), "groups": (Group("g", ("a",), (Group("inner", ("b",)),)),)},
            "group 'inner' holds 'b', which group 'g' does not",
        ),
    ],
)
def test_a_problem_that_makes_no_sense_is_refused_with_the_name_at_fault(arguments, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        Problem(**arguments)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Budget(evaluations=-1),
        lambda: Budget(seconds=math.nan),
        lambda: SearchOptions(repeats=0),
    ],
)
def test_options_that_make_no_sense_are_refused(make):
    with pytest.raises(UsageError):
        make()


def test_the_digest_follows_what_decides_a_verdict_and_nothing_else():
    plain = Problem(("a", "b"), identity="model 1")
    more = Problem(("a", "b"), "model 1", (Group("g", ("a",)),), {"a": 1.0}, (frozenset("a"),))
    assert plain.digest == more.digest
    others = [Problem(("b", "a"), "model 1"), Problem(("a", "b"), "model 2"), Problem(("a",), "model 1")]
    assert len({plain.digest, *(other.digest for other in others)}) == 4


def test_many_units_are_described_by_count_and_ends():
    problem = Problem(tuple("abcdefgh"))
    assert problem.describe([]) == "nothing"
    assert problem.describe("ba") == "a, b"
    assert problem.describe("hgcde") == "5 units (c … h)"
    assert problem.describe("hgfedcba") == "all 8 units"
