"""One line on a model that is known not to convert: the emulator would never tell."""

from __future__ import annotations

from collections.abc import Sequence

from harness.compiler.known import known_problems
from harness.compiler.rules import Match
from harness.model import Model
from harness.text import names
from harness.worker.protocol import CompileReport, Fingerprint


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
        said = f"{_releases(known.reports)} cannot build this model"
        return f"{said}{_because(known.refused)}; `harness check` says more"
    if release is None and known.refused:
        products = list(
            dict.fromkeys(each.product for match in known.refused for each in match.rule.releases)
        )
        can = f"{products[0]} cannot" if len(products) == 1 else f"neither {' nor '.join(products)} can"
        return f"by the rules of `harness check`, {can} build this model{_because(known.refused)}"
    if known.different:
        which = "this engine" if release is not None else "some releases"
        verb = "computes" if release is not None else "compute"
        return f"{which} {verb} something else{_because(known.different)}; `harness check` says which and what to do"
    return None


def _releases(reports: Sequence[CompileReport]) -> str:
    """`TensorRT for RTX 1.4.0.76 and 1.7.1.116`; each product is named once."""
    by_product: dict[str, dict[str, None]] = {}
    for report in reports:
        by_product.setdefault(report.product, {})[report.release] = None
    return " and ".join(
        f"{product} {names(releases, separator=', ' if len(releases) > 2 else ' and ')}"
        for product, releases in by_product.items()
    )


def _because(matches: Sequence[Match]) -> str:
    if not matches:
        return ""
    first = matches[0]
    node = "" if first.node is None else f"{first.node.name} ({first.node.op}), "
    more = "" if len(matches) == 1 else f", and {len(matches) - 1} more"
    return f": {node}{first.rule.explanation}{more}"
