"""`harness drift`: compare releases over cases and precisions."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import (
    REPORTS,
    HtmlFile,
    JsonFile,
    MarkdownFile,
    Precisions,
    Scheduler,
    Shapes,
    Tags,
    Targets,
    choice,
    history_option,
    parse_shapes,
    path_option,
)
from harness.cli.outputs import Outputs, check_history
from harness.cli.progress import RunProgress, make_progress
from harness.history import CacheUse, LayerBuilds, OlderSide

if TYPE_CHECKING:
    from harness.history import DriftReport

app = typer.Typer(add_completion=False)

HISTORY = "History and baselines"
_builds = partial(typer.Option, rich_help_panel="Builds")
_judgement = partial(typer.Option, rich_help_panel="Judgement")
_history = partial(typer.Option, rich_help_panel=HISTORY)

Releases = Annotated[
    list[str],
    typer.Option(
        "--env",
        "-e",
        metavar="RELEASE",
        help="Compare this environment; name the older one first. emulator:fp16 and the like stand in for one.",
    ),
]
Repeats = Annotated[int, _builds("--repeats", "-k", metavar="K", help="Build each engine K times.")]
Layers = Annotated[
    LayerBuilds,
    _builds(
        metavar="auto|all|first|none",
        help="In which builds to observe layers; each takes a further build. auto: the first of an engine.",
        parser=choice(LayerBuilds, "--layers"),
    ),
]
TimingCache = Annotated[
    CacheUse,
    _builds(
        metavar="both|with|without",
        help="Which builds use the timing cache. both: the first with it, the others without.",
        parser=choice(CacheUse, "--timing-cache"),
    ),
]
Structure = Annotated[
    bool,
    _builds(
        "--structure",
        help="Compile only, which TensorRT for RTX does without a GPU: what builds, which kernels, which precision.",
    ),
]
RunLimit = Annotated[
    float | None,
    _builds(
        metavar="SECONDS",
        help="Limit for a case at one precision on one release: no build takes longer, and none starts later.",
    ),
]
MinEffect = Annotated[
    float, _judgement(metavar="SHARE", help="Ignore changes below this share of the error.")
]
Confidence = Annotated[float, _judgement(metavar="P", help="Set the two-sided confidence of the noise band.")]
HistoryFolder = Annotated[
    Path,
    history_option("Where to keep the run: a folder, or a URL such as s3://bucket/history.", panel=HISTORY),
]
Resume = Annotated[bool, _history("--resume", help="Continue an interrupted run.")]
ComparedWith = Annotated[
    OlderSide,
    _history(
        metavar="golden|history",
        help="What to compare a single release with.",
        parser=choice(OlderSide, "--against"),
    ),
]
BaselineUpdate = Annotated[
    bool,
    _history(
        "--baseline-update", help="Write the baselines of a single release that are missing or have drifted."
    ),
]
Tables = Annotated[
    list[Path] | None,
    path_option(
        "--table", help="Write a row for each tensor to a .csv or .parquet. Repeatable.", panel=REPORTS
    ),
]
Annotate = Annotated[
    bool | None,
    typer.Option(
        "--annotate/--no-annotate",
        help="Print GitHub annotations. Default: in GitHub Actions.",
        rich_help_panel=REPORTS,
    ),
]


@app.command()
def drift(
    targets: Targets,
    environments: Releases,
    precisions: Precisions = None,
    inputs: Shapes = None,
    tags: Tags = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show only what changed and the summary.")
    ] = False,
    repeats: Repeats = 3,
    layers: Layers = LayerBuilds.AUTO,
    timing_cache: TimingCache = CacheUse.BOTH,
    run_limit: RunLimit = None,
    structure: Structure = False,
    min_effect: MinEffect = 0.25,
    confidence: Confidence = 0.99,
    history: HistoryFolder = Path("reports/history"),
    resume: Resume = False,
    against: ComparedWith = OlderSide.GOLDEN,
    baseline_update: BaselineUpdate = False,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
    markdown_file: MarkdownFile = None,
    table_files: Tables = None,
    annotate: Annotate = None,
    scheduler: Scheduler = None,
) -> None:
    """Compare releases: what changed, where it starts, and whether it is more than noise.

    Exit status: 0 nothing regressed; 1 something did; 2 a mistake in the command or a case; 3 a build or a worker
    failed; 5 nothing could be compared.
    """
    outputs = Outputs(json_file, html_file, markdown_file, tables=tuple(table_files or ()))
    outputs.check()
    check_history(history)
    from harness.history import DriftOptions, Floors
    from harness.history import drift as compare

    start = time.perf_counter()
    try:
        with make_progress(RunProgress, quiet=quiet) as progress:
            report = compare(
                targets,
                environments=environments,
                precisions=tuple(precisions or ()),
                tags=tags or (),
                inputs=parse_shapes(inputs),
                options=DriftOptions(
                    repeats=repeats,
                    layers=layers,
                    timing_cache=timing_cache,
                    run_limit=run_limit,
                    structure=structure,
                    floors=Floors(relative=min_effect, confidence=confidence),
                ),
                history=history,
                resume=resume,
                against=against,
                baseline_update=baseline_update,
                progress=progress,
                scheduler=scheduler,
            )
    except KeyboardInterrupt:
        print("the results so far are saved; continue with --resume", file=sys.stderr)
        raise
    seconds = time.perf_counter() - start
    show_report(report, outputs, brief=quiet, seconds=seconds)
    if annotate if annotate is not None else os.environ.get("GITHUB_ACTIONS") == "true":
        from harness.report import annotate as annotations

        for line in annotations(report):  # GitHub reads both streams
            print(line, file=sys.stderr if outputs.owns_stdout else sys.stdout)
    for path in report.written:
        print(f"wrote {path}", file=sys.stderr)
    accepted = baseline_update and report.exit_code == 1  # rewriting the baselines accepts the drift
    raise typer.Exit(0 if accepted else report.exit_code)


def show_report(report: DriftReport, outputs: Outputs, *, brief: bool, seconds: float | None = None) -> None:
    """Print the report for a person, and write the files that `outputs` names.

    Raises:
        UsageError: a file cannot be written.
    """
    from harness.report import drift_markdown, drift_page, print_drift

    print_drift(outputs.console, report, brief=brief, seconds=seconds)
    outputs.write(
        document=report.to_dict,
        page=partial(drift_page, report, seconds=seconds),
        summary=partial(drift_markdown, report, seconds=seconds),
        table=report.to_frame,
    )
