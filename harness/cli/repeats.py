"""What several builds of one run came to, for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from harness.judge import RunReport
    from harness.tactics import Repeats

MOST_LAYERS = 8


def print_repeats(console: Console, report: RunReport, *, details: bool) -> None:
    """Print which layers changed tactic between builds and how far outputs moved; nothing if nothing was repeated."""
    from rich.text import Text

    from harness.report import title

    for result in report.results:
        repeats = result.repeats
        if repeats is None:
            continue
        console.print(Text(f"{title(result)}: {repeats.summary}", style="bold"), soft_wrap=True)
        for line in lines(repeats, most=None if details else MOST_LAYERS):
            console.print(Text(line), soft_wrap=True)  # names are long, and are looked for in logs
        console.print()


def lines(repeats: Repeats, *, most: int | None) -> Iterator[str]:
    """The layers that changed, one a line, with what they chose how often; then the outputs that moved."""
    changed = repeats.changed
    for layer in changed[:most]:
        chosen = " | ".join(f"{each.builds}× {each.choice}" for each in layer.choices)
        absent = f" | {layer.absent}× no such layer" if layer.absent else ""
        yield f"  {layer.layer}: {chosen}{absent}"
    if most is not None and len(changed) > most:
        rest = len(changed) - most
        yield f"  … {rest} more layer{'s' if rest > 1 else ''}: --details shows {'them' if rest > 1 else 'it'}"
    if repeats.copies:
        plural = "copies" if repeats.copies > 1 else "copy"
        yield f"  {repeats.copies} {plural} between formats changed, too"
    for output in repeats.outputs:
        others = repeats.builds - 1
        if output.identical == others:
            continue
        yield (
            f"  {output.tensor}: {others - output.identical} of {others} later builds differ, "
            f"by up to {output.max_abs:.3g}, nrmse {output.nrmse:.3g}"
        )
