"""`check module:function`: what both exporters of PyTorch make of a module, and whether that computes the same."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from harness.case import Case, InputSpec, MaskFill, TraceWarning, example_shapes, make_feeds
from harness.compiler import FindingKind
from harness.conversion.findings import CheckResult, Finding, FoundBy
from harness.errors import BuilderError, HarnessError
from harness.judge import JudgeOptions, Workbench
from harness.model import Model, guess_fills
from harness.tensors import is_float

FAILED, DIFFERS, FROZEN = "export-failed", "export-differs", "export-frozen"
Feeds = Mapping[str, np.ndarray]
_SIGNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "where all inputs are positive": np.abs,
    "where all inputs are negative": lambda array: -np.abs(array),
}
_SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "where inputs are 0": np.zeros_like,
    "where inputs are small": lambda array: array * array.dtype.type(1e-3),
    "where inputs are large": lambda array: array * array.dtype.type(1e3),
    "where inputs are large and positive": lambda array: np.abs(array) * array.dtype.type(1e6),
    "where inputs are large and negative": lambda array: np.abs(array) * array.dtype.type(-1e6),
}
_SIZES: dict[str, Callable[[int], int]] = {
    "sizes of 1": lambda size: 1,
    "larger sizes": lambda size: size + 1,
    "sizes of 8 times as much": lambda size: 8 * size,
}
_EXPORTERS = ("dynamo", "legacy")
_SAMPLES = 4
_REWRITE = "write it with torch.where or torch.cond"


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


def without_failed_advice(cases: Sequence[Case], results: Sequence[CheckResult]) -> tuple[CheckResult, ...]:
    """`results`, one a case, in which nothing advises an export that fails as well, or computes something else."""
    failed = {
        result.target
        for case, result in zip(cases, results, strict=True)
        if case.model.exporter == "dynamo"
        and (result.error or any(each.kind.is_failure for each in result.exported))
    }

    def mended(finding: Finding) -> Finding:
        return replace(finding, advice=_REWRITE) if finding.code == FROZEN else finding

    return tuple(
        replace(each, findings=tuple(map(mended, each.findings))) if each.target in failed else each
        for each in results
    )


def exported(case: Case) -> tuple[Case, Model | None, tuple[Finding, ...]]:
    """The case with the sizes of the example inputs, the exported model or None, and what is wrong with it.

    Beside the inputs of the case the module and its export are asked about others, on both sides of what a trace may
    have frozen: of one sign, and of other sizes where an axis is open; where PyTorch warned, also large and small.

    Args:
        case: its model is a function that returns a PyTorch module.

    Raises:
        HarnessError: PyTorch is missing, or the inputs do not fit.
    """
    bench = Workbench(case, memory_budget=JudgeOptions().memory_budget)
    try:
        model, frozen = _traced(bench)
    except BuilderError as error:
        said = f"{error.where}: {error.message}"
        found = Finding(FAILED, FindingKind.REFUSED, FoundBy.EXPORTER, said=said, advice=error.hint or "")
        return case, None, (found,)
    case = _sized(case, model)
    bench = Workbench(case, memory_budget=JudgeOptions().memory_budget)
    bench.model = model
    faults = [
        Finding(
            FROZEN,
            FindingKind.RISKY,
            FoundBy.EXPORTER,
            said=each.said,
            explanation=f"{each.place}: the trace keeps what this line gave for the example inputs",
            advice=f"{_REWRITE}; or take the export of dynamo",
        )
        for each in frozen
    ]
    fault = bench.export_fault or _fault_elsewhere(bench, wide=bool(frozen))
    if fault is not None:
        faults.append(Finding(DIFFERS, FindingKind.DIFFERENT, FoundBy.EXPORTER, said=fault))
    return case, model, tuple(faults)


def _traced(bench: Workbench) -> tuple[Model, list[TraceWarning]]:
    """The export, and what a trace froze in it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = bench.model
    frozen = [each.message for each in caught if isinstance(each.message, TraceWarning)]
    return model, frozen


def _sized(case: Case, model: Model) -> Case:
    """The case, with the sizes of the example inputs where it leaves axes open."""
    shapes = zip(model.inputs, example_shapes(case), strict=False)
    given = {
        info.name: InputSpec(shape=shape)
        for info, shape in shapes
        if info.name not in case.inputs and not all(isinstance(size, int) for size in info.shape or (None,))
    }
    return case.model_copy(update={"inputs": {**case.inputs, **given}}) if given else case


def _fault_elsewhere(bench: Workbench, *, wide: bool) -> str | None:
    """How the export differs from the module on other inputs; None if it does not, or the module takes none of them."""
    for where, feeds in (*_other_values(bench, wide=wide), *_other_sizes(bench)):
        with contextlib.suppress(HarnessError):  # what the module, or its export, does not take
            fault = bench.with_feeds([feeds]).export_fault
            if fault is not None:
                return f"{fault}, {where}"
    return None


def _other_values(bench: Workbench, *, wide: bool) -> Iterator[tuple[str, Feeds]]:
    feeds = bench.feeds[0]
    masks = {name for name, fill in guess_fills(bench.model).items() if isinstance(fill, MaskFill)}
    floats = {name for name, array in feeds.items() if is_float(array.dtype)} - masks
    for where, change in {**_SIGNS, **(_SCALES if wide else {})}.items():
        if floats:
            yield where, {name: change(array) if name in floats else array for name, array in feeds.items()}


def _other_sizes(bench: Workbench) -> Iterator[tuple[str, Feeds]]:
    inputs = bench.model.inputs
    sizes = {name: array.shape for name, array in bench.feeds[0].items()}
    opened = [info for info in inputs if any(not isinstance(size, int) for size in info.shape or ())]
    for where, change in _SIZES.items() if opened else ():
        shapes = {
            info.name: tuple(
                size if isinstance(size, int) else change(own)
                for size, own in zip(info.shape or (), sizes[info.name], strict=True)
            )
            for info in opened
        }
        specs = {name: InputSpec(shape=shape) for name, shape in shapes.items()}
        case = bench.case.model_copy(update={"inputs": {**bench.case.inputs, **specs}, "samples": 1})
        yield f"with {where}", make_feeds(case, inputs, guess_fills(bench.model))[0]
