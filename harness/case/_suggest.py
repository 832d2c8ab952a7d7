"""The question that mends a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggestion(word: str, known: Iterable[str]) -> str | None:
    """``did you mean `fill`?`` with the nearest of `known`, or None if none is near."""
    by_fold = {_fold(name): name for name in known}
    near = difflib.get_close_matches(_fold(word), by_fold, n=1)
    return f"did you mean `{by_fold[near[0]]}`?" if near else None


def _fold(word: str) -> str:
    return word.casefold().replace("-", "_")
