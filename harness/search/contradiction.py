"""Notice when outcomes contradict each other: treating more should never turn a pass into a fail.

Two evaluations that do so are the first sign of an oracle that is not monotone, or that does not repeat itself;
evaluating both again tells which.
"""

from __future__ import annotations

from harness.search.types import Outcome


class Contradictions:
    """Keeps the largest failing and the smallest passing configurations, and compares new ones with them."""

    def __init__(self) -> None:
        self._fails: list[frozenset[str]] = []
        self._passes: list[frozenset[str]] = []

    def add(self, treated: frozenset[str], outcome: Outcome) -> frozenset[str] | None:
        """Take in an outcome. Returns an earlier configuration that contradicts it, or None."""
        if outcome is Outcome.PASS:
            against = next((failed for failed in self._fails if treated < failed), None)
            if not any(passed < treated for passed in self._passes):
                self._passes = [passed for passed in self._passes if not treated < passed] + [treated]
            return against
        if outcome is Outcome.FAIL:
            against = next((passed for passed in self._passes if passed < treated), None)
            if not any(treated < failed for failed in self._fails):
                self._fails = [failed for failed in self._fails if not failed < treated] + [treated]
            return against
        return None
