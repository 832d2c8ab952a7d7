"""Where the error starts."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence


def find_origins(
    order: Sequence[str], failed: Mapping[str, bool], predecessors: Mapping[str, Sequence[str]]
) -> list[str]:
    """The tensors that fail while everything that they were computed from passes.

    Tensors that were not observed are looked through: what they were computed from stands for them, back to the
    nearest observed tensors. A model's inputs and initializers, when not observed, are taken to be right.

    Args:
        order: names of tensors in topological order; the origins are returned in this order.
        failed: for each observed tensor, whether it fails its gates.
        predecessors: for each tensor, the tensors that its node reads; inputs and initializers may be missing.
    """
    behind: dict[str, bool] = {}
    return [
        tensor
        for tensor in order
        if failed.get(tensor, False) and not _fails_behind(tensor, failed, predecessors, behind)
    ]


def look_behind(
    tensor: str, predecessors: Mapping[str, Sequence[str]], observed: Container[str]
) -> tuple[list[str], list[str]]:
    """What `tensor` was computed from: the tensors that were not observed, back to the nearest that were, and those."""
    through: dict[str, None] = {}
    nearest: dict[str, None] = {}
    waiting = [tensor]
    while waiting:
        for name in predecessors.get(waiting.pop(), ()):
            if name in observed:
                nearest[name] = None
            elif name not in through:
                through[name] = None
                waiting.append(name)
    return list(through), list(nearest)


def _fails_behind(
    tensor: str,
    failed: Mapping[str, bool],
    predecessors: Mapping[str, Sequence[str]],
    behind: dict[str, bool],
) -> bool:
    """Whether one of the nearest observed tensors behind `tensor` fails.

    `behind` remembers the answer for every tensor on the way. A stack, as chains can be longer than recursion
    goes: a tensor stays on it until all unobserved tensors that it was computed from are answered.
    """
    stack = [tensor]
    while stack:
        current = stack[-1]
        before = predecessors.get(current, ())
        open_questions = [name for name in before if name not in failed and name not in behind]
        if open_questions:
            stack += open_questions
            continue
        behind[current] = any(failed[name] if name in failed else behind[name] for name in before)
        stack.pop()
    return behind[tensor]
