"""JSON schemas of the documents that `to_json` writes, made from the dataclasses by pydantic."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from typing import Any, get_type_hints

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from harness.tensors.documents import NEVER, UNLESS_DEFAULT

_ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n        .*)*)", re.MULTILINE)
_NOT_FINITE = {"enum": ["inf", "-inf", "nan"]}


def json_schema(kind: type) -> dict[str, Any]:
    """The schema of `to_json` of a `kind`, a dataclass: every field that a document has, and no other.

    Fields are described by the `Args` of the class, and of those that it derives from.
    """
    return TypeAdapter(kind).json_schema(schema_generator=_Documents, mode="serialization")


class _Documents(GenerateJsonSchema):
    """What pydantic knows of dataclasses, with what `to_json` makes of them."""

    def float_schema(self, schema: Any) -> JsonSchemaValue:
        return {"anyOf": [super().float_schema(schema), _NOT_FINITE]}

    def dataclass_schema(self, schema: Any) -> JsonSchemaValue:
        made, cls = super().dataclass_schema(schema), schema["cls"]
        text = "\n".join(inspect.cleandoc(each.__doc__ or "") for each in reversed(cls.__mro__[:-1]))
        said = {name: " ".join(words.split()) for name, words in _ARGUMENT.findall(text)}
        rules = {field.name: field.metadata.get("json") for field in fields(cls)}
        known: dict[str, Any] = {
            name: inner for name, inner in made["properties"].items() if rules[name] != NEVER["json"]
        }
        for name in getattr(cls, "ALSO_IN_JSON", ()):
            reader = getattr(cls, name).fget
            inner = TypeAdapter(get_type_hints(reader)["return"]).core_schema
            known[name] = self.generate_inner(inner)
            said[name] = " ".join((reader.__doc__ or "").split())
        for name, inner in known.items():
            inner.pop("title", None)
            inner.pop("default", None)
            if words := said.get(name):
                known[name] = {**inner, "description": words}
        return {
            "title": made["title"],
            "description": " ".join(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].split()),
            "type": "object",
            "properties": known,
            "required": [name for name in known if rules.get(name) != UNLESS_DEFAULT["json"]],
            "additionalProperties": False,
        }
