"""Which of a model's tensors are in memory: as many at a time as fit, and some for whoever asks again."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import chain

import numpy as np

from harness.backends import Computed, chunks


class TensorMemory:
    """The tensors of one case, within a budget.

    Args:
        sizes: bytes of each tensor, by name, as far as they are known.
        budget: bytes that the tensors of one evaluation may take at a time.
    """

    def __init__(self, sizes: Mapping[str, int], budget: int) -> None:
        self._sizes = sizes
        self._budget = budget
        self._kept: dict[Hashable, list[Mapping[str, np.ndarray]]] = {}

    def chunks(self, tensors: Sequence[str], *, copies: int) -> list[tuple[str, ...]]:
        """`tensors` in chunks of which `copies` of each tensor fit the budget together."""
        return list(chunks(tensors, self._sizes, self._budget // copies))

    def recall(
        self, key: Hashable, tensors: Sequence[str], compute: Callable[[], Computed], *, most: int
    ) -> Computed:
        """`tensors` of what is kept under `key`, or else what `compute` gives.

        That is kept in turn if none of it failed, and all that is kept has at most `most` bytes then.
        """
        for values in self._kept.get(key, ()):
            if all(name in values for name in tensors):
                return Computed({name: values[name] for name in tensors})
        found = compute()
        kept = (found.tensors, *chain.from_iterable(self._kept.values()))
        if not found.failures and sum(value.nbytes for each in kept for value in each.values()) <= most:
            self._kept.setdefault(key, []).append(found.tensors)
        return found

    def clear(self) -> None:
        """Free what is kept."""
        self._kept.clear()
