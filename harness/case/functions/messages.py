"""What harness and the process that calls its users' functions tell each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import Place


class Request:
    """What harness asks of the process: a `Call`, or `Restore`."""


class Reply:
    """What the process tells: `Watched` and `Warned` while it works, `Raised` or `Returned` in the end."""


@dataclass(frozen=True)
class Filter:
    """A filter of Python's warnings: `message` and `module` are regular expressions, `line` 0 is any."""

    action: str
    message: str
    home: str
    category: str
    module: str
    line: int


@dataclass(frozen=True)
class Call(Request):
    """Call `work` of `module`, a function of harness that calls a user's, as this process would.

    Args:
        case: what functions read of a case, as JSON.
        name: `module:function` of the user's.
        arguments: whatever else `work` takes, as far as a frame carries it.
        path: `sys.path`.
        quiet: whether logging prints nothing where nobody has set it up.
    """

    module: str
    work: str
    case: str
    name: str
    arguments: tuple[Any, ...]
    folder: str
    path: tuple[str, ...]
    environment: Mapping[str, str]
    quiet: bool
    filters: tuple[Filter, ...]


@dataclass(frozen=True)
class Restore(Request):
    """Undo what functions have changed of the process; `Returned` says whether all is as it was."""


@dataclass(frozen=True)
class Watched(Reply):
    """A function begins to work.

    Args:
        files: those of its own module and its neighbours.
        where: where it is defined, as far as it is known yet.
    """

    files: tuple[str, ...]
    where: Place | None


@dataclass(frozen=True)
class Warned(Reply):
    """Python warns: the arguments of `warnings.warn_explicit`, the category by name."""

    message: str
    category: str
    file: str
    line: int


@dataclass(frozen=True)
class Raised(Reply):
    """An error of harness: `kind` is its class in `harness.errors`, `trace` its traceback, as text."""

    kind: str
    message: str
    where: Place | str | None
    hint: str | None
    evidence: tuple[str, ...]
    trace: str


@dataclass(frozen=True)
class Returned(Reply):
    """What was called returned this."""

    value: Any
