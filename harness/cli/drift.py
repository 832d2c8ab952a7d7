"""`harness drift`: releases held against each other, over cases and precisions."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.consoles import make_console, make_progress
from harness.cli.options import REPORTS, PageFile, ResultsFile, SummaryFile
from harness.cli.run import parse_shapes
from harness.cli.writable import STDOUT, check_files, check_folder
from harness.errors import UsageError
from harness.history import Against, CacheUse, LayerBuilds
from harness.tensors import Precision, write_text

if TYPE_CHECKING:
    from harness.history import DriftReport

app = typer.Typer(add_completion=False)

BUILDS, JUDGEMENT, HISTORY = "Builds", "Judgement", "History and baselines"


@app.command()
def drift(
    targets: Annotated[
        list[Path], typer.Argument(metavar="TARGET", help="Case files, folders of them, or .onnx files.")
    ],
    environments: Annotated[
        list[str],
        typer.Option(
            "--env",
            "-e",
            metavar="RELEASE",
            help="An environment, the older one first; emulator:fp16 and the like stand in for one.",
        ),
    ],
    precisions: Annotated[
        list[Precision] | None,
        typer.Option("--precision", "-p", metavar="P", help="Only this precision; may be repeated."),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME:[SHAPE]",
            help="Shape of an input of an .onnx file: x:[1,3,224,224].",
        ),
    ] = None,
    tags: Annotated[
        list[str] | None,
        typer.Option("--tag", "-t", metavar="TAG", help="Only cases with this tag; may be repeated."),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show only what moved, and the summary.")
    ] = False,
    repeats: Annotated[
        int,
        typer.Option("--repeats", "-k", metavar="K", help="Builds of each engine.", rich_help_panel=BUILDS),
    ] = 3,
    layers: Annotated[
        LayerBuilds,
        typer.Option(
            help="In which builds layers are observed, which takes a further build; auto: an engine's first.",
            rich_help_panel=BUILDS,
        ),
    ] = LayerBuilds.AUTO,
    timing_cache: Annotated[
        CacheUse,
        typer.Option(
            help="Which builds use the timing cache; both: the first with, the others without it.",
            rich_help_panel=BUILDS,
        ),
    ] = CacheUse.BOTH,
    run_limit: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="For a case at a precision on a release: no further build after it, and none takes longer.",
            rich_help_panel=BUILDS,
        ),
    ] = None,
    min_effect: Annotated[
        float,
        typer.Option(
            metavar="SHARE", help="A change below this share of the error is none.", rich_help_panel=JUDGEMENT
        ),
    ] = 0.25,
    confidence: Annotated[
        float,
        typer.Option(metavar="P", help="Two-sided confidence of the noise band.", rich_help_panel=JUDGEMENT),
    ] = 0.99,
    history: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the run is kept.", rich_help_panel=HISTORY)
    ] = Path("reports/history"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run.", rich_help_panel=HISTORY)
    ] = False,
    against: Annotated[
        Against, typer.Option(help="What a single release is held against.", rich_help_panel=HISTORY)
    ] = Against.GOLDEN,
    baseline_update: Annotated[
        bool,
        typer.Option(
            "--baseline-update",
            help="Write the baselines of a single release that are missing, or that it drifted from.",
            rich_help_panel=HISTORY,
        ),
    ] = False,
    json_file: ResultsFile = None,
    html_file: PageFile = None,
    markdown_file: SummaryFile = None,
    table_files: Annotated[
        list[Path] | None,
        typer.Option(
            "--table",
            metavar="FILE",
            help="Write a row for each tensor: a .csv or a .parquet; may be repeated.",
            rich_help_panel=REPORTS,
        ),
    ] = None,
    annotate: Annotated[
        bool | None,
        typer.Option(
            "--annotate/--no-annotate",
            help="Print GitHub annotations; by default in GitHub Actions.",
            rich_help_panel=REPORTS,
        ),
    ] = None,
) -> None:
    """Hold releases against each other: did anything move, what, where does it start, is it more than noise?

    Exit status: 0 nothing moved to the worse, 1 a drift, 2 a mistake in the command or a case, 3 a build or a
    worker failed, 5 nothing could be compared.
    """
    files = DriftFiles(json_file, html_file, markdown_file, tuple(table_files or ()))
    files.check()
    check_folder(history)
    from harness.history import DriftOptions, Floors
    from harness.history import drift as compare

    options = DriftOptions(
        repeats=repeats,
        layers=layers,
        timing_cache=timing_cache,
        run_limit=run_limit,
        floors=Floors(relative=min_effect, confidence=confidence),
    )
    start = time.perf_counter()
    try:
        with make_progress(quiet=quiet) as progress:
            report = compare(
                targets,
                environments=environments,
                precisions=tuple(precisions or ()),
                tags=tags or (),
                inputs=parse_shapes(inputs or ()),
                options=options,
                history=history,
                resume=resume,
                against=against,
                baseline_update=baseline_update,
                progress=progress,
            )
    except KeyboardInterrupt:
        print("what was judged is kept; go on with --resume", file=sys.stderr)
        raise
    seconds = time.perf_counter() - start
    tell(report, files, brief=quiet, seconds=seconds)
    if annotate if annotate is not None else os.environ.get("GITHUB_ACTIONS") == "true":
        print_annotations(report, to_stderr=files.owns_stdout)
    for path in report.written:
        print(f"wrote {path}", file=sys.stderr)
    raise typer.Exit(exit_status(report, baseline_update=baseline_update))


def exit_status(report: DriftReport, *, baseline_update: bool) -> int:
    """The report's status; who rewrites the baselines has agreed to the drift."""
    status: int = report.exit_code
    return 0 if status == 1 and baseline_update else status


@dataclass(frozen=True)
class DriftFiles:
    """The files that a report of drift is asked to be written to."""

    json: Path | None = None
    html: Path | None = None
    markdown: Path | None = None
    tables: tuple[Path, ...] = ()

    @property
    def owns_stdout(self) -> bool:
        """Whether stdout belongs to the JSON document."""
        return self.json == STDOUT

    def check(self) -> None:
        """Find what cannot be written before anything is run.

        Raises:
            UsageError: a file cannot be written, or a table has a format that is not written.
        """
        check_files(self.json, self.html, self.markdown, *self.tables)
        for table in self.tables:
            if table.suffix not in (".csv", ".parquet"):
                raise UsageError(
                    "is no kind of table that is written", where=table, hint="name a .csv or a .parquet"
                )

    def write(self, report: DriftReport, seconds: float | None) -> None:
        """Write every file that was asked for, each at once or not at all.

        Raises:
            UsageError: a file cannot be written.
        """
        try:
            if self.json is not None:
                document = json.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
                if self.owns_stdout:
                    print(document)
                else:
                    write_text(self.json, document + "\n")
            if self.html is not None:
                from harness.report import drift_page

                write_text(self.html, drift_page(report, seconds=seconds))
            if self.markdown is not None:
                from harness.report import drift_markdown

                write_text(self.markdown, drift_markdown(report, seconds=seconds))
            for table in self.tables:
                write_table(report.to_frame(), table)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UsageError(f"cannot be written: {error.strerror}", where=error.filename) from error


def write_table(frame: object, path: Path) -> None:
    """Write a DataFrame as CSV or Parquet, atomically."""
    import pandas as pd

    from harness.tensors import atomic_path

    assert isinstance(frame, pd.DataFrame)
    with atomic_path(path) as temporary:
        if path.suffix == ".csv":
            frame.to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)


def tell(report: DriftReport, files: DriftFiles, *, brief: bool, seconds: float | None) -> None:
    """Print the report for a person, and write the files."""
    from harness.report import print_drift

    print_drift(
        make_console(sys.stderr if files.owns_stdout else sys.stdout), report, brief=brief, seconds=seconds
    )
    files.write(report, seconds)


def print_annotations(report: DriftReport, *, to_stderr: bool) -> None:
    """Print GitHub's annotations, which it reads off both streams."""
    from harness.report import annotate

    for line in annotate(report):
        print(line, file=sys.stderr if to_stderr else sys.stdout)
