"""Everything about one case that does not depend on the candidate: model, inputs, reference, emulator."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from harness.backends import Emulator, Reference, check_feeds, chunks, tensor_sizes
from harness.case import Case, make_feeds, resolve_model
from harness.golden import GoldenStatus
from harness.judge.finite import check_finite
from harness.judge.goldens import check_golden, store_of
from harness.judge.own_roundings import OwnRoundings, find_overflows, look_at_own_roundings
from harness.judge.soundness import check_not_empty, check_reproducible
from harness.model import Model, load_model

Tensors = Mapping[str, np.ndarray]


class Workbench:
    """The parts of a case, made when first asked for and kept for its other runs.

    Args:
        case: the case.
        memory_budget: bytes that intermediate tensors of one evaluation may take at a time.
    """

    def __init__(self, case: Case, *, memory_budget: int) -> None:
        self.case = case
        self.memory_budget = memory_budget
        self._golden: tuple[GoldenStatus | None] | None = None

    @cached_property
    def model(self) -> Model:
        """The model of the case.

        Raises:
            ModelError: it cannot be had; see `resolve_model` and `load_model`.
        """
        return load_model(resolve_model(self.case), name=self.case.name)

    @cached_property
    def feeds(self) -> list[dict[str, np.ndarray]]:
        """The inputs, sample by sample.

        Raises:
            InputDataError: they do not fit the model.
        """
        feeds = make_feeds(self.case, self.model.inputs)
        for sample in feeds:
            check_feeds(self.model, sample)
        return feeds

    @cached_property
    def reference(self) -> Reference:
        """The FP32 reference."""
        return Reference(self.model)

    @cached_property
    def emulator(self) -> Emulator:
        """The emulator, shared by all precisions."""
        return Emulator(self.model)

    @cached_property
    def expected(self) -> list[dict[str, np.ndarray]]:
        """The reference's outputs, sample by sample.

        Raises:
            ReferenceNotFiniteError: an output is not finite, and not by intent; see `check_finite`.
            ReferenceNotReproducibleError: an output depends on random numbers.
            InputDataError: no output has an element.
        """
        outputs = []
        where = str(self.case.path or self.case.name)
        for feeds in self.feeds:
            values = self.reference.run(feeds)
            check_reproducible(self.model, self.reference, feeds, values, where)
            check_finite(
                self.model,
                self.reference,
                feeds,
                values,
                where,
                lambda names: self.tensor_chunks(names, copies=1),
                lambda tensor: next(
                    (str(each) for each in find_overflows(self) if each.tensor == tensor), None
                ),
            )
            outputs.append(values)
        check_not_empty(outputs, self.feeds, where)
        return outputs

    @cached_property
    def own_roundings(self) -> OwnRoundings:
        """What the roundings that the model brings itself do to it.

        Raises:
            UnsoundReferenceError: see `expected`.
        """
        return look_at_own_roundings(self)

    def golden(self, *, update: bool) -> GoldenStatus | None:
        """What the golden reference says of this one, asked once; see `check_golden`."""
        if self._golden is None:
            store = store_of(self.case, update=update)
            found = None
            if store is not None:
                sha256 = self.model.sha256
                found = check_golden(store, self.case, sha256, self.feeds, self.expected, update=update)
            self._golden = (found,)
        return self._golden[0]

    def tensor_chunks(self, tensors: Sequence[str], *, copies: int) -> list[tuple[str, ...]]:
        """`tensors` in chunks of which `copies` of each tensor fit the memory budget together."""
        return list(chunks(tensors, self._sizes, self.memory_budget // copies))

    def missing_packages(self) -> list[str]:
        """Packages that the case requires and that cannot be imported here."""
        return [
            name
            for name in self.case.required_packages
            if importlib.util.find_spec(name.split(".")[0]) is None
        ]

    def close(self) -> None:
        """Free the sessions."""
        for made in ("reference", "emulator"):
            if made in self.__dict__:
                getattr(self, made).close()

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return tensor_sizes(self.model, self.feeds[0])
