"""Judge TensorRT engines against their ONNX models, find the culprit, and catch drift across releases.

    import harness

    report = harness.run("cases/", precisions=["fp16"])
    diagnosis = harness.diagnose("cases/rmsnorm-overflow.case.yaml", precision="fp16")
    drifted = harness.drift("cases/", environments=["trt-8.5", "trt-8.6"])
    drifted.to_frame()  # and so have the others

The names below are the public API; everything else may change between minor versions.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.case import Case, load_case, load_cases
    from harness.diagnose import Diagnosis, diagnose
    from harness.errors import HarnessError
    from harness.history import DriftOptions, DriftReport, drift, load_history
    from harness.judge import JudgeOptions, RunReport, RunResult, Verdict, run
    from harness.tensors.precision import Precision

__all__ = [
    "Case",
    "Diagnosis",
    "DriftOptions",
    "DriftReport",
    "HarnessError",
    "JudgeOptions",
    "Precision",
    "RunReport",
    "RunResult",
    "Verdict",
    "diagnose",
    "drift",
    "load_case",
    "load_cases",
    "load_history",
    "run",
]

# Loaded when first asked for: `import harness` and `harness --help` stay light.
_HOME = {
    "Case": "harness.case",
    "Diagnosis": "harness.diagnose",
    "DriftOptions": "harness.history",
    "DriftReport": "harness.history",
    "HarnessError": "harness.errors",
    "JudgeOptions": "harness.judge",
    "Precision": "harness.tensors.precision",
    "RunReport": "harness.judge",
    "RunResult": "harness.judge",
    "Verdict": "harness.judge",
    "diagnose": "harness.diagnose",
    "drift": "harness.history",
    "load_case": "harness.case",
    "load_cases": "harness.case",
    "load_history": "harness.history",
    "run": "harness.judge",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    module = import_module(_HOME[name])
    # The package `harness.diagnose` can be called: it is the function, too, whoever imported it first.
    value = module if module.__name__ == f"harness.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
