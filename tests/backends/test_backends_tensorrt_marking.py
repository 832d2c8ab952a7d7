"""Splitting groups of marks: whatever breaks, the rest is observed, once each, at a bounded price."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.backends.engines import BuildRefused
from harness.backends.evaluating import Marks, MarkSplitter
from harness.errors import BuildFailedError, CandidateError, UnsupportedByReleaseError

NAMES = tuple(f"t{number}" for number in range(24))


class Builds:
    """Counts builds, and fails those that hold a breaking mark, or more marks than fit."""

    def __init__(
        self, breaking: set[str], *, limit: int = 100, kind: str = "marks_failed", blame: bool = False
    ) -> None:
        self.breaking, self.limit, self.kind, self.blame = breaking, limit, kind, blame
        self.made: list[Marks] = []
        self.failures = 0

    def __call__(self, marks: Marks) -> int:
        self.made.append(marks)
        if self.breaking & set(marks) or len(marks) > self.limit:
            self.failures += 1
            blamed = sorted(self.breaking & set(marks)) if self.blame else ()
            raise BuildRefused(self.kind, BuildFailedError("it broke"), blamed)
        return len(self.made)


def split(
    builds: Builds, *, failures: int = 1000, groups: tuple[Marks, ...] = (NAMES,)
) -> tuple[list[str], dict[str, str]]:
    splitter = MarkSplitter(builds, lambda: None, failures=failures, costly_failures=failures)
    seen = [name for marks, _ in splitter.run(groups) for name in marks]
    return seen, splitter.skipped


@given(
    breaking=st.sets(st.sampled_from(NAMES)),
    limit=st.integers(1, 24),
    blame=st.booleans(),
    cuts=st.sets(st.integers(1, 23), max_size=4),
)
def test_every_mark_is_observed_once_or_skipped_with_a_reason(
    breaking: set[str], limit: int, blame: bool, cuts: set[int]
) -> None:
    edges = [0, *sorted(cuts), len(NAMES)]
    groups = tuple(NAMES[low:high] for low, high in itertools.pairwise(edges))
    seen, skipped = split(Builds(breaking, limit=limit, blame=blame), groups=groups)

    assert sorted(seen) == sorted(set(NAMES) - breaking)
    assert set(skipped) == breaking
    assert all("it broke" in reason for reason in skipped.values())


@given(breaking=st.sampled_from(NAMES))
def test_one_breaking_mark_costs_about_two_builds_a_halving(breaking: str) -> None:
    builds = Builds({breaking})
    split(builds)
    assert len(builds.made) <= 2 * math.ceil(math.log2(len(NAMES))) + 1


@given(breaking=st.sets(st.sampled_from(NAMES), min_size=1, max_size=6))
def test_marks_that_the_error_names_are_found_without_search(breaking: set[str]) -> None:
    builds = Builds(breaking, blame=True)
    split(builds)
    assert builds.made[1] == tuple(name for name in NAMES if name not in breaking)


def test_the_order_of_the_marks_is_kept() -> None:
    seen, _ = split(Builds({"t5"}))
    assert seen == [name for name in NAMES if name != "t5"]


def test_what_is_left_when_the_budget_is_spent_is_skipped() -> None:
    builds = Builds(set(NAMES))
    seen, skipped = split(builds, failures=5)
    assert builds.failures <= 5 + len(NAMES)
    assert seen == []
    assert set(skipped) == set(NAMES)


def test_crashes_are_afforded_less_often_than_failures() -> None:
    builds = Builds(set(NAMES), kind="crashed")
    splitter = MarkSplitter(builds, lambda: None, failures=1000, costly_failures=3)
    assert list(splitter.run([NAMES])) == []
    assert builds.failures < 12


@pytest.mark.parametrize("kind", ["unsupported", "bad_request", "environment", "internal"])
def test_what_fewer_marks_do_not_cure_is_raised(kind: str) -> None:
    refusal = BuildRefused(kind, UnsupportedByReleaseError("no debug tensors"))

    def make(_: Marks) -> None:
        raise refusal

    with pytest.raises(UnsupportedByReleaseError):
        list(MarkSplitter(make, lambda: None).run([NAMES]))


def test_the_unmarked_build_is_proved_once_and_its_failure_is_the_one_raised() -> None:
    proofs: list[None] = []
    splitter = MarkSplitter(Builds({"t1", "t2"}), lambda: proofs.append(None))
    list(splitter.run([NAMES]))
    assert len(proofs) == 1

    def unmarked() -> None:
        raise BuildRefused("build_failed", CandidateError("no engine at all"))

    with pytest.raises(CandidateError, match="no engine at all"):
        list(MarkSplitter(Builds({"t1"}), unmarked).run([NAMES]))
