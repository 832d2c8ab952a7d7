"""The drift page: one self-contained HTML file that says in ten seconds whether anything moved, what, and where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ParamSpec

from harness.history import DriftReport, DriftStatus, RowKind, RunDrift
from harness.report.drift import lines, tables, words
from harness.report.drift.view import explain, has_moved, has_stopped, is_remarkable
from harness.report.drift.words import DRIFT_LOOKS, STALE, STATUS_LOOKS, both_sides, fails, is_stale, look_of
from harness.report.figures import engines_figure, growth_figure, outputs_figure, series_figure, svg
from harness.report.pages import render_page, trusted
from harness.report.words import Explanation, made_with
from harness.worker.protocol import TENSORRT

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

P = ParamSpec("P")

MOST_SECTIONS = 40  # runs that get words
MOST_PICTURES = 8  # of those, how many get the picture of their layers
MOST_OPEN = 3
MOST_TENSORS = 400
MOST_CHANGES = 200


@dataclass(frozen=True)
class _Section:
    """What the page says of one run."""

    anchor: str
    run: RunDrift
    reason: str
    explanation: Explanation
    picture: Markup | None
    opened: bool


@dataclass(frozen=True)
class _Tile:
    """How many runs came out so."""

    amount: int
    word: str
    tone: str


def drift_page(report: DriftReport, *, seconds: float | None = None) -> str:
    """The report as an HTML page; the drift took `seconds`."""
    ordered = report.worst_first()
    remarkable = [run for run in ordered if is_remarkable(run)]
    groups = _groups(report, remarkable[:MOST_SECTIONS], ordered)
    shown = [run for _, runs in groups for run in runs]
    anchors = {run.id: f"run-{place}" for place, run in enumerate(shown)}
    sections = tuple(_sections(report, shown, anchors))
    return render_page(
        "drift.html.j2",
        scripts=("drift.js",),
        report=report,
        lines=lines,
        words=words,
        summary=words.summary(report, seconds),
        title_of=lambda run: words.run_title(run, report.newer),
        facts=_facts(report),
        tiles=_tiles(report),
        matrix=tables.matrix_table(report, anchors),
        groups=[(heading, [each for each in sections if each.run in runs]) for heading, runs in groups],
        unshown=max(len(remarkable) - MOST_SECTIONS, 0),
        outputs_picture=_picture("outputs", outputs_figure, report, ordered) if len(report.tensors) else None,
        tensors=tables.tensors_table(report, MOST_TENSORS),
        unmeasured=bool(tables.unmeasured_layers(report.tensors).any()),
        structure=tables.structure_table(ordered, MOST_CHANGES),
        has_structure=any(all(run.structured) for run in report.runs),
        engines=tables.engines_table(report),
        engines_picture=_engines_picture(report, ordered) if len(report.engines) else None,
        steps=tables.steps_table(report.series),
        series_picture=_picture("series", series_figure, report.series) if report.series else None,
        fingerprint=made_with(report.fingerprint),
    )


def _picture(name: str, figure: Callable[P, Figure], *given: P.args, **named: P.kwargs) -> Markup:
    return trusted(svg(partial(figure, *given, **named), name))


def _groups(
    report: DriftReport, remarkable: Sequence[RunDrift], ordered: Sequence[RunDrift]
) -> list[tuple[str, list[RunDrift]]]:
    """The runs that get words under their headings; the largest change where none does; expected failures last."""
    moved = [
        run for run in remarkable if has_moved(run) or has_stopped(run) or run.status is not DriftStatus.PASS
    ]
    failing = [run for run in remarkable if run not in moved and fails(run) and run.fails_unexpectedly]
    differing = [run for run in remarkable if run not in moved and run not in failing]
    compiled = [run for run in differing if run.compiled]
    expected = [run for run in ordered if run not in remarkable and fails(run)]
    groups = [
        (_heading(moved), moved),
        ("What fails without a regression", failing),
        ("Other kernels", compiled),
        ("Builds of one release that differ in precision", [run for run in differing if not run.compiled]),
        (f"What fails {both_sides(report)}, as expected", expected[: MOST_SECTIONS - len(remarkable)]),
    ]
    found = [(heading, runs) for heading, runs in groups if runs]
    return found or [("The largest change", list(ordered[:1]))]


def _heading(runs: Sequence[RunDrift]) -> str:
    stopped = any(map(has_stopped, runs))
    if any(map(has_moved, runs)):
        return "What moved, and what could not be judged" if stopped else "What moved"
    return "What could not be judged"


def _sections(report: DriftReport, runs: Sequence[RunDrift], anchors: dict[str, str]) -> Iterator[_Section]:
    pictures = 0
    for place, run in enumerate(runs):
        picture = None
        if pictures < MOST_PICTURES and RowKind.LAYER in run.counts and _is_drawn(run, runs):
            picture = _picture(f"growth-{run.id}", growth_figure, report, run)
            pictures += 1
        reason = run.builds.reason if _only_counted(run) else run.reason
        opened = place < MOST_OPEN and not _only_counted(run)
        yield _Section(anchors[run.id], run, reason, explain(run), picture, opened)


def _is_drawn(run: RunDrift, shown: Sequence[RunDrift]) -> bool:
    """Whether the picture of its layers says something of a run; the largest change of a calm report is drawn."""
    return has_moved(run) or has_stopped(run) or run.fails_unexpectedly or len(shown) == 1


def _only_counted(run: RunDrift) -> bool:
    """Whether nothing is to be said of a run but that it fails as expected."""
    return fails(run) and not is_remarkable(run)


def _engines_picture(report: DriftReport, runs: Sequence[RunDrift]) -> Markup:
    order = {(run.case, run.precision.value): place for place, run in enumerate(runs)}
    keys = zip(report.engines["case"], report.engines["precision"], strict=True)
    places = [order.get(key, len(order)) for key in keys]
    engines = report.engines.assign(_place=places).sort_values("_place", kind="stable")
    return _picture("engines", engines_figure, report, engines)


def _tiles(report: DriftReport) -> tuple[_Tile, ...]:
    """How many runs have each verdict, the worst first; and how many of them fail whatever their verdict."""
    tiles = [
        _Tile(sum(run.status is status for run in report.runs), look.word, look.tone)
        for status, look in reversed(STATUS_LOOKS.items())
    ]
    tiles.append(_Tile(sum(map(is_stale, report.runs)), STALE.word, STALE.tone))
    for verdict, look in reversed(DRIFT_LOOKS.items()):
        runs = [run for run in report.runs if run.verdict is verdict and run.status not in STATUS_LOOKS]
        healthy = all(look_of(run).tone == look.tone for run in runs)
        tiles.append(_Tile(len(runs), look.word, look.tone if healthy else "quiet"))
    idle = sum(lines.is_idle(run) and run.status is DriftStatus.PASS for run in report.runs)
    tiles.append(_Tile(idle, "not compared", "calm"))
    if report.missing:
        amount, what = lines.missing_count(report)
        of_older = f"{what if amount == 1 else what + 's'} of the older side missing"
        tiles.append(_Tile(amount, of_older, "calm"))
    total, expected = words.standing_failures(report)
    side = both_sides(report)
    tiles.append(_Tile(total - expected, f"fail {side}", "bad"))
    tiles.append(_Tile(expected, f"fail {side}, as expected", "calm"))
    return tuple(tile for tile in tiles if tile.amount)


def _facts(report: DriftReport) -> dict[str, str]:
    """By release: `: TensorRT 8.6.0 on NVIDIA H200`."""
    return {
        name: f": {engine.product or TENSORRT} {engine.tensorrt}{f' on {engine.gpu}' if engine.gpu else ''}"
        for name, engine in report.fingerprint.environments.items()
        if engine.tensorrt is not None
    }
