"""The JSON schema of the document of `harness check`, made from its types.

`check.schema.json` beside this module is that schema; `python -m harness.conversion.schema` writes it anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.conversion.codes import finding_codes
from harness.conversion.findings import SCHEMA, CheckReport
from harness.tensors import json_schema, write_text

SCHEMA_FILE = Path(__file__).parent / "check.schema.json"


def check_schema() -> dict[str, Any]:
    """The schema of `harness.check/1`, JSON Schema 2020-12."""
    made = json_schema(CheckReport)
    made["properties"] = {"schema": {"const": SCHEMA}, **made["properties"]}
    made["required"] = ["schema", *made["required"]]
    made["$defs"]["Finding"]["properties"]["code"]["enum"] = list(finding_codes())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "title": SCHEMA}


def check_schema_text() -> str:
    """The text of SCHEMA_FILE."""
    return json.dumps(check_schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    write_text(SCHEMA_FILE, check_schema_text())
