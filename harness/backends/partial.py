"""Running a graph as far as it goes: where a node fails, what does not depend on it is computed all the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.errors import NodeFailedError
from harness.model import Model


@dataclass(frozen=True)
class Computed:
    """The tensors that could be computed, and why the others could not.

    Args:
        tensors: by name.
        failures: by name of a tensor that was asked for: what went wrong, one clause without a full stop.
    """

    tensors: Mapping[str, np.ndarray]
    failures: Mapping[str, str] = field(default_factory=dict)


def run_as_far_as_possible(
    model: Model, tensors: Sequence[str], run: Callable[[tuple[str, ...]], Mapping[str, np.ndarray]]
) -> Computed:
    """Run for `tensors`; each time a node fails, once more for those that are not computed from what it writes.

    Args:
        model: the model.
        tensors: what is asked for.
        run: computes the tensors that it is given the names of.

    Raises:
        HarnessError: whatever else `run` raises than NodeFailedError.
    """
    failures: dict[str, str] = {}
    left = tuple(tensors)
    while left:
        try:
            return Computed(run(left), failures)
        except NodeFailedError as error:
            behind = _computed_from(model, error.node)
            lost = [name for name in left if name in behind] or left
            failures |= dict.fromkeys(lost, error.failure)
            left = tuple(name for name in left if name not in failures)
    return Computed({}, failures)


def _computed_from(model: Model, node: str) -> set[str]:
    """The tensors that `node` writes, and all that is computed from them; nothing if the model has no such node."""
    found: set[str] = set()
    for each in model.nodes:  # in topological order
        if each.name == node or found.intersection(each.inputs):
            found.update(each.outputs)
    return found
