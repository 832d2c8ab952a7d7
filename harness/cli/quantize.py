"""`harness quantize`: from a float model and data to a Q/DQ model."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import (
    REPORTS,
    Data,
    HtmlFile,
    JsonFile,
    OneTarget,
    Ops,
    Samples,
    Scheduler,
    Seed,
    Shapes,
    choice,
    parse_shapes,
    path_option,
)
from harness.cli.outputs import Outputs
from harness.quantization import Format, Method

app = typer.Typer(add_completion=False)

Out = Annotated[Path, path_option("--out", "-o", help="Write the Q/DQ model.")]
FormatOption = Annotated[
    Format,
    typer.Option(
        "--format",
        "-f",
        metavar="F",
        help=f"Quantise to one of {', '.join(Format)}; int4 and nvfp4 quantise weights only.",
        parser=choice(Format, "--format"),
    ),
]
MethodOption = Annotated[
    Method | None,
    typer.Option(
        "--method",
        metavar="M",
        help=f"Choose scales by one of {', '.join(Method)}. Default: mse, unless others err less.",
        parser=choice(Method, "--method"),
    ),
]
KeepFloat = Annotated[
    str | None,
    typer.Option(
        "--keep-float",
        metavar="N%",
        help="Keep the costliest N % of the multiply-adds in float. Default: products too small to gain; 0%: none.",
    ),
]
Limit = Annotated[
    float | None,
    typer.Option(
        "--limit", metavar="E", help="Keep as little in float as brings the error (nrmse) down to E."
    ),
]
Exclude = Annotated[
    list[str] | None, typer.Option("--exclude", metavar="NODE", help="Keep this node in float. Repeatable.")
]
Cache = Annotated[
    Path | None,
    path_option("--cache", help="Take the scales of a calibration cache of TensorRT 10 or earlier."),
]
WriteCache = Annotated[
    Path | None,
    path_option("--write-cache", help="Also write the scales as a calibration cache.", panel=REPORTS),
]
Environment = Annotated[
    str | None,
    typer.Option(
        "--env", "-e", metavar="NAME", help="Ask this environment's compiler for kernels, and save some."
    ),
]
Details = Annotated[bool, typer.Option("--details", "-v", help="Show all tensors.")]


@app.command()
def quantize(
    target: OneTarget,
    out: Out,
    data: Data = None,
    format: FormatOption = Format.INT8,
    method: MethodOption = None,
    keep_float: KeepFloat = None,
    limit: Limit = None,
    exclude: Exclude = None,
    cache: Cache = None,
    write_cache: WriteCache = None,
    environment: Environment = None,
    inputs: Shapes = None,
    samples: Samples = None,
    seed: Seed = None,
    ops: Ops = None,
    details: Details = False,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
    scheduler: Scheduler = None,
) -> None:
    """Calibrate a float model and put Q/DQ pairs where TensorRT wants them.

    All methods are tried, and shown side by side. Every error is measured, those of the curve included: that of the
    worst output over the float model.

    Exit status: 0 the model was written; 2 a mistake, or a --limit that cannot be met.
    """
    from harness.judge import Given
    from harness.model import save_model
    from harness.quantization import QuantizeUnit, find_subject, fit_to_compiler, quantize_on, read_cache
    from harness.quantization import quantize as run
    from harness.quantization import write_cache as write
    from harness.report import print_quantization, quantization_page

    outputs = Outputs(json_file, html_file, models=(out,), others=(write_cache,))
    outputs.check()
    subject = find_subject(
        target, given=Given(tuple(data or ()), samples, seed, ops=ops), inputs=parse_shapes(inputs)
    )
    if subject.drawn:
        print("warning: the inputs are drawn at random; calibrate on your own with --data", file=sys.stderr)
    quantizer = partial(
        run,
        format=format,
        method=method,
        exclude=tuple(exclude or ()),
        keep_float=None if keep_float is None else _share(keep_float),
        limit=limit,
        scales=None if cache is None else read_cache(cache),
    )
    unit = QuantizeUnit(subject.case, quantizer, None if scheduler is None else environment)
    found, kernels = quantize_on(scheduler, unit)
    if scheduler is None and environment is not None:
        found, kernels = fit_to_compiler(found, subject, environment)
    save_model(found.quantized, out)
    if write_cache is not None:
        write(write_cache, found.quantized)
    console = outputs.console
    print_quantization(console, found, kernels=kernels, details=details)
    console.print(f"  wrote  {out}", soft_wrap=True, markup=False, highlight=False)
    outputs.write(
        document=found.to_dict,
        page=partial(quantization_page, found, kernels=kernels),
        summary=lambda: "",
    )


def _share(text: str) -> float:
    """`5%` or `5` as 0.05.

    Raises:
        UsageError: it is not a percentage.
    """
    from harness.errors import UsageError

    try:
        return float(text.strip().removesuffix("%")) / 100
    except ValueError:
        raise UsageError(f"--keep-float {text!r} is not a percentage", hint="write it as 10%") from None
