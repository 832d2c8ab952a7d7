"""What may follow at the cursor: commands, names of nodes and tensors, globs of blocks, words of a command."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING

from harness.explore.commands import BY, COMMANDS, ENGINE, Order
from harness.explore.names import WILDCARDS, Names, quoted
from harness.text import plural

if TYPE_CHECKING:
    from prompt_toolkit.completion import Completer

MOST = 400
"""How many candidates are offered: a longer list is of no use."""


@dataclass(frozen=True)
class Candidate:
    """Something that may follow.

    Args:
        text: what replaces the word at the cursor.
        word: how long that word is.
        about: what it is, beside it in the menu.
    """

    text: str
    word: int
    about: str = ""


def complete(before: str, names: Names, kept: frozenset[str]) -> Iterator[Candidate]:
    """What may stand at the end of `before`, the line up to the cursor, the best first; `lower` is offered what is
    kept."""
    words = before.split()
    word = "" if not before or before[-1].isspace() else words.pop()
    if not words:
        for name, spec in COMMANDS.items():
            if name.startswith(word):
                # Where something may follow, the space is typed along, as a shell does.
                yield Candidate(name if spec.usage == name else f"{name} ", len(word), spec.help)
        return
    command, *arguments = words
    found = islice(_arguments(command, arguments, word, names, kept), MOST)
    yield from (Candidate(_quoted(text), len(word), about) for text, about in found)


def _arguments(
    command: str, arguments: list[str], word: str, names: Names, kept: frozenset[str]
) -> Iterator[tuple[str, str]]:
    if command == "layers" and arguments[-1:] == [BY]:
        yield from ((order, "the largest first") for order in Order if order.startswith(word))
    elif command == "layers" and BY in arguments:
        return
    elif command in ("layers", "keep", "bisect"):
        if command == "layers" and BY.startswith(word):
            yield f"{BY} ", "introduced, accumulated or max"
        yield from _patterns(word, names, lambda name: True)
    elif command == "lower":
        yield from _patterns(word, names, kept.__contains__)
    elif command == "why" and not arguments:
        yield from _names(word, names, lambda name: True)
    elif command == "try" and not arguments and ENGINE.startswith(word):
        yield ENGINE, "build it in the environment"
    elif command in ("help", "?") and not arguments:
        yield from ((name, spec.help) for name, spec in COMMANDS.items() if name.startswith(word))


def _patterns(word: str, names: Names, wanted: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """Globs of blocks, then names; behind a glob, what it matches."""
    if not WILDCARDS.isdisjoint(word):
        matching = [name for name in names.units if fnmatchcase(name, word) and wanted(name)]
        if matching:
            yield word, plural(len(matching), "node")
        yield from ((name, names.model.node(name).op) for name in matching)
        return
    for glob, block in names.patterns.items():
        if glob.startswith(word) and any(map(wanted, block)):
            yield glob, f"{len(block)} nodes"
    yield from _names(word, names, wanted)


def _names(word: str, names: Names, wanted: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """Nodes, then tensors that are called otherwise; those that begin with the word before those that hold it."""
    nodes = ((name, names.model.node(name).op) for name in names.units if wanted(name))
    taken = set(names.nodes)
    tensors = (
        (tensor, f"tensor of {node}")
        for tensor, node in names.tensors.items()
        if tensor not in taken and wanted(node)
    )
    yield from _first_prefix(word, [*nodes, *tensors])


def _first_prefix(word: str, offered: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    inside = []
    for name, about in offered:
        if name.startswith(word):
            yield name, about
        elif word.casefold() in name.casefold():
            inside.append((name, about))
    yield from inside


def _quoted(name: str) -> str:
    bare = name.rstrip()
    return name if quoted(bare) == bare else quoted(name)


def make_completer(names: Names, kept: Callable[[], frozenset[str]]) -> Completer:
    """The same for prompt_toolkit; `kept` says which nodes are in FP32 now."""
    from prompt_toolkit.completion import Completer, Completion
    from prompt_toolkit.document import Document

    class _Completer(Completer):
        def get_completions(self, document: Document, complete_event: object) -> Iterator[Completion]:
            """See `complete`."""
            for each in complete(document.text_before_cursor, names, kept()):
                yield Completion(
                    each.text, start_position=-each.word, display=each.text.rstrip(), display_meta=each.about
                )

    return _Completer()
