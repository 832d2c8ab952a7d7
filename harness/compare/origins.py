"""Where the error starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def find_origins(
    order: Sequence[str], failed: Mapping[str, bool], predecessors: Mapping[str, Sequence[str]]
) -> list[str]:
    """The tensors that fail while everything that they were computed from passes.

    Tensors that were not observed are looked through: their own predecessors stand for them, back to the nearest
    observed ones. Model inputs and initializers have no predecessors and never fail unless observed failing.

    Args:
        order: names of tensors in topological order; the origins are returned in this order.
        failed: for each observed tensor, whether it fails its gates.
        predecessors: for each tensor, the tensors that its node reads. Missing names have none.
    """
    reaches: dict[str, bool] = {}

    def from_failing(tensor: str) -> bool:
        """Whether a nearest observed tensor before `tensor` fails; without recursion: chains are long."""
        stack = [tensor]
        while stack:
            current = stack[-1]
            waiting = False
            result = False
            for before in predecessors.get(current, ()):
                if before in failed:
                    result = result or failed[before]
                elif before in reaches:
                    result = result or reaches[before]
                else:
                    stack.append(before)
                    waiting = True
            if not waiting:
                reaches[current] = result
                stack.pop()
        return reaches[tensor]

    return [tensor for tensor in order if failed.get(tensor, False) and not from_failing(tensor)]
