"""One page a model: the ranking, histograms with their thresholds, the curve, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.quantization import Quantization, QuantizationDiagnosis, QuantizedKernels
from harness.report.figures import histogram_svg, mixed_curve_svg
from harness.report.pages import render_page, trusted
from harness.report.quantization.words import LOOKS, heading, kernels_text, remedies, statements
from harness.report.words import Look, Statement, escape, fit, markdown_table, nested
from harness.text import names, number, percent, plural

PICTURES = 8
"""So many tensors, the costliest, get a histogram."""


def pairs_page(found: QuantizationDiagnosis) -> str:
    """The diagnosis of a quantised model as an HTML page."""
    pictures = []
    for pair in found.ranking.pairs[:PICTURES]:
        histogram = None if found.observed is None else found.observed.histograms.get(pair.pair)
        if histogram is not None and histogram.largest > 0:
            pictures.append(
                (pair.pair, trusted(histogram_svg(pair.pair, histogram, _thresholds(found, pair.pair))))
            )
    return _page(
        heading(found),
        LOOKS[found.verdict],
        statements(found),
        ranking=found.ranking.pairs,
        outputs=_before_and_after(found),
        commands=remedies(found),
        pictures=pictures,
    )


def pairs_markdown(found: QuantizationDiagnosis) -> str:
    """The diagnosis of a quantised model as GitHub-flavoured Markdown."""
    lines = [f"## {escape(heading(found))}", ""]
    lines += [*nested(statements(found)), ""]
    rows = [
        (escape(each.pair), each.kind, *map(number, (each.introduced, each.estimate, each.best)), each.reason)
        for each in found.ranking.pairs
    ]
    lines += markdown_table(("pair", "kind", "introduced", "alone", "best", "reason"), rows)
    for tool, line in remedies(found).items():
        lines += ["", f"{tool}:", "", "```", line, "```"]
    return fit("\n".join(lines), "")


def quantization_page(found: Quantization, *, kernels: QuantizedKernels | None = None) -> str:
    """What quantising a model gave, as an HTML page."""
    chosen = found.chosen
    lines = [
        Statement("error", f"nrmse {number(chosen.error)} against the float model"),
        Statement("share", f"{percent(chosen.share)} of the multiply-adds are quantised"),
        Statement("method", methods_text(found)),
        Statement("data", f"{plural(found.samples, 'sample')} to calibrate with, {found.unseen} kept apart"),
    ]
    if chosen.floats:
        lines.append(Statement("in float", ", ".join(chosen.floats)))
    if kernels is not None:
        lines.append(Statement("kernels", kernels_text(kernels, found.format, found.behind)))
    worst = sorted(found.tensors, key=lambda each: -each.errors[each.method])
    pictures = []
    for each in [each for each in worst if each.divergence is not None][:PICTURES]:
        assert each.histogram is not None
        thresholds = {str(method): value for method, value in each.thresholds.items()}
        picture = histogram_svg(each.tensor, each.histogram, thresholds, each.divergence)
        pictures.append((each.tensor, trusted(picture)))
    return _page(
        f"{found.model} in {found.format}",
        Look("✓", "+", "quantised", "green", "good", 0),
        lines,
        ranking=found.ranking.pairs,
        outputs=[(f"{each.method}", number(each.error), number(each.unseen)) for each in found.methods],
        curve=trusted(mixed_curve_svg(found)) if len(found.curve) > 1 else "",
        pictures=pictures,
    )


def methods_text(found: Quantization) -> str:
    """`mse, of 4 methods that were tried; entropy for l0_norm1`."""
    others = [f"{each.method} for {each.tensor}" for each in found.tensors if each.method is not found.method]
    text = f"{found.method}, of {plural(len(found.methods), 'method')} that were tried"
    return f"{text}; {names(others, 6)}" if others else text


def _page(title: str, look: Look, lines: Sequence[Statement], **values: Any) -> str:
    known: dict[str, Any] = {"ranking": (), "outputs": [], "curve": "", "pictures": [], "commands": {}}
    return render_page(
        "quantization.html.j2", heading=title, look=look, statements=lines, **{**known, **values}
    )


def _thresholds(found: QuantizationDiagnosis, name: str) -> dict[str, float]:
    """Beyond which magnitude the scale of the file clips, and the new one."""
    pair = found.ranking[name]
    largest = found.largest_steps.get(name, 0.0)
    texts = {"file": pair.scale * largest}
    for repair in found.repairs:
        if repair.pair == name and repair.scale.per_tensor:
            texts[f"new: {repair.method}"] = repair.scale.largest * largest
    return texts


def _before_and_after(found: QuantizationDiagnosis) -> list[tuple[str, str, str]]:
    rows = [("as it is", found.before, found.unseen_before)]
    if found.repaired is not None and found.repairs:
        rows.append(("with the new scales", found.repaired, found.unseen_repaired))
    if found.without is not None and found.taken_out:
        rows.append((f"without {plural(len(found.taken_out), 'pair')}", found.without, found.unseen_without))
    return [(label, number(error), number(unseen)) for label, error, unseen in rows]
