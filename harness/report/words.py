"""What all reports share: looks of verdicts, statements, titles, facts, and text in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from harness.backends import FILE, SAVED
from harness.judge import MadeWith, RunResult
from harness.tensors import HostFingerprint, Precision
from harness.text import plural, shorten
from harness.worker.protocol import TENSORRT, Fingerprint

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MOST_BYTES = 1_000_000  # GitHub drops a job summary over 1 MiB whole

_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<>|#~"})

LAYER_NUMBERS = {
    "accumulated": "error (nrmse) of a layer fed the candidate's own tensors",
    "introduced": "error of the layer alone, fed the reference's tensors",
    "× max": "its largest value in the FP32 reference as a multiple of the largest number of the dtype under test; "
    "above 1 it overflows, unless it is kept in FP32",
}
"""What the numbers of a layer are, wherever they are shown."""


@dataclass(frozen=True)
class Look:
    """How one verdict is shown.

    Args:
        glyph: one character, and `plain_glyph` where a terminal cannot show it.
        word: the verdict in a table cell; upper case where a person must act.
        style: rich style.
        tone: `good`, `calm`, `bad` or `quiet`: the class of the verdict on a page.
        severity: 0 is harmless; rows and lists show the most severe first.
    """

    glyph: str
    plain_glyph: str
    word: str
    style: str
    tone: str
    severity: int

    def mark(self, *, plain: bool) -> str:
        """The glyph that a terminal can show; a `plain` one can only show ASCII."""
        return self.plain_glyph if plain else self.glyph

    def styled(self, *more: str, plain: bool) -> tuple[str, str]:
        """Glyph, word and `more` for a terminal, and their style."""
        return " ".join((self.mark(plain=plain), self.word, *more)), self.style


TONES = {"bad": "bold red", "calm": "bold yellow", "good": "bold green"}
"""How the answer of a report looks on a terminal, by its tone."""


@dataclass(frozen=True)
class Statement:
    """One labelled line of an explanation, such as `origin`: `b7_sq (Pow): …`."""

    label: str
    text: str


@dataclass(frozen=True)
class Explanation:
    """What a person needs to know of one run, in the order in which they ask.

    Args:
        subject: the run, or how many of which the same holds.
        reason: why it came out so; may be empty.
        statements: what else there is to say.
        command: what goes deeper; empty where none says more.
    """

    subject: str
    reason: str
    statements: tuple[Statement, ...]
    command: str

    @property
    def headline(self) -> str:
        """What it is about, and why it came out so."""
        return f"{self.subject}: {self.reason}" if self.reason else self.subject

    def markdown(self) -> list[str]:
        """Statements and the command in Markdown."""
        fenced = ["", "```sh", self.command, "```"] if self.command else []
        return [*bullets(self.statements), *fenced, ""]


def listed(label: str, texts: Iterable[str]) -> list[Statement]:
    """A statement for each text, of which the first has the label."""
    return [Statement("" if place else label, text) for place, text in enumerate(texts)]


def first_of(texts: Sequence[str], most: int, rest: str) -> list[str]:
    """The first `most` texts, and `and 3 more changes` if there are others; `rest` is what one of them is."""
    more = [f"and {plural(len(texts) - most, rest)}"] if len(texts) > most else []
    return [*texts[:most], *more]


def title(result: RunResult, *more: Precision) -> str:
    """`case at fp16`, with the candidate unless it is the emulator; the case alone if that is mistaken.

    `more` are precisions of which the same holds: `case at fp32 and fp16`.
    """
    if result.mistake:
        return result.case
    known = {"emulator": "", FILE: "", SAVED: ", saved outputs"}
    where = known.get(result.candidate, f" on {result.candidate}")
    return f"{result.case} at {' and '.join([result.precision, *more])}{where}"


def made_with(fingerprint: HostFingerprint) -> dict[str, str]:
    """What numbers were made with, a line a fact; an environment is one: `TensorRT 8.6.0, NVIDIA H200, driver 580`."""
    host = {item.name: getattr(fingerprint, item.name) for item in fields(HostFingerprint)}
    engines = fingerprint.environments if isinstance(fingerprint, MadeWith) else {}
    environments = {name: _environment(engine) for name, engine in engines.items()}
    return {name: text for name, text in {**host, **environments}.items() if text}


def _environment(engine: Fingerprint) -> str:
    return ", ".join(
        text.format(value)
        for text, value in (
            (f"{engine.product or TENSORRT} {{}}", engine.tensorrt),
            ("{}", engine.gpu),
            ("compute capability {}", engine.compute_capability),
            ("CUDA {}", engine.cuda),
            ("driver {}", engine.driver),
        )
        if value is not None
    )


def ran_on(facts: Mapping[str, str]) -> str:
    """What numbers were made with, folded away at the end of a Markdown document."""
    lines = "".join(f"- {escape(name)}: {escape(text)}\n" for name, text in facts.items())
    return f"<details><summary>What this ran on</summary>\n\n{lines}\n</details>\n"


def short(release: str, width: int = 36) -> str:
    """The name of a release in a table."""
    return shorten(release, width)


def make_grid(style: str = "dim") -> Table:
    """Labels in `style`, and texts that are folded beside them, on a terminal."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style=style, no_wrap=True)
    grid.add_column(overflow="fold")
    return grid


def say(console: Console, *parts: str | tuple[str, str], style: str = "") -> None:
    """Print one line that is never wrapped, so that it can be searched for and pasted; a part may have its style."""
    from rich.text import Text

    console.print(Text.assemble(*parts, style=style), soft_wrap=True)


def print_statements(console: Console, statements: Iterable[Statement], *, indent: int) -> None:
    """Print labels, and texts folded beside them, `indent` columns from the left."""
    from rich.padding import Padding
    from rich.text import Text

    grid = make_grid()
    for statement in statements:
        grid.add_row(statement.label, Text(statement.text))
    console.print(Padding(grid, (0, 0, 0, indent), expand=False))


def print_explanation(console: Console, explanation: Explanation, label: str, *, indent: int = 0) -> None:
    """Print statements and, beside `label`, the command, which is not wrapped: it is to be pasted."""
    width = max(len(label), *(len(each.label) for each in explanation.statements), 0)
    lines = [Statement(each.label.ljust(width), each.text) for each in explanation.statements]
    if lines:
        print_statements(console, lines, indent=indent)
    if explanation.command:
        say(console, " " * indent, (label.ljust(width), "dim"), "  ", (explanation.command, "cyan"))


def make_table(
    *columns: str, numbers: Sequence[str] = (), whole: Sequence[str] = (), gap: int = 1, framed: bool = True
) -> Table:
    """A table on a terminal that has no rows yet.

    Args:
        columns: their names.
        numbers: those that stand on the right, and are not wrapped.
        whole: others that are not wrapped.
        gap: spaces between columns.
        framed: with a line under its bold head, or else with a faint head.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    box, style = (SIMPLE_HEAD, "bold") if framed else (None, "dim")
    table = Table(box=box, pad_edge=False, padding=(0, gap, 0, 0), header_style=style, show_edge=False)
    for name in columns:
        justify: Literal["left", "right"] = "right" if name in numbers else "left"
        table.add_column(name, justify=justify, no_wrap=name in (*numbers, *whole), overflow="fold")
    return table


def is_plain(console: Console) -> bool:
    """Whether the terminal can only show ASCII."""
    try:
        "✓✗○●‼–".encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return True
    return False


def layer_legend(names: Iterable[str] = LAYER_NUMBERS) -> str:
    """What the numbers called `names` are, in one line: `× max: its largest value …`."""
    return ". ".join(f"{name}: {LAYER_NUMBERS[name]}" for name in names) + "."


def escape(text: str) -> str:
    """Plain text in one line of Markdown."""
    return " ".join(text.translate(_SPECIAL).split())


def code(text: str) -> str:
    """Text between backticks, also in a table."""
    return text.replace("`", "'").replace("|", "\\|").replace("\n", " ")


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table in Markdown; its cells are Markdown."""
    head, *lines = (f"| {' | '.join(map(str, row))} |" for row in (columns, *rows))
    return [head, "|" + "---|" * len(columns), *lines]


def bullets(statements: Iterable[Statement], indent: str = "") -> list[str]:
    """Statements as a list in Markdown."""
    return [f"{indent}- {each.label + ': ' if each.label else ''}{escape(each.text)}" for each in statements]


def nested(statements: Iterable[Statement]) -> list[str]:
    """Statements as a list in Markdown with labels in bold; what has none belongs to the one before."""
    return [f"{f'- **{each.label}**' if each.label else '  -'} {escape(each.text)}" for each in statements]


def fit(body: str, tail: str) -> str:
    """Cut whole lines off the end of `body` until it fits."""
    note = "\n\n(cut here: a job summary may have 1 MiB; the JSON holds everything)\n\n"
    if len((body + "\n" + tail).encode()) <= MOST_BYTES:
        return body + "\n" + tail
    room = MOST_BYTES - len((note + tail).encode())
    kept = body.encode()[: max(room, 0)].decode(errors="ignore")
    return kept[: kept.rfind("\n") + 1] + note + tail[:room] if room > 0 else tail[:MOST_BYTES]
