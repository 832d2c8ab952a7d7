"""`check module:function`: what both exporters of PyTorch make of a module, and whether that computes the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.case import Case
from harness.compiler import Kind
from harness.conversion.findings import Finding, FoundBy
from harness.errors import BuilderError
from harness.judge import JudgeOptions, Workbench
from harness.model import Model

FAILED, DIFFERS = "export-failed", "export-differs"
_EXPORTERS = ("dynamo", "legacy")
_SAMPLES = 4


def by_exporter(cases: Sequence[Case]) -> Iterator[Case]:
    """`cases`, with one for each exporter in place of one that only names a function of PyTorch."""
    for case in cases:
        if case.path is not None or case.model.torch is None:
            yield case
            continue
        for exporter in _EXPORTERS:
            model = case.model.model_copy(update={"exporter": exporter})
            name = f"{case.name} ({exporter})"
            samples = max(case.samples or 1, _SAMPLES)  # what a trace has frozen shows on other inputs
            yield case.model_copy(update={"model": model, "name": name, "samples": samples})


def exported(case: Case) -> tuple[Model | None, tuple[Finding, ...]]:
    """The exported model, and what is wrong with the export; None where there is none.

    Args:
        case: its model is a function that returns a PyTorch module.

    Raises:
        HarnessError: PyTorch is missing, or the inputs do not fit.
    """
    bench = Workbench(case, memory_budget=JudgeOptions().memory_budget)
    try:
        model = bench.model
    except BuilderError as error:
        said = f"{error.where}: {error.message}"
        return None, (Finding(FAILED, Kind.REFUSED, FoundBy.EXPORTER, said=said, advice=error.hint or ""),)
    fault = bench.export_fault
    if fault is None:
        return model, ()
    return model, (Finding(DIFFERS, Kind.DIFFERENT, FoundBy.EXPORTER, said=fault),)
