"""What a release's compiler makes of a case: kernels in place of tensors, and no GPU."""

from __future__ import annotations

from dataclasses import replace

from harness.backends import shape_ranges
from harness.case import Case, RunSpec
from harness.compiler import compile_model
from harness.environments import Environment
from harness.errors import HarnessError, ModelError
from harness.history.store import COMPILED, NOT_BUILT, Row
from harness.judge import (
    Candidates,
    Cause,
    RunReason,
    RunResult,
    Verdict,
    Workbench,
    blank_result,
    failed_result,
    profiles_of,
)
from harness.worker.protocol import PRECISION_OF, CompileReport, EngineFacts, Fingerprint, Kernel, LayerInfo


def compile_case(
    candidates: Candidates, case: Case, spec: RunSpec, environment: Environment, bench: Workbench
) -> RunResult:
    """The result of compiling `case` in `environment`: its engine's layers are the kernels.

    Raises:
        CandidateError: the environment cannot be used.
    """
    result = replace(blank_result(case, spec, environment.name), verdict=Verdict.PASS)
    if lacking := candidates.lacking(environment.name, case, spec):
        return replace(result, verdict=Verdict.SKIP, why=lacking)
    try:
        model, profiles = bench.model, shape_ranges(bench.model, bench.feeds[0], profiles_of(case))
    except HarnessError as error:
        return failed_result(result, error, of_case=True)
    try:
        report = compile_model(model, spec.precision, environment, profiles=profiles, options=case.build)
    except ModelError as error:  # the precision cannot be written into its graph
        return replace(result, verdict=Verdict.SKIP, why=RunReason(Cause.PRECISION, str(error)))
    return replace(
        result,
        verdict=Verdict.PASS if report.built else Verdict.ERROR,
        why=RunReason()
        if report.built
        else RunReason(Cause.NOT_BUILT, compiled=replace(report, warnings=())),
        evidence=() if report.failure is None else report.failure.evidence,
        warnings=report.warnings,
        facts=EngineFacts(
            fingerprint=Fingerprint(environment.name, report.release, product=report.product),
            typing=report.typing,
            engine_bytes=report.engine_bytes or None,
            layers=_layers(report, {node.name for node in model.nodes}),
            warnings=report.warnings,
        ),
    )


def as_compiled(rows: list[Row], result: RunResult) -> list[Row]:
    """The engine row of a compilation says so: it was built or not, and nothing was judged."""
    if result.verdict is Verdict.SKIP or result.mistake or result.engine is None:
        return rows
    (row,) = rows
    built = result.verdict is Verdict.PASS
    return [replace(row, verdict=COMPILED if built else NOT_BUILT, passed=None)]


def _layers(report: CompileReport, nodes: set[str]) -> tuple[LayerInfo, ...]:
    """The kernels as layers, without the Casts that the typed graph has beside the model's nodes."""
    kernels = () if report.kernels is None else report.kernels.kernels
    return tuple(
        LayerInfo(
            name=kernel.name,
            kind=kernel.kind,
            onnx_nodes=tuple(node for node in kernel.onnx_nodes if node in nodes),
            precision=_precision(kernel),
            tactic="".join(kernel.operations) or kernel.kind,
            outputs=tuple(tensor.name for tensor in kernel.outputs),
        )
        for kernel in kernels
    )


def _precision(kernel: Kernel) -> str | None:
    """The lowest precision that a kernel reads or writes; what it rounds to inside is not said."""
    border = {tensor.dtype for tensor in (*kernel.inputs, *kernel.outputs)} | set(kernel.constants)
    return next((precision for dtype, precision in PRECISION_OF.items() if dtype in border), None)
