"""What all reports share: looks of verdicts, statements, titles, facts, and text in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.backends import FILE, SAVED
from harness.judge import RunResult
from harness.text import shorten

if TYPE_CHECKING:
    from rich.console import Console

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


@dataclass(frozen=True)
class Statement:
    """One labelled line of an explanation, such as `origin`: `b7_sq (Pow): …`."""

    label: str
    text: str


def title(result: RunResult) -> str:
    """`case at fp16`, with the candidate unless it is the emulator; the case alone if that is mistaken."""
    if result.mistake:
        return result.case
    known = {"emulator": "", FILE: "", SAVED: ", saved outputs"}
    where = known.get(result.candidate, f" on {result.candidate}")
    return f"{result.case} at {result.precision}{where}"


def made_with(fingerprint: Mapping[str, Any]) -> dict[str, str]:
    """What numbers were made with, a line a fact; an environment is one: `TensorRT 8.6.0, NVIDIA H200, driver 580`."""
    texts = {}
    for key, value in fingerprint.items():
        if key == "environments":
            for name, facts in value.items():
                texts[str(name)] = _environment(facts)
        elif value is not None:
            texts[str(key)] = str(value)
    return texts


def _environment(facts: Mapping[str, Any]) -> str:
    product = facts.get("product") or "TensorRT"
    words = {"tensorrt": f"{product} {{}}", "gpu": "{}", "compute_capability": "compute capability {}"}
    words |= {"cuda": "CUDA {}", "driver": "driver {}"}
    return ", ".join(text.format(facts[key]) for key, text in words.items() if facts.get(key) is not None)


def short(release: str, width: int = 36) -> str:
    """The name of a release in a table."""
    return shorten(release, width)


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


def fit(body: str, tail: str) -> str:
    """Cut whole lines off the end of `body` until it fits."""
    note = "\n\n(cut here: a job summary may have 1 MiB; the JSON holds everything)\n\n"
    if len((body + "\n" + tail).encode()) <= MOST_BYTES:
        return body + "\n" + tail
    room = MOST_BYTES - len((note + tail).encode())
    kept = body.encode()[: max(room, 0)].decode(errors="ignore")
    return kept[: kept.rfind("\n") + 1] + note + tail[:room] if room > 0 else tail[:MOST_BYTES]
