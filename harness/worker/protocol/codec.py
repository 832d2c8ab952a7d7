"""Frozen dataclasses from plain JSON types: str, int, float, bool, None, arrays and objects."""

import dataclasses
import typing
from functools import lru_cache
from typing import Any, Dict, FrozenSet, List, Tuple, Type, TypeVar, Union

T = TypeVar("T")


class MessageError(ValueError):
    """A message does not have the form that its type promises."""


def from_plain(kind: Type[T], document: Any) -> T:
    """The `kind`, a frozen dataclass, whose `dataclasses.asdict` is `document`.

    Raises:
        MessageError: a field is missing, unknown or of the wrong type.
    """
    built: T = _build(kind, document, kind.__name__)
    return built


def _build(kind: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise MessageError("{} must be an object, not {!r}".format(where, values))
    hints, required = _fields(kind)
    unknown = values.keys() - hints.keys()
    if unknown:
        raise MessageError("{} has no field {}".format(where, ", ".join(sorted(unknown))))
    missing = required - values.keys()
    if missing:
        raise MessageError("{} lacks {}".format(where, ", ".join(sorted(missing))))
    return kind(**{key: _value(hints[key], value, where + "." + key) for key, value in values.items()})


@lru_cache(maxsize=None)
def _fields(kind: Any) -> Tuple[Dict[str, Any], FrozenSet[str]]:
    """The types of the fields of a dataclass, and which of them have no default."""
    required = frozenset(
        item.name
        for item in dataclasses.fields(kind)
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    )
    return typing.get_type_hints(kind), required


@lru_cache(maxsize=None)
def _parts(hint: Any) -> Tuple[Any, Tuple[Any, ...]]:
    return typing.get_origin(hint), typing.get_args(hint)


def _value(hint: Any, value: Any, where: str) -> Any:
    """`value` as `hint` wants it: JSON has no tuples, and an int may stand for a float."""
    if type(value) is hint or hint is Any:
        return value
    origin, arguments = _parts(hint)
    if origin is Union:
        return _union([each for each in arguments if each is not type(None)], value, where)
    if origin is tuple:
        return _tuple(arguments, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise MessageError("{} must be an object, not {!r}".format(where, value))
        return {key: _value(arguments[1], item, "{}[{!r}]".format(where, key)) for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast("Type[Any]", hint), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise MessageError("{} must be {}, not {!r}".format(where, hint.__name__, value))
    return value


def _union(kinds: List[Any], value: Any, where: str) -> Any:
    """None, or the first of `kinds` that `value` is."""
    if value is None:
        return None
    for kind in kinds[:-1]:
        try:
            return _value(kind, value, where)
        except MessageError:
            continue
    return _value(kinds[-1], value, where)


def _tuple(arguments: Tuple[Any, ...], value: Any, where: str) -> Tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise MessageError("{} must be an array, not {!r}".format(where, value))
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        kinds: List[Any] = [arguments[0]] * len(value)
    else:
        kinds = list(arguments)
    if len(kinds) != len(value):
        raise MessageError("{} must have {} items, not {}".format(where, len(kinds), len(value)))
    return tuple(_value(kind, item, where) for kind, item in zip(kinds, value))
