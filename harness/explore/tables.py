"""The larger answers on a terminal: the table of layers, and what happens at one node."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, JustifyMethod, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.diagnosis import TensorRange
from harness.explore.answers import Explanation, LayerRow, LayerTable, TensorRow
from harness.explore.commands import Order
from harness.model import NodeInfo
from harness.report import layer_legend, make_grid, make_table
from harness.text import multiple, number, percent, shorten

FLUSHED = 0.01
"""A tensor underflows when this share of its elements becomes 0."""

LONGEST_NAME, SHORT_NAME, LONGEST_OP = 28, 12, 14
MAX = "× max"
NUMBERS = ("#", "accumulated", "introduced", MAX)
HEADERS = ("#", "node", "op", "accumulated", "introduced", MAX, "")


def render_layers(answer: LayerTable) -> RenderableType:
    """The table, and how much of it was cut off."""
    lines: list[RenderableType] = [_LayersTable(answer.rows)]
    hidden = answer.matching - len(answer.rows)
    if hidden:
        where = f" around {answer.around}" if answer.around else ""
        text = f"{len(answer.rows)} of {answer.matching} layers{where}; `layers *` shows all of them"
        lines.append(Text(text, style="dim"))
    if answer.order is not None:
        lines.append(Text(layer_legend([MAX if answer.order is Order.MAX else answer.order]), style="dim"))
    return Group(*lines)


@dataclass(frozen=True)
class _LayersTable:
    """The table of layers; names lose their middle where the terminal is narrow."""

    rows: tuple[LayerRow, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        outputs = Counter(row.result.node for row in self.rows)
        cells = [_layer_cells(row, outputs[row.result.node] == 1) for row in self.rows]
        columns = dict(zip(HEADERS, zip(*cells, strict=True), strict=True))
        if _room(columns, options.max_width, gap=1) < SHORT_NAME:
            del columns["op"]
        longest = max(map(len, columns["node"]))
        gap = 2 if _room(columns, options.max_width, gap=2) >= longest else 1
        longest = max(min(longest, _room(columns, options.max_width, gap)), SHORT_NAME)
        columns["node"] = tuple(shorten(name, longest) for name in columns["node"])
        table = make_table(gap=gap, framed=False)
        for header in columns:
            justify: JustifyMethod = "right" if header in NUMBERS else "left"
            table.add_column(header, justify=justify, no_wrap=True)
        for row, texts in zip(self.rows, zip(*columns.values(), strict=True), strict=True):
            layer = row.result
            style = "bold red" if layer.origin else "red" if layer.diverged else "green" if row.kept else ""
            table.add_row(*map(Text, texts), style=style)
        yield table


def _room(columns: Mapping[str, Sequence[str]], width: int, gap: int) -> int:
    """How many columns of the terminal are left for names."""
    widths = {header: max(len(header), *map(len, texts)) for header, texts in columns.items()}
    return width - sum(widths.values()) + widths["node"] - gap * (len(widths) - 1)


def _layer_cells(row: LayerRow, only_output: bool) -> tuple[str, ...]:
    """Of a node with several outputs each is called by its tensor."""
    layer = row.result
    introduced = None if layer.introduced is None else layer.introduced.error
    numbers = (layer.metrics.error, introduced, layer.metrics.headroom)
    op = layer.op if len(layer.op) <= LONGEST_OP else f"{layer.op[: LONGEST_OP - 1]}…"
    named = (str(layer.index), layer.node if only_output else layer.tensor, op)
    return (*named, *map(number, numbers), " ".join(_marks(row)))


def _marks(row: LayerRow) -> Iterable[str]:
    """What is remarkable about a layer, in few words: a terminal is narrow."""
    layer, metrics = row.result, row.result.metrics
    seen = [
        ("another shape", metrics.shape is not None),
        ("not computed", metrics.failure is not None),
        ("overflow", metrics.overflow_count > 0),
        ("not finite", metrics.nonfinite > metrics.overflow_count),
        ("underflow", row.range.flushed >= FLUSHED and not row.kept),
        ("out of range", metrics.headroom > 1 and not metrics.overflow_count and not row.kept),
        ("diverged", layer.diverged and not layer.origin),
    ]
    if layer.origin:
        yield "ORIGIN"
    yield from [text for text, holds in seen if holds][:1]
    if row.kept:
        yield "FP32"


def render_explanation(answer: Explanation) -> RenderableType:
    """The reason, the errors, and the ranges of what the node reads and writes."""
    node = answer.node
    state = "never lowered" if not answer.lowered else "kept in FP32" if answer.kept else "lowered"
    head = Text.assemble((node.name, "bold"), f" ({node.op}), node {node.index} of {answer.nodes}, {state}")
    grid = make_grid()
    grid.add_row("why", Text(answer.reason))
    if answer.layer is not None:
        grid.add_row("error", Text(_errors(answer)))
    if answer.alone is not None:
        grid.add_row("alone", Text(_alone(answer.alone)))
    lines: list[RenderableType] = [head, Padding(grid, (0, 0, 0, 2), expand=False)]
    if answer.reads or answer.writes:
        lines += [Padding(_ranges(answer), (1, 0, 0, 2), expand=False)]
    return Group(*lines)


def _errors(answer: Explanation) -> str:
    assert answer.layer is not None
    layer = answer.layer
    text = f"nrmse {number(layer.metrics.error)} accumulated"
    if layer.introduced is not None:
        text += f", {number(layer.introduced.error)} introduced"
        text += f" (a usual node introduces {number(answer.usual)})" if answer.usual else ""
    return f"{text}; it starts here" if layer.origin else text


def _alone(effect: float) -> str:
    if effect > 1:
        beyond = "beyond any limit" if math.isinf(effect) else f"{multiple(effect)} the limit"
        return f"with only this node lowered it fails: {beyond}"
    return f"with only this node lowered it passes: {_share(effect)} of the limit"


def _ranges(answer: Explanation) -> RenderableType:
    table = make_table(gap=2, framed=False)
    table.add_column("", style="dim", no_wrap=True)
    table.add_column("tensor", no_wrap=True)
    for name in ("typical", "largest", "of the max"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for place, shown in enumerate(answer.reads):
        _add_range(table, "" if place else "reads", shown, "from")
    for place, shown in enumerate(answer.writes):
        _add_range(table, "" if place else "writes", shown, "to")
    return table


def _add_range(table: Table, label: str, shown: TensorRow, preposition: str) -> None:
    values = shown.range
    remarks = [_other(shown.neighbours, preposition, constant=values.constant), *_lost(values)]
    table.add_row(
        label,
        Text(shorten(values.name, LONGEST_NAME)),
        number(values.typical),
        number(values.largest),
        _share(shown.share),
        Text(", ".join(filter(None, remarks))),
        style="red" if values.overflowing else "",
    )


def _share(share: float) -> str:
    """`8.7 %`, `498×`."""
    if share >= 1:
        return multiple(share)
    return f"{100 * share:.2g} %" if share >= 1e-3 or not share else "< 0.1 %"


def _other(nodes: Sequence[NodeInfo], preposition: str, *, constant: bool) -> str:
    if constant:
        return "a constant"
    if not nodes:
        return "an input" if preposition == "from" else "an output"
    first = f"{preposition} {shorten(nodes[0].name, LONGEST_NAME)}"
    return first if len(nodes) == 1 else f"{first} and {len(nodes) - 1} more"


def _lost(values: TensorRange) -> Iterable[str]:
    if values.overflowing:
        yield f"{percent(values.overflowing)} overflow"
    if values.flushed:
        yield f"{percent(values.flushed)} become 0"
