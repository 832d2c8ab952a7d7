"""A prompt for a person who looks for the nodes that need FP32 by hand.

    with open_session("cases/rmsnorm-overflow.case.yaml", precision="fp16") as session:
        session.keep(["b7_*"])
        print(session.attempt().outcome)

Each part does one thing: `commands` turns a line into a command, `names` turns patterns into nodes, `island` is
what is kept in FP32 and its way back, `session` does what a command says and returns an answer, `rendering` shows
answers, `completion` knows what may follow, `shell` joins them for a terminal or a pipe.

A configuration is the set of nodes that are kept in FP32. Every configuration that is tried goes into the journal of
`harness diagnose`, under the same problem: what was tried by hand is not evaluated again by `diagnose --resume`, and
what a diagnosis evaluated is known here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.explore.opening import open_session
    from harness.explore.session import Session
    from harness.explore.shell import Shell

_LAZY = {
    "Session": "harness.explore.session",
    "Shell": "harness.explore.shell",
    "open_session": "harness.explore.opening",
}

__all__ = ["Session", "Shell", "open_session"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
