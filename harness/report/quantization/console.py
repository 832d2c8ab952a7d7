"""Pairs and quantised models on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.quantization import Quantization, QuantizationDiagnosis, QuantizedKernels
from harness.report.quantization.words import LOOKS, heading, kernels_text, remedies, statements
from harness.report.words import Statement, is_plain, make_table, print_statements, say
from harness.text import names, number, percent, plural, shorten

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

ROWS = 12


def print_pairs(console: Console, found: QuantizationDiagnosis, *, details: bool = False) -> None:
    """Print the answer, the costliest pairs (with `details` all), and what to tell each tool."""
    seen = LOOKS[found.verdict]
    say(console, f"{seen.mark(plain=is_plain(console))} {heading(found)}", style=seen.style)
    print_statements(console, statements(found), indent=2)
    table = _table("pair", "kind", "introduced", "alone", "best", "reason")
    for pair in found.ranking.pairs[: None if details else ROWS]:
        alone = number(pair.estimate) if pair.alone is not None else f"about {number(pair.estimate)}"
        table.add_row(
            shorten(pair.pair, 40), pair.kind, number(pair.introduced), alone, number(pair.best), pair.reason
        )
    console.print(table)
    left = found.pairs - ROWS
    if not details and left > 0:
        say(console, f"  {plural(left, 'more pair')}: --details", style="dim")
    for place, (tool, line) in enumerate(remedies(found).items()):
        say(console, (f"  {'or' if place else 'do':7}{tool}: ", "dim"), (line, "cyan"))


def print_quantization(
    console: Console, found: Quantization, *, kernels: QuantizedKernels | None = None, details: bool = False
) -> None:
    """Print the methods side by side, the curve, and what was made."""
    chosen = found.chosen
    share = f"{percent(chosen.share)} of the multiply-adds"
    say(console, f"{found.model} in {found.format}: {share}, nrmse {number(chosen.error)}")
    table = _table("method", "error", "unseen")
    for each in found.methods:
        mark = " *" if each.method is found.method else ""
        table.add_row(f"{each.method}{mark}", number(each.error), number(each.unseen))
    console.print(table)
    table = _table("quantised", "error", "unseen", "in float")
    for point in found.curve:
        table.add_row(percent(point.share), number(point.error), number(point.unseen), str(len(point.floats)))
    console.print(table)
    table = _table("tensor", "kind", "largest", *(f"{method.method}" for method in found.methods))
    worst = sorted(found.tensors, key=lambda each: -each.errors[each.method])
    for tensor in worst[: None if details else ROWS]:
        errors = (
            f"{number(error)}{' *' if method is tensor.method else ''}"
            for method, error in tensor.errors.items()
        )
        table.add_row(shorten(tensor.tensor, 40), tensor.kind, number(tensor.largest), *errors)
    console.print(table)
    costly = [name for name in chosen.floats if name not in found.small]
    lines = [Statement("float", names(costly, 6))] if costly else []
    if found.small:
        text = f"in float, too: {names(found.small, 6)}; --keep-float 0% quantises them"
        lines.append(Statement("small", text))
    if kernels is not None:
        lines.append(Statement("kernels", kernels_text(kernels, found.format, found.behind)))
    kept = f"{plural(found.unseen, 'sample')} kept apart" if found.unseen else "no sample was kept apart"
    lines.append(Statement("data", f"calibrated with {plural(found.samples, 'sample')}; {kept}"))
    print_statements(console, lines, indent=2)


def _table(*columns: str) -> Table:
    numbers = [name for name in columns[1:] if name not in ("kind", "reason")]
    table = make_table(*columns, numbers=numbers, whole=columns, gap=2)
    table.show_edge = True  # a line of space above and below
    return table
