"""What is kept in FP32, and the way back. Pure and immutable."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.errors import UsageError


@dataclass(frozen=True)
class Island:
    """A set of nodes with what it was before.

    Args:
        kept: names of the nodes that are kept in FP32.
        earlier: the sets before it, the oldest first.
    """

    kept: frozenset[str] = frozenset()
    earlier: tuple[frozenset[str], ...] = ()

    def become(self, kept: Iterable[str]) -> Island:
        """The island with `kept`; itself if that is what it is, so that each undo changes something."""
        wanted = frozenset(kept)
        return self if wanted == self.kept else Island(wanted, (*self.earlier, self.kept))

    def undo(self) -> Island:
        """The island before the last change.

        Raises:
            UsageError: nothing was changed.
        """
        if not self.earlier:
            raise UsageError("there is nothing to undo: nothing was kept or lowered yet")
        return Island(self.earlier[-1], self.earlier[:-1])
