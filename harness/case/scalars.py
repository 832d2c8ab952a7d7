"""What the models of the schema share: strict scalars, a frozen base, and mistakes that name their key."""

from __future__ import annotations

import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Strict, StringConstraints
from pydantic_core import PydanticCustomError

Int = Annotated[int, Strict()]
Float = Annotated[float, Strict()]
Bool = Annotated[bool, Strict()]
Text = Annotated[str, StringConstraints(min_length=1)]
PATTERNS: dict[str, str] = {}
"""Regular expressions of the schema, each in words."""

MISTAKE = "mistake"
"""The pydantic error type of the mistakes that `mistake` makes: their message is for people as it is."""


class Frozen(BaseModel):
    """Base of every part of a case: immutable, and an unknown key is a mistake."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=True,
        defer_build=True,  # until one is made: what is part of another is built with it
        protected_namespaces=(),
    )


def mistake(message: str, *, at: tuple[str | int, ...] = ()) -> PydanticCustomError:
    """An error for a validator to raise, about the key `at`, seen from there; people read the message as it is."""
    return PydanticCustomError(MISTAKE, "{message}", {"message": message, "at": at})


def text_like(pattern: str, words: str) -> StringConstraints:
    """Text of a regular expression, which `words` put into words for who got it wrong."""
    PATTERNS[pattern] = words
    return StringConstraints(pattern=pattern)


def describe(value: Any) -> str:
    """`value` as a person who wrote YAML would call it."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping of keys"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, str):
        return f"the text {value if len(value) <= 40 else value[:37] + '...'!r}"
    if isinstance(value, datetime.date):
        return f"the date {value}"
    return str(value)


def _as_list(value: Any) -> Any:
    return value if value is None or isinstance(value, (list, tuple, dict)) else [value]


def examples(*values: Any) -> ConfigDict:
    """A model's configuration with examples for editors."""
    return ConfigDict(json_schema_extra={"examples": list(values)})


def one_or_list(item: Any, *, mapping: bool = False) -> BeforeValidator:
    """A validator that lets one `item` stand for the list that holds it alone; `mapping`: it may be one of keys."""

    def as_list(value: Any) -> Any:
        return [value] if mapping and isinstance(value, dict) else _as_list(value)

    return BeforeValidator(as_list, json_schema_input_type=item | list[item])


def short_for(key: str, *types: type, schema: Any) -> BeforeValidator:
    """A validator that lets a value of one of `types` stand for the mapping that has it under `key` alone."""
    return BeforeValidator(
        lambda value: {key: value} if isinstance(value, types) else value, json_schema_input_type=schema
    )


Sha256 = Annotated[str, text_like(r"^[0-9a-f]{64}$", "64 hexadecimal digits in lower case")]


def version_range(value: str) -> str:
    """`value`, if it is a PEP 440 range; a mistake otherwise."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        SpecifierSet(value)
    except InvalidSpecifier:
        raise mistake(f"{value!r} is not a version range; write one such as '>=10.3,<11'") from None
    return value


VersionRange = Annotated[str, AfterValidator(version_range)]


def version_in_range(version: str, specifier: str | None) -> bool:
    """Whether the TensorRT release `version` lies in the PEP 440 range `specifier`; None holds all releases.

    Pre-releases count: `10.0.0b6` lies in `>=9`.
    """
    from packaging.specifiers import SpecifierSet

    return specifier is None or SpecifierSet(specifier).contains(version, prereleases=True)
