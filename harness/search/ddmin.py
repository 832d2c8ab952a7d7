"""Delta debugging, for oracles that are not monotone or often unresolved, and for culprits that interact.

A. Zeller and R. Hildebrandt, "Simplifying and isolating failure-inducing input", IEEE TSE 28(2), 2002; rddmin
after F. Févotte and B. Lathuilière, "Debugging and optimization of HPC programs with the Verrou tool", 2019.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.search.inquiry import Inquiry
from harness.search.types import Outcome, Strategy


def ddmin(inquiry: Inquiry, kept: Sequence[str]) -> tuple[str, ...]:
    """A part of `kept` that has the property and of which no single unit can be seen to be superfluous.

    Tries each of n chunks, then all but each of them, then twice as many chunks. At worst about n² evaluations.

    Args:
        inquiry: the question.
        kept: units, in their order, that have the property together.
    """
    inquiry.trail.enter(Strategy.DDMIN)
    current = tuple(kept)
    parts = 2
    while len(current) >= 2:
        inquiry.trail.expect(len(current))
        chunks = list(split(current, parts))
        chunk = next((each for each in chunks if inquiry.has(each, f"one of {parts} parts")), None)
        if chunk is not None:
            current, parts = chunk, 2
            continue
        rest = _first_superfluous(inquiry, current, chunks)
        if rest is not None:
            current, parts = rest, max(parts - 1, 2)
        elif parts >= len(current):
            break
        else:
            parts = min(2 * parts, len(current))
    return current


def _first_superfluous(
    inquiry: Inquiry, current: tuple[str, ...], chunks: list[tuple[str, ...]]
) -> tuple[str, ...] | None:
    if len(chunks) == 2:  # all but one of two parts is the other part, which was just tried
        return None
    for chunk in chunks:
        gone = frozenset(chunk)
        rest = tuple(unit for unit in current if unit not in gone)
        if inquiry.has(rest, f"all but one of {len(chunks)} parts"):
            return rest
    return None


def split(units: Sequence[str], parts: int) -> Iterator[tuple[str, ...]]:
    """Cut a sequence into that many parts of nearly the same length, none of them empty."""
    parts = min(parts, len(units))
    for number in range(parts):
        yield tuple(units[number * len(units) // parts : (number + 1) * len(units) // parts])


def some_part(inquiry: Inquiry, order: Sequence[str]) -> tuple[str, ...] | None:
    """A set with the property where the whole cannot be judged: all but a half, a quarter, an eighth of it.

    Returns None if each of the 14 of them is unresolved or lacks it.
    """
    inquiry.trail.note("the whole cannot be judged: look for a part of it that has the property")
    for parts in (2, 4, 8):
        chunks = list(split(order, parts))
        for chunk in chunks if len(chunks) == parts else ():
            gone = frozenset(chunk)
            rest = tuple(unit for unit in order if unit not in gone)
            if inquiry.ask(rest, f"all but one of {parts} parts") is Outcome.PASS:
                return rest
    return None
