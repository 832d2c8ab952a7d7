"""What the models of the schema share: strict scalars, a frozen base, and mistakes that name their key."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Strict, StringConstraints
from pydantic_core import PydanticCustomError

Int = Annotated[int, Strict()]
Float = Annotated[float, Strict()]
Bool = Annotated[bool, Strict()]
Text = Annotated[str, StringConstraints(min_length=1)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$", to_lower=True)]

MISTAKE = "mistake"
"""The pydantic error type of the mistakes that `mistake` makes: their message is for people as it is."""


class Frozen(BaseModel):
    """Base of every part of a case: immutable, and an unknown key is a mistake."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


def mistake(message: str) -> PydanticCustomError:
    """An error for a validator to raise, whose message reaches the reader of the case file unchanged."""
    return PydanticCustomError(MISTAKE, "{message}", {"message": message})


def _as_list(value: Any) -> Any:
    return value if value is None or isinstance(value, (list, tuple)) else [value]


def one_or_list(item: Any) -> BeforeValidator:
    """A validator that lets one `item` stand for the list that holds it alone."""
    return BeforeValidator(_as_list, json_schema_input_type=item | list[item])
