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
    from harness.history import DriftOptions, DriftReport, drift, load_history
    from harness.judge import JudgeOptions, RunReport, RunResult, Verdict, run
    from harness.tensors.precision import Precision

__all__ = [
    "Case",
    "DriftOptions",
    "DriftReport",
    "HarnessError",
    "JudgeOptions",
    "Precision",
    "RunReport",
    "RunResult",
    "Verdict",
    "drift",
    "load_case",
    "load_cases",
    "load_history",
    "run",
]

# Loaded when first asked for: `import harness` and `harness --help` stay light.
_HOME = {
    "Case": "harness.case",
    "DriftOptions": "harness.history",
    "DriftReport": "harness.history",
    "HarnessError": "harness.errors",
    "JudgeOptions": "harness.judge",
    "Precision": "harness.tensors.precision",
    "RunReport": "harness.judge",
    "RunResult": "harness.judge",
    "Verdict": "harness.judge",
    "drift": "harness.history",
    "load_case": "harness.case",
    "load_cases": "harness.case",
    "load_history": "harness.history",
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
