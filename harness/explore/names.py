"""Names and patterns of a model: what a person types, turned into nodes."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import cached_property

from harness.diagnosis import find_groups
from harness.errors import NothingSelectedError, UsageError
from harness.model import Model, NodeInfo

WILDCARDS = frozenset("*?[")
SEPARATORS = "_/."
MOST_SUGGESTED = 3


def quoted(name: str) -> str:
    """A name as it must be typed."""
    return shlex.quote(name) if any(letter.isspace() or letter in "'\"" for letter in name) else name


class Names:
    """The nodes of a model and the tensors that they write, for one precision.

    Args:
        model: the model.
        units: names of the nodes that the precision lowers, in topological order.
    """

    def __init__(self, model: Model, units: Sequence[str]) -> None:
        self.model = model
        self.units = tuple(units)
        self._units = frozenset(units)

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """The names of all nodes, in topological order."""
        return tuple(node.name for node in self.model.nodes)

    @cached_property
    def tensors(self) -> dict[str, str]:
        """By name of each tensor that a node writes, the name of the node."""
        return {name: node.name for node in self.model.nodes for name in node.outputs if name}

    @cached_property
    def patterns(self) -> dict[str, tuple[str, ...]]:
        """Globs that match one block of the model each, such as `layers.3/*`, and the nodes that they match."""
        found = {}
        for group in find_groups(self.model, self.units):
            for separator in SEPARATORS:
                glob = f"{group.name}{separator}*"
                if {name for name in self.units if fnmatchcase(name, glob)} == set(group.units):
                    found[glob] = group.units
        return found

    def node(self, name: str) -> NodeInfo:
        """The one node that `name` means: its own name, a tensor that it writes, or a glob that matches it alone.

        Raises:
            NothingSelectedError: there is none; the hint names the nearest.
            UsageError: the glob matches several.
        """
        matching = self._matching(name)
        if len(matching) > 1:
            shown = ", ".join(matching[:MOST_SUGGESTED])
            raise UsageError(f"`{name}` matches {len(matching)} nodes", hint=f"name one of them: {shown}, …")
        return self.model.node(matching[0])

    def all_of(self, patterns: Iterable[str]) -> tuple[str, ...]:
        """The names of the nodes that match, in topological order.

        Raises:
            NothingSelectedError: a pattern matches nothing; the hint names what is near.
        """
        found = {name for pattern in patterns for name in self._matching(pattern)}
        return tuple(name for name in self.nodes if name in found)

    def units_of(self, patterns: Iterable[str], precision: str) -> tuple[str, ...]:
        """The nodes that match and that the precision lowers.

        Raises:
            NothingSelectedError: there are none.
        """
        wanted = tuple(patterns)
        matching = self.all_of(wanted)
        units = tuple(name for name in matching if name in self._units)
        if not units:
            ops = ", ".join(dict.fromkeys(self.model.node(name).op for name in matching[:MOST_SUGGESTED]))
            raise NothingSelectedError(
                f"{' '.join(wanted)}: {precision} does not lower {'these nodes' if len(matching) > 1 else 'this node'}"
                f" ({ops})",
                hint="only nodes that compute float tensors from the inputs have a precision",
            )
        return units

    def _matching(self, pattern: str) -> tuple[str, ...]:
        if pattern in self._node_set:
            return (pattern,)
        if pattern in self.tensors:
            return (self.tensors[pattern],)
        if WILDCARDS.isdisjoint(pattern):
            near = difflib.get_close_matches(pattern, [*self._node_set, *self.tensors], n=MOST_SUGGESTED)
            raise NothingSelectedError(
                f"no node and no tensor is named `{pattern}`", hint=_did_you_mean(near)
            )
        found = {name for name in self.nodes if fnmatchcase(name, pattern)}
        found.update(node for tensor, node in self.tensors.items() if fnmatchcase(tensor, pattern))
        if not found:
            near = difflib.get_close_matches(pattern, self.patterns, n=1)
            raise NothingSelectedError(f"nothing matches `{pattern}`", hint=_did_you_mean(near))
        return tuple(name for name in self.nodes if name in found)

    @cached_property
    def _node_set(self) -> dict[str, None]:
        return dict.fromkeys(self.nodes)


def _did_you_mean(near: Sequence[str]) -> str:
    if not near:
        return "Tab completes names; `layers *` lists all of them"
    names = dict.fromkeys(near)
    return f"did you mean {' or '.join(f'`{name}`' for name in names)}?"
