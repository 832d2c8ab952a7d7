"""Cases: one model, its inputs, the runs asked of it and their tolerances, read from one YAML file each."""

from harness.case.inputs import (
    ConstantFill,
    FileFill,
    InputSpec,
    IntegersFill,
    NormalFill,
    UniformFill,
)
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
    "merge_tolerances",
    "version_in_range",
]
