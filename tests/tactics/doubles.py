"""A case in a folder, and environments whose TensorRT is the double of a release."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ADAPTER = Path(__file__).parents[1] / "worker" / "doubled.py"
CASE = """
model: {path: m.onnx}
inputs: {x: [5, 16]}
runs: [fp16]
"""


def environment(folder: Path, release: str, **variables: Any) -> None:
    pairs = ", ".join(f'{name} = "{value}"' for name, value in {"RELEASE": release, **variables}.items())
    (folder / "harness.toml").write_text(
        f'[environments.trt]\npython = "{sys.executable}"\nvariables = {{ {pairs} }}\n'
    )
