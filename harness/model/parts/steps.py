"""Which tensors hold the steps of a QuantizeLinear, as it wrote them."""

from __future__ import annotations

import numpy as np

from harness.model.model import Model
from harness.model.parts.joined import RESHAPES

_MOVES = RESHAPES | {
    "Concat",
    "DepthToSpace",
    "Expand",
    "Gather",
    "Identity",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Tile",
    "Transpose",
}


def zero_point_of(model: Model, tensor: str) -> int | None:
    """The zero point of the steps in `tensor`, which QuantizeLinear nodes wrote and others moved at most.

    None for all other tensors, and where there is not one constant zero point for all elements.
    """
    protos = model.skeleton.graph.node
    zeros: set[int] = set()
    waiting, seen = [tensor], {tensor}
    while waiting:
        name = waiting.pop()
        producer = model.producer(name)
        if producer is None or producer.domain:
            return None
        read = list(protos[producer.index].input)
        if producer.op == "QuantizeLinear":
            named = read[2] if len(read) > 2 else ""
            zero = model.zero_points.get(named) if named else np.zeros(1, np.int8)
            if zero is None or zero.dtype.kind not in "iu":
                return None
            zeros.update(zero.reshape(-1).tolist())
        elif producer.op in _MOVES:
            new = [each for each in (read if producer.op == "Concat" else read[:1]) if each not in seen]
            waiting += new
            seen.update(new)
        else:
            return None
    return int(zeros.pop()) if len(zeros) == 1 else None
