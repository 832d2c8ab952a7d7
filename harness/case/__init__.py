"""Cases: one model, its inputs, the runs asked of it and their tolerances, read from one YAML file each.

What needs NumPy or ONNX is imported when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

from harness.case._suggest import suggestion
from harness.case.asked import asked_shapes, target_words
from harness.case.inputs import (
    ConstantFill,
    FileFill,
    InputSpec,
    IntegersFill,
    NormalFill,
    UniformFill,
)
from harness.case.loading import case_name, check_cases, load_case, load_cases, one_or_more
from harness.case.schema import (
    CASE_SUFFIX,
    BuildOptions,
    Case,
    ModelSource,
    RunSpec,
    TacticSource,
    Waiver,
    version_in_range,
)
from harness.case.tolerances import Limits, Relative, Tolerance, merge_tolerances

if TYPE_CHECKING:
    from harness.case.feeds import make_feeds
    from harness.case.source import resolve_model

_LAZY = {
    "make_feeds": "harness.case.feeds",
    "resolve_model": "harness.case.source",
}

__all__ = [
    "CASE_SUFFIX",
    "BuildOptions",
    "Case",
    "ConstantFill",
    "FileFill",
    "InputSpec",
    "IntegersFill",
    "Limits",
    "ModelSource",
    "NormalFill",
    "Relative",
    "RunSpec",
    "TacticSource",
    "Tolerance",
    "UniformFill",
    "Waiver",
    "asked_shapes",
    "case_name",
    "check_cases",
    "load_case",
    "load_cases",
    "make_feeds",
    "merge_tolerances",
    "one_or_more",
    "resolve_model",
    "suggestion",
    "target_words",
    "version_in_range",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
