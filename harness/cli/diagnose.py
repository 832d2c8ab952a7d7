"""`harness diagnose`: from a failing case to its culprits, and to files to act on."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import (
    REPORTS,
    AccumulateOption,
    Data,
    HtmlFile,
    JsonFile,
    Kernels,
    MarkdownFile,
    OnePrecision,
    OneTarget,
    Ops,
    OtherReference,
    Samples,
    Seed,
    Shapes,
    parse_shapes,
    path_option,
    start_worker,
)
from harness.cli.outputs import Outputs
from harness.cli.progress import StageProgress, make_progress
from harness.text import command

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.diagnosis import Diagnosis, DiagnosisEvent
    from harness.judge import Given
    from harness.quantization import QuantizationSubject
    from harness.tensors import Precision

app = typer.Typer(add_completion=False)

_limits = partial(typer.Option, rich_help_panel="Limits")

Environment = Annotated[
    str | None, typer.Option("--env", "-e", metavar="NAME", help="Diagnose the engine of this environment.")
]
MaxBuilds = Annotated[int | None, _limits(metavar="N", help="Build at most N engines. Default: 64.")]
MaxSeconds = Annotated[
    float | None, _limits(metavar="S", help="Stop after S seconds. --resume starts the clock again.")
]
Limit = Annotated[
    float | None,
    _limits(metavar="E", help="The error (nrmse) that the outputs of a file with Q/DQ nodes may have."),
]
Resume = Annotated[bool, _limits("--resume", help="Continue where an earlier diagnosis stopped.")]
Prove = Annotated[bool, _limits("--prove", help="Confirm each culprit with a build of its own.")]
OutFolder = Annotated[
    Path | None,
    path_option(
        "--out",
        metavar="DIR",
        help="Write all files to act on: recipes, a typed model, a repro and reports.",
        panel=REPORTS,
    ),
]


@app.command()
def diagnose(
    target: OneTarget,
    precision: OnePrecision = None,
    environment: Environment = None,
    inputs: Shapes = None,
    data: Data = None,
    samples: Samples = None,
    seed: Seed = None,
    ops: Ops = None,
    reference: OtherReference = None,
    limit: Limit = None,
    kernels: Kernels = None,
    accumulate: AccumulateOption = None,
    max_builds: MaxBuilds = None,
    max_seconds: MaxSeconds = None,
    resume: Resume = False,
    prove: Prove = False,
    details: Annotated[bool, typer.Option("--details", "-v", help="Show all evidence.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    out: OutFolder = None,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
    markdown_file: MarkdownFile = None,
) -> None:
    """Find what is wrong with a failing case: the kind of fault, where it starts, why, and what cures it.

    Without --env the candidate is the emulator, which needs no GPU. For a file with Q/DQ nodes, given a --reference
    in float or -p int8, it says which pairs hurt, why, and which scales are better.

    Exit status: 0 nothing is wrong; 1 a fault was found; 3 a build or a worker failed; 4 unexplained within the
    limits.
    """
    outputs = Outputs(json_file, html_file, markdown_file, folder=out)
    outputs.check()
    start_worker([environment] if environment is not None else [])

    from harness.diagnosis import DiagnosisOptions
    from harness.diagnosis import diagnose as find
    from harness.judge import Given, Judge, JudgeOptions

    shapes = parse_shapes(inputs)
    given = Given(tuple(data or ()), samples, seed, reference, ops)
    subject = _find_quantized(target, given, shapes, precision)
    if subject is not None:
        raise typer.Exit(_diagnose_pairs(subject, environment, outputs, limit=limit, details=details))
    judge = Judge(JudgeOptions(kernels=kernels, accumulate=accumulate))
    ended = Thread(target=judge.close, name="end the worker")
    try:
        with make_progress(StageProgress, quiet=quiet) as progress:
            diagnosis = find(
                target,
                precision=precision,
                environment=environment,
                inputs=shapes,
                given=given,
                judge=judge,
                max_builds=max_builds,
                max_seconds=max_seconds,
                resume=resume,
                out=out,
                progress=progress if environment is None else _loading_ahead(progress, outputs),
                options=DiagnosisOptions(prove=prove, growth=bool(outputs.pages or outputs.json)),
                idle=judge.end_workers,
            )
        ended.start()  # that takes its time, while reports are written
        _show(diagnosis, outputs, details=details)
    except KeyboardInterrupt:  # while it writes reports, too: the journal has everything
        print(f"continue with: {_resuming_command()}", file=sys.stderr)
        raise
    finally:
        if ended.ident is None:
            ended.start()
        ended.join()
    raise typer.Exit(diagnosis.exit_code)


def _find_quantized(
    target: Path, given: Given, inputs: dict[str, list[int]], precision: Precision | None
) -> QuantizationSubject | None:
    """The quantised model that is asked about, if it is one: that takes a reference, or INT8."""
    from harness.judge import select_cases
    from harness.tensors import Precision

    cases = select_cases(target, inputs=inputs, given=given)
    if precision is not Precision.INT8 and all(case.reference is None for case in cases):
        return None
    from harness.quantization import find_quantized

    return find_quantized(target, given=given, inputs=inputs, precision=precision)


def _show(diagnosis: Diagnosis, outputs: Outputs, *, details: bool) -> None:
    """Print the diagnosis, and write the reports that were asked for."""
    from harness.report import diagnosis_markdown, diagnosis_page, print_diagnosis

    print_diagnosis(outputs.console, diagnosis, details=details)
    outputs.write(
        document=diagnosis.to_dict,
        page=partial(diagnosis_page, diagnosis),
        summary=partial(diagnosis_markdown, diagnosis),
    )
    outputs.print_folder()


def _loading_ahead(progress: StageProgress, outputs: Outputs) -> Callable[[DiagnosisEvent], None]:
    """`progress`, which loads what draws pages when the first engine is under way."""

    def follow(event: DiagnosisEvent) -> None:
        progress(event)
        outputs.load_ahead()

    return follow


def _diagnose_pairs(
    subject: QuantizationSubject,
    environment: str | None,
    outputs: Outputs,
    *,
    limit: float | None,
    details: bool,
) -> int:
    """Find the Q/DQ pairs at fault of a quantised model; returns the exit status."""
    from harness.model import save_model
    from harness.quantization import diagnose_quantized
    from harness.report import pairs_markdown, pairs_page, print_pairs

    found = diagnose_quantized(subject, limit=limit, environment=environment)
    print_pairs(outputs.console, found, details=details)
    outputs.write(
        document=found.to_dict, page=partial(pairs_page, found), summary=partial(pairs_markdown, found)
    )
    for name, model in (("repaired", found.repaired_model), ("reduced", found.reduced_model)):
        if model is not None and outputs.folder is not None:
            save_model(model, outputs.folder / f"{name}.onnx")
    outputs.print_folder()
    return found.exit_code


def _resuming_command() -> str:
    """The command that was given, with --resume."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
    return command("harness", *arguments, "--resume")
