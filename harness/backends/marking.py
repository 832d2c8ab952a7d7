"""Observe many tensors with few builds, although some of them break a build.

Marking can exhaust memory or make a build fail, with an error that may or may not name the tensor. A group that
fails is split, at the tensors that the error names or in half, until what is left of it builds; a tensor that
fails alone is skipped, with its reason. Each halving finds one breaking tensor among n in about 2·log2(n)
builds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from harness.backends.engines import BuildRefused
from harness.errors import CandidateError

Made = TypeVar("Made")
Marks = tuple[str, ...]

#: What a smaller group of marks may cure. The rest (a mistake in the request, a release that cannot) stays.
_CURABLE = frozenset({"marks_failed", "build_failed", "out_of_memory", "disk_full", "crashed", "timed_out"})
#: These cost a worker, and with it a cold build, each.
_COSTLY = frozenset({"crashed", "timed_out", "cuda_error"})


class MarkSplitter(Generic[Made]):
    """Makes something for each group of marks, splitting groups where that fails.

    Args:
        make: makes it; raises BuildRefused.
        prove_unmarked: called once before the first split; raises if it fails without any marks, too.
        failures: how many failed builds to afford; what is left then is skipped.
        costly_failures: how many of them may end the worker.
    """

    def __init__(
        self,
        make: Callable[[Marks], Made],
        prove_unmarked: Callable[[], object],
        *,
        failures: int = 40,
        costly_failures: int = 4,
    ) -> None:
        self.skipped: dict[str, str] = {}
        """Why a tensor was not observed."""
        self._make = make
        self._prove_unmarked = prove_unmarked
        self._proved = False
        self._left = {"all": failures, "costly": costly_failures}

    def run(self, groups: Iterable[Marks]) -> Iterator[tuple[Marks, Made]]:
        """Each group that could be made, with what was made for it.

        Raises:
            CandidateError: it fails without marks, or in a way that fewer marks do not cure.
        """
        waiting = deque(tuple(group) for group in groups)
        while waiting:
            marks = waiting.popleft()
            try:
                made = self._make(marks)
            except BuildRefused as refusal:
                waiting.extendleft(reversed(self._split(marks, refusal)))
                continue
            yield marks, made

    def _split(self, marks: Marks, refusal: BuildRefused) -> list[Marks]:
        if refusal.kind not in _CURABLE | _COSTLY:
            raise refusal.error
        self._count(refusal)
        if not self._proved:
            try:
                self._prove_unmarked()
            except BuildRefused as unmarked:
                raise unmarked.error from refusal.error
            self._proved = True
        if min(self._left.values()) < 0 or len(marks) == 1:
            self.skipped.update(dict.fromkeys(marks, _reason(refusal.error)))
            return []
        blamed = tuple(name for name in marks if name in refusal.marks)
        if blamed and len(blamed) < len(marks):
            return [tuple(name for name in marks if name not in refusal.marks), blamed]
        middle = len(marks) // 2
        return [marks[:middle], marks[middle:]]

    def _count(self, refusal: BuildRefused) -> None:
        self._left["all"] -= 1
        self._left["costly"] -= refusal.kind in _COSTLY


def _reason(error: CandidateError) -> str:
    return f"the build fails with it: {error.message}"
