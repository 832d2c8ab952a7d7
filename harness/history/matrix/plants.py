"""Plants of emulated releases, held against the models before anything is run."""

from __future__ import annotations

from collections.abc import Sequence

from harness.case import Case, resolve_model
from harness.errors import HarnessError, UsageError
from harness.history.matrix.emulated import EmulatedRelease, is_emulated
from harness.model import load_model
from harness.text import suggestion


def check_plants(releases: Sequence[str], cases: Sequence[Case]) -> None:
    """See that each planted fault has a node to sit on in one of `cases`; models are loaded for that only.

    A case whose model cannot be had is left to its run, which says why.

    Raises:
        UsageError: a release plants a fault at a node that no case has, or means nothing.
    """
    emulated = [EmulatedRelease.parse(name) for name in releases if is_emulated(name)]
    planted = [release for release in emulated if release.planted is not None]
    nodes = _float_nodes(cases) if planted else {}
    for release in planted:
        if nodes and release.planted not in nodes:
            raise UsageError(
                f"no selected case has a node {release.planted!r} that computes floats, so nothing would be planted",
                where=f"--env {release.name}",
                hint=suggestion(str(release.planted), nodes) or f"such as {', '.join([*nodes][:5])}",
            )


def _float_nodes(cases: Sequence[Case]) -> dict[str, None]:
    """The nodes of all cases whose results a plant can round."""
    found: dict[str, None] = {}
    for case in cases:
        try:
            model = load_model(resolve_model(case), name=case.name)
        except HarnessError:
            continue
        for node in model.nodes:
            if any(model.dtypes.get(name) == "float32" for name in node.outputs):
                found[node.name] = None
    return found
