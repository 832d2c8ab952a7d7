"""One YAML file read into plain data, with the line and column of every key and value.

The node graph is walked here rather than by YAML's own constructors, so that duplicate keys and unreadable
values are all found at once, and every value keeps its place. Keys are always text, as they are written: an
input may be called `0` or `yes`.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import Mistake

Location = tuple[str | int, ...]

_MAX_NODES = 100_000  # aliases of aliases grow without bound ("billion laughs")
_HASH = re.compile(r"[ \t]+(#[^\s#]\S*)")  # comments for people begin with `# `
_NULL, _MAP, _SEQ = (f"tag:yaml.org,2002:{kind}" for kind in ("null", "map", "seq"))


@dataclass(frozen=True)
class Unreadable:
    """Stands in the data for a value whose mistake is already reported."""


@dataclass
class Document:
    """What a YAML file holds.

    Args:
        path: the file.
        data: mappings, lists and scalars; None if the file could not be read at all.
        mistakes: what was wrong with the YAML.
    """

    path: Path
    data: Any = None
    mistakes: list[Mistake] = field(default_factory=list)
    cut: dict[Location, str] = field(default_factory=dict)
    """By the place of a text without quotes: the ` #word` right behind it that YAML takes for a comment."""
    refused: list[Location] = field(default_factory=list)
    """Where something stands that could not be read."""
    _keys: dict[Location, tuple[int, int]] = field(default_factory=dict)
    _values: dict[Location, tuple[int, int]] = field(default_factory=dict)

    def position(self, location: Location, *, key: bool = False) -> tuple[int, int]:
        """Line and column, from 1, of the value (or the key) at `location`, else of the nearest around it."""
        for end in range(len(location), -1, -1):
            at = location[:end]
            wants_key = key or end < len(location) or at not in self._values
            if wants_key and at in self._keys:
                return self._keys[at]
            if at in self._values:
                return self._values[at]
        return 1, 1

    def mistake(self, location: Location, message: str, *, key: bool = False) -> Mistake:
        """A mistake at the value (or the key) at `location`."""
        line, column = self.position(location, key=key)
        return Mistake(self.path, line, column, spell(location), message)


def spell(location: Location) -> str:
    """`runs[0].precision` for `("runs", 0, "precision")`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_document(path: Path) -> Document:
    """Read a YAML file; whatever is wrong with it is in `mistakes` of the result, nothing is raised."""
    document = Document(path)
    text = _read_text(document)
    if text is not None:
        _parse(text, document)
    return document


def _read_text(document: Document) -> str | None:
    path = document.path
    try:
        raw = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        document.mistakes.append(Mistake(path, 0, 0, "", f"cannot be read: {reason}"))
        return None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        message = f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
        document.mistakes.append(Mistake(path, line, column, "", message))
        return None


def _parse(text: str, document: Document) -> None:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError
    from ruamel.yaml.reader import ReaderError

    def refuse(line: int, column: int, message: str) -> None:
        document.mistakes.append(Mistake(document.path, line, column, "", message))

    yaml = YAML(typ="safe", pure=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an anchor defined twice is legal
            root = yaml.compose(text)
        if root is None:
            refuse(1, 1, "the file is empty; a case needs at least a `model`")
            return
        document.data = _Walk(document, yaml.constructor, text).construct(root, ())
    except ReaderError as error:
        before = text[: error.position]
        column = error.position - before.rfind("\n")
        character = ord(text[error.position])
        refuse(before.count("\n") + 1, column, f"the character U+{character:04X} is not allowed in YAML")
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        refuse(mark.line + 1, mark.column + 1, _syntax_message(error))
    except RecursionError:
        refuse(1, 1, "nested too deeply")


def _syntax_message(error: Any) -> str:
    problem = str(error.problem)
    if "\\t" in problem:
        return "a tab cannot stand here; indent with spaces"
    if "mapping values are not allowed" in problem:
        return (
            "not YAML: `key: value` cannot start here; check the indentation, and quote text that holds `: `"
        )
    if "another document" in problem:
        return "a second document starts here; a case file holds one"
    if "cannot start any token" in problem:
        return f"not YAML: {problem}; put the text in quotes"
    context = f" {error.context}" if error.context else ""
    if error.context_mark is not None and context:
        context += f" that starts at line {error.context_mark.line + 1}"
    return f"not YAML: {problem}{context}"


class _Walk:
    """Turns YAML nodes into plain data, filling the positions and mistakes of a document."""

    def __init__(self, document: Document, constructor: Any, text: str) -> None:
        self._document = document
        self._text = text
        self._constructor = constructor
        self._above: set[int] = set()  # ids of the nodes that hold the present one
        self._count = 0

    def construct(self, node: Any, location: Location) -> Any:
        """The data of `node`, which stands at `location`."""
        from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

        if not (isinstance(node, ScalarNode) and node.start_mark.index == node.end_mark.index):
            # What is empty has no place of its own: YAML puts it at whatever comes next.
            self._document._values[location] = (node.start_mark.line + 1, node.start_mark.column + 1)
        self._count += 1
        if self._count > _MAX_NODES:
            if self._count == _MAX_NODES + 1:
                self._refuse(location, f"more than {_MAX_NODES} values, aliases counted")
            return Unreadable()
        if isinstance(node, ScalarNode):
            return self._scalar(node, location)
        if id(node) in self._above:
            return self._refuse(location, "holds itself through an alias")
        self._above.add(id(node))
        try:
            if isinstance(node, MappingNode) and node.tag == _MAP:
                return self._mapping(node, location)
            if isinstance(node, SequenceNode) and node.tag == _SEQ:
                return [self.construct(item, (*location, index)) for index, item in enumerate(node.value)]
            return self._refuse(location, f"the tag {_short(node.tag)} is not allowed")
        finally:
            self._above.remove(id(node))

    def _mapping(self, node: Any, location: Location) -> dict[str, Any]:
        from ruamel.yaml.nodes import ScalarNode

        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line, column = key_node.start_mark.line + 1, key_node.start_mark.column + 1
            if not isinstance(key_node, ScalarNode):
                self._refuse_at(line, column, location, "a key must be text, not a list or a mapping")
                continue
            if str(key_node.tag).endswith(":merge"):
                self._refuse_at(
                    line, column, location, "merge keys (`<<`) are not supported; repeat the keys"
                )
                continue
            at = (*location, key_node.value)
            if key_node.value in data:
                first = self._document.position(at, key=True)[0]
                self._refuse_at(line, column, at, f"given twice; first at line {first}")
                continue
            self._document._keys[at] = (line, column)
            data[key_node.value] = self.construct(value_node, at)
        return data

    def _scalar(self, node: Any, location: Location) -> Any:
        from ruamel.yaml.error import MarkedYAMLError

        if node.tag == _NULL:
            return None
        if node.style is None and (comment := _HASH.match(self._text, node.end_mark.index)):
            self._document.cut[location] = comment[1]
        try:
            return self._constructor.construct_object(node, deep=True)
        except MarkedYAMLError:
            return self._refuse(location, f"the tag {_short(node.tag)} is not allowed")
        except (ValueError, TypeError, ArithmeticError) as error:
            return self._refuse(location, f"{node.value!r} cannot be read as {_short(node.tag)}: {error}")

    def _refuse(self, location: Location, message: str) -> Unreadable:
        self._refuse_at(*self._document.position(location), location, message)
        return Unreadable()

    def _refuse_at(self, line: int, column: int, location: Location, message: str) -> None:
        self._document.refused.append(location)
        self._document.mistakes.append(Mistake(self._document.path, line, column, spell(location), message))


def _short(tag: str) -> str:
    return str(tag).replace("tag:yaml.org,2002:", "!!")
