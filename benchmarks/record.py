"""How a benchmark keeps its result: one JSON file with the numbers, the command and the machine."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Any

from harness.tensors import host_fingerprint, to_json, write_text

RESULTS = Path(__file__).parent / "results"


def record(name: str, numbers: dict[str, Any], *, out: Path | None = None) -> Path:
    """Write `numbers` to `<name>.json` in benchmarks/results, or to `out`, and return the path."""
    path = out or RESULTS / f"{name}.json"
    document = {
        "schema": "harness.benchmark/1",
        "name": name,
        "command": " ".join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "fingerprint": to_json(host_fingerprint()),
        **numbers,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(document, indent=2) + "\n")
    return path
