"""One line on a model that is known not to convert: the emulator would never tell."""

from __future__ import annotations

from collections.abc import Sequence

from harness.compiler.known import known_problems
from harness.compiler.rules import Match
from harness.model import Model
from harness.text import names
from harness.worker.protocol import Fingerprint


class ConversionWarning(UserWarning):
    """A model is known not to convert, or to compute something else where it does."""


def conversion_warning(model: Model, engine: Fingerprint | None = None) -> str | None:
    """What is known against an engine of `model`, in one line; None if nothing is.

    Args:
        model: the model.
        engine: what an engine was built with: only its release counts. None for the emulator: any release does.
    """
    release = None
    if engine is not None and engine.product is not None and engine.tensorrt is not None:
        release = (engine.product, engine.tensorrt)
    known = known_problems(model, release)
    if release is None and known.reports:
        releases = names(f"{report.product} {report.release}" for report in known.reports)
        said = f"{releases} cannot build this model"
        return f"{said}{_because(known.refused)}; `harness check` says more"
    if release is None and known.refused:
        products = " and ".join(
            dict.fromkeys(each.product for match in known.refused for each in match.rule.releases)
        )
        return f"{products} cannot build this model by the rules{_because(known.refused)}; `harness check` says more"
    if known.different:
        which = "this engine" if release is not None else "some releases"
        verb = "computes" if release is not None else "compute"
        return f"{which} {verb} something else{_because(known.different)}; `harness check` says which and what to do"
    return None


def _because(matches: Sequence[Match]) -> str:
    if not matches:
        return ""
    first = matches[0]
    node = "" if first.node is None else f"{first.node.name} ({first.node.op}), "
    more = "" if len(matches) == 1 else f", and {len(matches) - 1} more"
    return f": {node}{first.rule.explanation}{more}"
