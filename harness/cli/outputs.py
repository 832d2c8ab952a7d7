"""The files that a run is asked to write: JSON, a page, Markdown, pictures."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.writable import STDOUT, check_files, check_folder
from harness.errors import UsageError
from harness.tensors import is_node, write_text

if TYPE_CHECKING:
    from harness.judge import RunReport, RunResult

KEEP_SECONDS = 20.0
FORMATS = (".png", ".svg")


@dataclass
class Outputs:
    """The files that a run is asked to write."""

    json: Path | None
    html: Path | None
    markdown: Path | None
    plot: Path | None
    _kept: float = field(default_factory=time.monotonic)
    """When the JSON file was last written."""

    @property
    def owns_stdout(self) -> bool:
        """Whether stdout belongs to the JSON document."""
        return self.json == STDOUT

    def check(self) -> None:
        """Find what cannot be written before anything is run.

        Raises:
            UsageError: a file cannot be written, or the picture has a format that cannot be drawn.
        """
        check_files(self.json, self.html, self.markdown, self.plot if self._one_picture else None)
        if not self._one_picture:
            check_folder(None if self.plot is None or self.plot.suffix else self.plot)
        if self.plot is not None and self.plot.suffix and not (self._one_picture or self.plot.is_dir()):
            raise UsageError(
                f"cannot draw a {self.plot.suffix}", where=self.plot, hint="name a .png, a .svg or a folder"
            )

    def check_plot(self, runs: int) -> None:
        """Raise UsageError if one picture is named for several runs."""
        if self._one_picture and runs > 1:
            raise UsageError(
                f"--plot names one picture, but {runs} runs are selected",
                where=self.plot,
                hint="name a folder, or select one run with --precision",
            )

    def keep(self, done: Sequence[RunResult], *, at_once: bool = False) -> None:
        """Write the JSON file as it would be if the runs ended here, now and then: whatever ends them, it is there.

        A page would look like all there is; it is written when it is.

        Raises:
            UsageError: the file cannot be written.
        """
        if self.json is None or self.owns_stdout or is_node(self.json):
            return  # what is written through cannot be taken back
        if not at_once and time.monotonic() - self._kept < KEEP_SECONDS:
            return
        from harness.judge import RunReport, fingerprint_of

        partial = RunReport(fingerprint_of(done), tuple(done), interrupted=True)
        try:
            write_text(self.json, document(partial) + "\n")
        except OSError as error:
            raise UsageError(f"cannot be written: {error.strerror}", where=self.json) from error
        self._kept = time.monotonic()

    def write(self, report: RunReport, seconds: float) -> None:
        """Write every file that was asked for, each at once or not at all.

        Raises:
            UsageError: a file cannot be written.
        """
        try:
            if self.owns_stdout:
                print(document(report))
            elif self.json is not None:
                write_text(self.json, document(report) + "\n")
            if self.html is not None:
                from harness.report import run_page as html_page

                write_text(self.html, html_page(report, seconds=seconds))
            if self.markdown is not None:
                from harness.report import run_markdown as markdown

                write_text(self.markdown, markdown(report, seconds=seconds))
            if self.plot is not None:
                self._draw(report, self.plot)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UsageError(f"cannot be written: {error.strerror}", where=error.filename) from error

    def _draw(self, report: RunReport, plot: Path) -> None:
        from harness.report import save_error_growth

        for result in report.results:
            if result.layers:
                name = re.sub(r"[^\w.-]+", "-", result.id.replace("::", "."))
                save_error_growth(result, plot if self._one_picture else plot / f"{name}.png")

    @property
    def _one_picture(self) -> bool:
        """Whether --plot names a picture; otherwise it names a folder."""
        return self.plot is not None and self.plot.suffix.lower() in FORMATS and not self.plot.is_dir()


def document(report: RunReport) -> str:
    """The JSON document of schema `harness.run/1`; numbers that are not finite are strings."""
    return json.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
