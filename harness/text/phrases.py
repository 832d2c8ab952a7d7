"""Lists of names, shortened names, suggestions, commands, gates and sentences."""

from __future__ import annotations

import difflib
import html
import re
import shlex
from collections.abc import Iterable, Sequence

from harness.text.amounts import number, numbers, plural

_PARTS = r"[\w-]+|[^\w-]"  # of a path of names
_WORDS = r"[^\W_]+|[\W_]"  # of a name


def names(items: Iterable[str], most: int = 6, *, separator: str = ", ", last: str = " and ") -> str:
    """`a, b and 3 more`: the first `most` names, and how many more there are. One more is named itself."""
    every = list(items)
    if len(every) <= most + 1:
        return separator.join(every)
    return f"{separator.join(every[:most])}{last}{len(every) - most} more"


def shorten(text: str, width: int) -> str:
    """`text` in at most `width` characters, without its middle: both ends of a node's name matter.

    Words stay whole (`/model/…/q_proj/MatMul`), unless one alone is too long.
    """
    if len(text) <= width:
        return text
    room = width - 1
    # The end says most of a name: it gets more than half of the room, and all but a little if it must.
    for pattern, share in ((_PARTS, 0.6), (_PARTS, 0.9), (_WORDS, 0.6), (_WORDS, 0.4)):
        words = re.findall(pattern, text)
        tail = _as_many(words[::-1], int(share * room))[::-1]
        head = _as_many(words, room - sum(map(len, tail)))
        tail = _as_many(words[::-1], room - sum(map(len, head)))[::-1]
        start, end = "".join(head), "".join(tail)
        if any(map(str.isalnum, start)) and end and len(start) + len(end) >= room // 2:
            return f"{start}…{end}"
    return f"{text[: room // 2]}…{text[len(text) - (room - room // 2) :]}"


def _as_many(words: list[str], room: int) -> list[str]:
    """The first words that fit in `room` characters together."""
    taken: list[str] = []
    for word in words:
        room -= len(word)
        if room < 0:
            break
        taken.append(word)
    return taken


def suggestion(word: str, known: Iterable[str]) -> str | None:
    """``did you mean `fill`?`` with the nearest of `known`, or None if none is near; case and `-` or `_` are one."""
    by_fold = {_fold(name): name for name in known}
    near = difflib.get_close_matches(_fold(word), by_fold, n=1)
    return f"did you mean `{by_fold[near[0]]}`?" if near else None


def _fold(word: str) -> str:
    return word.casefold().replace("-", "_")


def command(*words: object) -> str:
    """A command, quoted so that it can be pasted into a shell."""
    return shlex.join(map(str, words))


def target_words(target: str, shapes: Iterable[str]) -> list[str]:
    """The words that name `target` in a command, with `--input` before each of its shapes."""
    return [target, *(word for shape in shapes for word in ("--input", shape))]


def sentence(text: str) -> str:
    """`text` with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def html_table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], omitted: int = 0) -> str:
    """A table for a notebook; `omitted` rows were left out."""
    lines = [
        "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
        for tag, row in (("th", columns), *(("td", row) for row in rows))
    ]
    more = f"<p>and {plural(omitted, 'more run')}</p>" if omitted > 0 else ""
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<p>{html.escape(caption)}</p><table>{body}</table>{more}"


def gate(metric: str, limit: float, value: float | None = None, *, at_least: bool = False) -> str:
    """`rmse ≤ 2e-4`; with the value that was compared, `rmse 0.6 > 2e-4`.

    Args:
        metric: name of the metric.
        limit: the largest value that passes, or the smallest one if `at_least`.
        value: the value found, if there is one; NaN never passes.
        at_least: whether the metric is better when larger.
    """
    if value is None:
        return f"{metric} {'≥' if at_least else '≤'} {number(limit)}"
    passes = value >= limit if at_least else value <= limit
    sign = ("≥" if passes else "<") if at_least else ("≤" if passes else ">")
    found, bound = numbers(value, limit)
    return f"{metric} {found} {sign} {bound}"


def beyond(metric: str, value: float, limit: float, beside: str = "") -> str:
    """`nrmse 0.6, limit 2e-4`, of a gate that fails; `beside` says what stands between them."""
    found, bound = numbers(value, limit)
    return f"{metric} {found}{beside}, limit {bound}"
