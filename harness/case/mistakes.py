"""Pydantic's errors put into the words of a case file, each at the line and column of its key."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import getitem
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from harness.case.document import Document, Location, Unreadable
from harness.case.inputs import FILL_KINDS
from harness.case.scalars import MISTAKE, PATTERNS, describe
from harness.case.schema import CaseBody, RunSpec
from harness.errors import Mistake
from harness.text import suggestion


def explain(error: ValidationError, model: type[BaseModel], document: Document) -> list[Mistake]:
    """The mistakes behind `error`, which the data of `document` caused in `model`."""
    details = error.errors(include_url=False)
    places = {detail["loc"] for detail in details}
    mistakes = []
    for detail in details:
        if isinstance(detail["input"], Unreadable):
            continue  # already reported by the reader
        if detail["type"] == "too_short" and _has_deeper(detail["loc"], places):
            continue  # items that are wrong are not counted; their own mistakes are reported
        location = _location(detail["loc"], document.data)
        if detail["type"] == MISTAKE:
            context = detail["ctx"]
            location = (*location, *context["at"])
            if any(refused[: len(location)] == location for refused in document.refused):
                continue  # what a mapping lacks may stand in the part that could not be read
            mistakes.append(document.mistake(location, context["message"]))
        else:
            mistakes.append(_explain_one(detail, location, model, document))
    return list(dict.fromkeys(mistakes))


def _explain_one(
    detail: ErrorDetails, location: Location, model: type[BaseModel], document: Document
) -> Mistake:
    kind, loc, context = detail["type"], detail["loc"], detail.get("ctx", {})
    if kind == "missing":
        return document.mistake(location, "missing", key=True)
    if kind == "extra_forbidden":
        message = _unknown_key(str(loc[-1]), _model_at(model, loc[:-1]))
        return document.mistake(location, message, key=True)
    if kind == "union_tag_not_found":
        return document.mistake((*location, "kind"), f"missing; one of {', '.join(FILL_KINDS)}")
    if kind == "union_tag_invalid":
        if isinstance(reduce(getitem, location, document.data), dict):
            location = (*location, "kind")
        return document.mistake(location, _not_among(context["tag"], _quoted(context["expected_tags"])))
    return document.mistake(location, _message(detail))


def _message(detail: ErrorDetails) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind in ("enum", "literal_error"):
        return _not_among(value, _quoted(context["expected"]))
    for prefix, wanted in _WANTED:
        if kind.startswith(prefix):
            quote = (
                "; put it in quotes"
                if wanted == "text" and not isinstance(value, (dict, list, type(None)))
                else ""
            )
            return f"must be {wanted}, not {describe(value)}{quote}"
    special = _SPECIAL.get(kind)
    return special(value, context) if special else detail["msg"].removeprefix("Value error, ")


_WANTED = (
    ("int_", "a whole number"),
    ("float_", "a number"),
    ("bool_", "true or false"),
    ("string_type", "text"),
    ("tuple_type", "a list"),
    ("list_type", "a list"),
    ("dict_type", "a mapping of keys"),
    ("mapping_type", "a mapping of keys"),
    ("model_", "a mapping of keys"),
    ("date", "a date such as 2026-12-31"),
)
_SPECIAL: dict[str, Callable[[Any, dict[str, Any]], str]] = {
    "string_too_short": lambda value, context: "must not be empty",
    "too_short": lambda value, context: "must hold at least one item",
    "string_pattern_mismatch": lambda value, context: (
        f"must be {PATTERNS.get(context['pattern'], context['pattern'])}, not {describe(value)}"
    ),
    "greater_than": lambda value, context: f"must be above {context['gt']}, not {value}",
    "greater_than_equal": lambda value, context: f"must be at least {context['ge']}, not {value}",
    "less_than_equal": lambda value, context: f"must be at most {context['le']}, not {value}",
}


def _not_among(value: Any, choices: Sequence[str]) -> str:
    known = f"one of {', '.join(choices)}"
    if not isinstance(value, str):
        return f"must be {known}, not {describe(value)}"
    near = suggestion(value, choices)
    return f"{value!r} is not {known}" + (f", {near}" if near else "")


def _unknown_key(key: str, model: type[BaseModel] | None) -> str:
    if model is None:
        return "unknown key"
    if model is CaseBody and key == "name":
        return "unknown key; the name of a case is the name of its file"
    if model is RunSpec and key == "tensorrt":
        return "unknown key; say where the failure is expected, such as `where: tensorrt>=10.3`"
    near = suggestion(key, model.model_fields)
    return "unknown key" + (f", {near}" if near else f"; known are {', '.join(model.model_fields)}")


def _location(loc: Sequence[str | int], data: Any) -> Location:
    """Where pydantic's `loc` lies in the data: without tags of unions, and what a shorthand leaves out.

    A last key that its mapping lacks is kept: the mistake is that it is missing.
    """
    found: list[str | int] = []
    for index, part in enumerate(loc):
        if _holds(data, part):
            data = data[part]
        elif not (isinstance(data, dict) and index == len(loc) - 1):
            continue
        found.append(part)
    return tuple(found)


def _holds(data: Any, part: str | int) -> bool:
    if isinstance(data, list):
        return isinstance(part, int) and part < len(data)
    return isinstance(data, dict) and part in data


def _model_at(model: type[BaseModel], loc: Sequence[str | int]) -> type[BaseModel] | None:
    """The model whose keys stand at pydantic's `loc`, seen from `model`."""
    leaves: list[Any] = [model]
    for part in loc:
        leaves = [found for leaf in leaves for found in _step(leaf, part)]
    models = [leaf for leaf in leaves if isinstance(leaf, type) and issubclass(leaf, BaseModel)]
    return models[0] if len(models) == 1 else None


def _step(leaf: Any, part: str | int) -> list[Any]:
    origin, arguments = get_origin(leaf), get_args(leaf)
    if origin is dict:
        return _leaves(arguments[1])
    if origin in (tuple, list):
        return _leaves(arguments[0])
    if not (isinstance(leaf, type) and issubclass(leaf, BaseModel)):
        return []
    if part in leaf.model_fields:
        return _leaves(leaf.model_fields[str(part)].annotation)
    kind = leaf.model_fields.get("kind")
    return [leaf] if kind is not None and kind.default == part else []  # the tag of a union


def _leaves(annotation: Any) -> list[Any]:
    """The members of a type: `Annotated` and unions taken apart."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _leaves(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [leaf for member in get_args(annotation) for leaf in _leaves(member)]
    return [annotation]


def _has_deeper(loc: Sequence[str | int], places: Iterable[Sequence[str | int]]) -> bool:
    return any(len(place) > len(loc) and tuple(place[: len(loc)]) == tuple(loc) for place in places)


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)
