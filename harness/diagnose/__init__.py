"""From a wrong engine to its culprits, in the fewest builds.

    from harness.diagnose import diagnose

    diagnosis = diagnose("cases/rmsnorm-overflow.case.yaml", precision="fp16")
    print(diagnosis.summary, diagnosis.culprits)

Six stages, a module each, each with what it requires and ensures, each leaving evidence: gates, predict, observe,
cure, attribute, hand_over. `on_emulator` and `on_engine` put them in the order that costs least. An engine is
diagnosed with the emulator's answer as the prior; the unobserved engine has the last word. What was not shown is
`unresolved`: it never guesses.

Units of a search are the nodes of the ONNX graph that the precision lowers; a culprit is a node whose return to
FP32 is needed for the unobserved candidate to pass. A tensor is rounded by the node that writes it and by the nodes
that read it, so an overflow needs both sides of each tensor that does not fit: the culprits are that island, and
the origin is its first node.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from harness.diagnose.progress import Progress, ProgressEvent
from harness.diagnose.results import (
    Cost,
    Diagnosis,
    Evidence,
    Origin,
    Price,
    Repro,
    Separation,
    Stage,
    Verdict,
)
from harness.diagnose.spending import Limits

if TYPE_CHECKING:
    from harness.diagnose.api import Options, diagnose, diagnose_model, document

_LAZY = ("Options", "diagnose", "diagnose_model", "document")

__all__ = [
    "Cost",
    "Diagnosis",
    "Evidence",
    "Limits",
    "Options",
    "Origin",
    "Price",
    "Progress",
    "ProgressEvent",
    "Repro",
    "Separation",
    "Stage",
    "Verdict",
    "diagnose",
    "diagnose_model",
    "document",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("harness.diagnose.api"), name)


class _CallableModule(ModuleType):
    """`harness.diagnose` is this package and, as part of the public API, the function: it can be called."""

    def __call__(self, *arguments: Any, **options: Any) -> Diagnosis:
        from harness.diagnose.api import diagnose

        return diagnose(*arguments, **options)


sys.modules[__name__].__class__ = _CallableModule
