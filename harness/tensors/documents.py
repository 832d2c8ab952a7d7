"""Frozen dataclasses as JSON documents, and back: the one codec of results, reports and records.

A document has the fields of its dataclass by name. `UNLESS_DEFAULT` and `NEVER` in the metadata of a field leave it
out, and a class names the properties that go in beside its fields in `ALSO_IN_JSON`. Numbers that JSON lacks are the
texts `inf`, `-inf` and `nan`.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

if TYPE_CHECKING:
    from pydantic import TypeAdapter

UNLESS_DEFAULT: Mapping[str, str] = {"json": "unless default"}
"""Metadata of a field that a document has only where it is not the default."""
NEVER: Mapping[str, str] = {"json": "never"}
"""Metadata of a field that no document has."""

T = TypeVar("T")


def to_json(value: object) -> Any:
    """`value` in plain JSON types; dataclasses, enums, dates, paths and NumPy scalars may be anywhere in it."""
    if value is None or type(value) in (str, int, bool):
        return value
    if isinstance(value, float):
        return str(float(value)) if not math.isfinite(value) else float(value)
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return _document(value)
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json(item) for item in value]
    if isinstance(value, np.generic):
        return to_json(value.item())
    if isinstance(value, datetime.date):
        return value.isoformat()
    return str(value) if isinstance(value, PurePath) else value


def from_json(kind: type[T], document: object) -> T:
    """The `kind`, a dataclass, of which `document` is the JSON. What it has besides the fields is ignored.

    Raises:
        ValueError: a field is missing, or of the wrong type; says where in the document the first such field stands.
    """
    from pydantic import ValidationError

    adapter: TypeAdapter[T] = _adapter(cast("Any", kind))
    try:
        return adapter.validate_python(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        steps = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"])
        place = f"{steps.removeprefix('.')}: " if steps else ""
        raise ValueError(f"{place}{first['msg'][0].lower()}{first['msg'][1:]}") from error


def _document(value: Any) -> dict[str, Any]:
    found = {}
    for field in fields(value):
        item, rule = getattr(value, field.name), field.metadata.get("json")
        if rule is None or (rule == UNLESS_DEFAULT["json"] and item != _default(field)):
            found[field.name] = to_json(item)
    return found | {name: to_json(getattr(value, name)) for name in getattr(value, "ALSO_IN_JSON", ())}


def _default(field: Field[Any]) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
