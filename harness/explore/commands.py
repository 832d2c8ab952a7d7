"""The language of the prompt: a line of text to a command. Pure: it knows no model and prints nothing."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from enum import StrEnum

from harness.errors import UsageError
from harness.text import suggestion

ENGINE = "--engine"
BY = "by"


class Order(StrEnum):
    """What a table of layers is sorted by, the largest first."""

    INTRODUCED = "introduced"
    ACCUMULATED = "accumulated"
    MAX = "max"


@dataclass(frozen=True)
class Command:
    """A command as it was typed.

    Args:
        name: a key of COMMANDS.
        words: its arguments: names, patterns, a path.
        order: of `layers`, what to sort by; None is the order of the graph.
    """

    name: str
    words: tuple[str, ...] = ()
    order: Order | None = None


@dataclass(frozen=True)
class Spec:
    """One command as a person sees it.

    Args:
        name: what is typed.
        usage: with its arguments.
        help: one line.
        details: what else `help NAME` says; one paragraph.
        least: how many words it needs.
        most: how many words it takes; None: any number.
    """

    name: str
    usage: str
    help: str
    details: str
    least: int = 0
    most: int | None = None


def parse(line: str) -> Command | None:
    """The command that `line` asks for; None for a blank line or a comment (`# …`).

    Raises:
        UsageError: there is no such command, or its arguments make no sense; the hint says what to type.
    """
    words = _split(line)
    if not words:
        return None
    name, *rest = words
    spec = _spec(ALIASES.get(name, name))
    if len(rest) < spec.least:
        raise UsageError(f"`{spec.name}` needs {spec.usage.split()[1]}", hint=f"`{spec.usage}`")
    if spec.most is not None and len(rest) > spec.most:
        raise _unexpected(spec.name, rest[spec.most])
    if spec.name == "layers":
        return _layers(tuple(rest))
    if spec.name == "try" and rest not in ([], [ENGINE]):
        raise _unexpected("try", rest[0])
    return Command(spec.name, tuple(_spec(word).name if spec.name == "help" else word for word in rest))


def _spec(name: str) -> Spec:
    if name not in COMMANDS:
        hint = suggestion(name, COMMANDS) or "`help` lists the commands"
        raise UsageError(f"there is no command `{name}`", hint=hint)
    return COMMANDS[name]


def _unexpected(name: str, word: str) -> UsageError:
    return UsageError(f"`{name}` does not take `{word}`", hint=f"`{COMMANDS[name].usage}`")


def _split(line: str) -> list[str]:
    text = line.strip()
    if text.startswith("#"):
        return []
    try:
        # Names may hold a backslash or a number sign; quotes are for names with spaces.
        lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
        lexer.whitespace_split, lexer.commenters, lexer.escape = True, "", ""
        return list(lexer)
    except ValueError:
        raise UsageError("a quotation mark is not closed", hint="quote a name as 'a name'") from None


def _layers(words: tuple[str, ...]) -> Command:
    if BY not in words:
        return Command("layers", words)
    place = len(words) - 1 - words[::-1].index(BY)
    key = words[place + 1 :]
    if len(key) == 1 and key[0] in set(Order):
        return Command("layers", words[:place], Order(key[0]))
    keys = ", ".join(Order)
    if len(key) != 1:
        raise UsageError(f"`by` takes one word: {keys}", hint=f"`{COMMANDS['layers'].usage}`")
    hint = suggestion(key[0], Order) or f"choose from {keys}"
    raise UsageError(f"layers cannot be sorted by `{key[0]}`", hint=hint)


PATTERNS = (
    "A PATTERN is the name of a node or of a tensor that it writes, or a glob over both (* ? [ab]); several of them "
    "add up."
)


_SPECS = (
    Spec(
        "layers",
        "layers [PATTERN…] [by introduced|accumulated|max]",
        "show layers and their errors, with what is kept now",
        "Accumulated: the error of the layer, fed what the layers before it computed. Introduced: its error when it "
        "is fed what the reference computed. × max: its largest value in the reference as a multiple of the "
        "largest number of the precision; beyond 1 it overflows unless it is kept in FP32. Without a pattern it shows "
        f"the layers around the origin, or the first of the order; `layers *` shows all. {PATTERNS}",
    ),
    Spec(
        "why",
        "why NODE",
        "explain a node: ranges, errors, its effect alone",
        "NODE is the name of a node or of a tensor that it writes.",
        least=1,
        most=1,
    ),
    Spec(
        "keep",
        "keep [PATTERN…]",
        "keep nodes in FP32; without a pattern, list them",
        f"{PATTERNS} `undo` takes it back.",
    ),
    Spec(
        "lower",
        "lower PATTERN…",
        "lower kept nodes again",
        f"`lower *` lowers everything. {PATTERNS} `undo` takes it back.",
        least=1,
    ),
    Spec(
        "try",
        f"try [{ENGINE}]",
        "evaluate what is kept: on the emulator, or built",
        f"The emulator answers in milliseconds. `try {ENGINE}` builds the engine in the environment of `--env` and "
        "runs it. Both go into the journal that `harness diagnose --resume` continues from.",
        most=1,
    ),
    Spec(
        "bisect",
        "bisect [PATTERN…]",
        "find the fewest nodes that pass, and keep them",
        "With patterns it searches among what matches, and what else is kept stays. Without, it searches among what is "
        f"kept if that passes, else among all nodes. {PATTERNS}",
    ),
    Spec(
        "plot",
        "plot [FILE]",
        "draw how the error grows with what is kept now",
        "FILE is a .png or .svg. Default: a new .png in the folder of this session.",
        most=1,
    ),
    Spec(
        "undo",
        "undo",
        "take back the last keep, lower or bisect",
        "Repeat it to take back more.",
        most=0,
    ),
    Spec(
        "history",
        "history",
        "list what was tried, and the results",
        "What an earlier session or a diagnosis evaluated takes one line.",
        most=0,
    ),
    Spec(
        "export",
        "export [DIR]",
        "write recipes that keep the nodes in FP32",
        "For trtexec, polygraphy and AutoCast, with the list of layers and a typed ONNX model. Default DIR: the folder "
        "of this session.",
        most=1,
    ),
    Spec("help", "help [COMMAND]", "list the commands, or explain one", "", most=1),
    Spec("quit", "quit", "leave; so does Ctrl-D", "", most=0),
)
COMMANDS: dict[str, Spec] = {spec.name: spec for spec in _SPECS}
ALIASES = {"?": "help", "exit": "quit", "q": "quit"}
