"""Judge TensorRT engines against their ONNX models, find the culprit, and catch drift across releases.

    import harness

    report = harness.run("cases/", precisions=["fp16"])
    report.to_frame()

The names below are the public API; everything else may change between minor versions.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.case import Case, load_case, load_cases
    from harness.errors import HarnessError
    from harness.judge import JudgeOptions, RunReport, RunResult, Verdict, run
    from harness.tensors.precision import Precision

__all__ = [
    "Case",
    "HarnessError",
    "JudgeOptions",
    "Precision",
    "RunReport",
    "RunResult",
    "Verdict",
    "load_case",
    "load_cases",
    "run",
]

# Loaded when first asked for: `import harness` and `harness --help` stay light.
_HOME = {
    "Case": "harness.case",
    "HarnessError": "harness.errors",
    "JudgeOptions": "harness.judge",
    "Precision": "harness.tensors.precision",
    "RunReport": "harness.judge",
    "RunResult": "harness.judge",
    "Verdict": "harness.judge",
    "load_case": "harness.case",
    "load_cases": "harness.case",
    "run": "harness.judge",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
