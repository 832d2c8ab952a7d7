"""The JSON schema of case files, from which editors complete and check them."""

from __future__ import annotations

import json
from typing import Any

from harness.case.schema import MODEL_SOURCES, CaseBody

SCHEMA_FILE = "case.schema.json"


def case_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a case file."""
    schema = CaseBody.model_json_schema()
    definitions = schema["$defs"]
    for name in definitions:
        if name.endswith("Fill"):
            required = definitions[name].setdefault("required", [])
            required.insert(0, "kind")  # it has a default in Python, but a file must say it
    definitions["ModelSource"]["oneOf"] = [{"required": [key]} for key in MODEL_SOURCES]
    _tidy(schema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "harness case",
        "description": "One model, its inputs, the runs asked of it and their tolerances.",
    }


def case_schema_text() -> str:
    """The text of `case.schema.json`."""
    return json.dumps(case_schema(), indent=2, ensure_ascii=False) + "\n"


def _tidy(schema: Any) -> None:
    """Drop what only repeats: titles made from the names of fields, and defaults of nothing."""
    if isinstance(schema, list):
        for item in schema:
            _tidy(item)
    elif isinstance(schema, dict):
        for field in schema.get("properties", {}).values():
            field.pop("title", None)
            if field.get("default", "") in (None, [], {}):
                del field["default"]
        if isinstance(schema.get("description"), str):
            schema["description"] = schema["description"].replace("\n", " ")
        for item in schema.values():
            _tidy(item)
