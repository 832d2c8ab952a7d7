"""How a benchmark keeps its result: one JSON file with the numbers, the command and the machine."""

from __future__ import annotations

import datetime
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from harness.tensors import host_fingerprint, to_json, write_text

RESULTS = Path(__file__).parent / "results"


def record(
    name: str,
    numbers: dict[str, Any],
    *,
    out: Path | None = None,
    module: str | None = None,
    indent: int | None = 2,
) -> Path:
    """Write `numbers` to `<name>.json` in benchmarks/results, or to `out`, and return the path.

    Args:
        name: of the benchmark.
        numbers: what it found.
        out: the file, where it is another one.
        module: below benchmarks, where it is not called like the benchmark.
        indent: of the JSON; None for large results.
    """
    path = out or RESULTS / f"{name}.json"
    words = sys.argv[1:]
    if "--out" in words:  # where it was written first says nothing of how it was made
        del words[words.index("--out") : words.index("--out") + 2]
    words = [_anywhere(word) for word in words]
    document = {
        "schema": "harness.benchmark/1",
        "name": name,
        "command": shlex.join(["python", "-m", f"benchmarks.{module or name}", *words]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "fingerprint": to_json(host_fingerprint()),
        **numbers,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(document, indent=indent) + "\n")
    return path


def _anywhere(word: str) -> str:
    """A word of the command without the folders of this machine: `PYTHON` for a Python, else the name of the file."""
    path = Path(word)
    if not path.is_absolute():
        return word
    return "PYTHON" if path.name.startswith("python") else path.name
