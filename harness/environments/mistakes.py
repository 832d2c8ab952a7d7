"""Say what is wrong in a TOML file: at which line, at which key, and what was meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError


def describe(
    error: ValidationError, model: type[BaseModel], text: str, path: Path, table: tuple[str, ...]
) -> list[str]:
    """One line for each mistake that pydantic found in `table` of the file, which `model` describes."""
    found = []
    for item in error.errors():
        keys = tuple(str(part) for part in item["loc"])
        message = item["msg"]
        if item["type"] == "extra_forbidden":
            message = unknown("key", keys[-1], _fields(model, keys[:-1]))
        elif item["type"] == "enum" and isinstance(item["input"], str):
            message = unknown("value", item["input"], _words(item["ctx"]["expected"]))
        found.append(place(text, path, (*table, *keys)) + message)
    return found


def unknown(what: str, word: str, known: Sequence[str]) -> str:
    """That `word` is none of `known`, and which of them is near."""
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else "there are: " + ", ".join(known)
    return f"unknown {what} {word!r} ({hint})"


def place(text: str, path: Path, keys: tuple[str, ...]) -> str:
    """`file:line: keys: `, the line being that of the table or of the key in it, if it is found."""
    line = _line_of(text, keys)
    where = f"{path}" if line is None else f"{path}:{line}"
    return f"{where}: {'.'.join(keys)}: "


def _fields(model: type[BaseModel], inside: tuple[str, ...]) -> list[str]:
    kind: Any = model
    for part in inside:
        kind = kind.model_fields[part].annotation
    return list(kind.model_fields)


def _words(expected: str) -> list[str]:
    """The words in pydantic's `'a', 'b' or 'c'`."""
    return re.findall(r"'([^']*)'", expected)


def _line_of(text: str, keys: tuple[str, ...]) -> int | None:
    """tomllib keeps no positions, so the header and the key are looked for as people write them."""
    best, depth = None, 0
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\[?([^\]]+)\]", line):
            here = table = _split(header[1])
        elif key := re.match(r"\s*([^=#]+?)\s*=", line):
            here = [*table, *_split(key[1])]
        else:
            continue
        common = min(len(here), len(keys))
        if common > depth and here[:common] == list(keys[:common]):
            best, depth = number, common
    return best


def _split(dotted: str) -> list[str]:
    """The parts of a dotted key, quoted or bare."""
    return [part.strip().strip("\"'") for part in re.findall(r"\"[^\"]*\"|'[^']*'|[^.]+", dotted)]
