"""Everything about one case that does not depend on the candidate: model, inputs, reference, emulator."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar, overload

import numpy as np

from harness.backends import Emulator, Reference, check_feeds, chunks, tensor_sizes
from harness.case import CASE_SUFFIX, Case, make_feeds, resolve_model
from harness.errors import GoldenError, HarnessError
from harness.golden import GoldenStatus, GoldenStore, Provenance
from harness.judge.own_roundings import OwnRoundings, find_overflows, look_at_own_roundings
from harness.judge.reference import check_finite, check_not_empty, check_reproducible
from harness.model import Model, load_model
from harness.tensors import Precision

CASES_FOLDER = "cases"
T = TypeVar("T")


class _Prepared(cached_property[T]):
    """A cached property that is tried once: where making it fails, it raises the same error again."""

    @overload
    def __get__(self, bench: None, owner: type[Any] | None = None) -> Self: ...
    @overload
    def __get__(self, bench: object, owner: type[Any] | None = None) -> T: ...
    def __get__(self, bench: Any, owner: type[Any] | None = None) -> Any:
        if bench is None or self.attrname not in bench.failures:
            try:
                return super().__get__(bench, owner)
            except HarnessError as error:
                bench.failures[self.attrname] = error
                raise
        raise bench.failures[self.attrname].with_traceback(None)


class Workbench:
    """The parts of a case, made when first needed and kept for its other runs.

    Args:
        case: the case.
        memory_budget: bytes that intermediate tensors of one evaluation may take at a time.

    Attributes:
        failures: by attribute, why a part of the case cannot be had: no run of it can be judged.
    """

    def __init__(self, case: Case, *, memory_budget: int) -> None:
        self.case = case
        self.memory_budget = memory_budget
        self.failures: dict[str, HarnessError] = {}
        self._golden: tuple[GoldenStatus | None] | None = None

    @property
    def where(self) -> str:
        """The case, for messages."""
        return str(self.case.path or self.case.name)

    @_Prepared
    def model(self) -> Model:
        """The model of the case.

        Raises:
            ModelError: it cannot be had; see `resolve_model` and `load_model`.
        """
        return load_model(resolve_model(self.case), name=self.case.name)

    @_Prepared
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
    def _as_kernels(self) -> Emulator:
        return Emulator(self.model, as_kernels=True)

    def beside_engine(self, precision: Precision) -> Emulator:
        """The emulator that an engine is compared with: its TF32 is that of measured kernels."""
        return self._as_kernels if precision is Precision.TF32 else self.emulator

    @_Prepared
    def expected(self) -> list[dict[str, np.ndarray]]:
        """The reference's outputs, sample by sample.

        Raises:
            ReferenceNotFiniteError: an output is not finite, and not by intent; see `check_finite`.
            ReferenceNotReproducibleError: an output depends on random numbers.
            InputDataError: no output has an element.
        """

        def own(tensor: str) -> str | None:
            return next((str(each) for each in find_overflows(self) if each.tensor == tensor), None)

        outputs = []
        for feeds in self.feeds:
            values = self.reference.run(feeds)
            check_reproducible(self, feeds, values)
            check_finite(self, feeds, values, own)
            outputs.append(values)
        check_not_empty(outputs, self.feeds, self.where)
        return outputs

    @cached_property
    def own_roundings(self) -> OwnRoundings:
        """What the roundings that the model brings itself do to it.

        Raises:
            UnsoundReferenceError: see `expected`.
        """
        return look_at_own_roundings(self)

    def golden(self, *, update: bool) -> GoldenStatus | None:
        """What the golden reference says of this one before any rewriting; None where no golden references are kept.

        Args:
            update: rewrite it where it is missing or differs.

        Raises:
            GoldenError: the golden reference is damaged, or update is given while CI is set.
        """
        if self._golden is None:
            root, found = golden_root(self.case), None
            if root is not None and (update or root.is_dir()):
                store = GoldenStore(root)
                provenance = Provenance.here(self.model.sha256, self.feeds)
                try:
                    found = (store.update if update else store.check)(
                        self.case.name, provenance, self.expected
                    )
                except GoldenError as error:
                    self.failures["golden"] = error
                    raise
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
        for made in ("reference", "emulator", "_as_kernels"):
            if made in self.__dict__:
                getattr(self, made).close()

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return tensor_sizes(self.model, self.feeds[0])


def golden_root(case: Case) -> Path | None:
    """Where the golden references of a case lie: `golden/` beside its folder if that is `cases/`, else inside it.

    None for a case made in memory.
    """
    if case.path is None:
        return None
    folder = case.path.resolve().parent
    return (folder.parent if folder.name == CASES_FOLDER else folder) / "golden"


def prune_goldens(cases: Iterable[Case]) -> list[Path]:
    """Remove the golden references that no case file of the folders of `cases` has, and return their folders.

    Raises:
        GoldenError: CI is set.
    """
    known: dict[Path, set[str]] = {}
    for case in cases:
        root = golden_root(case)
        if root is not None and case.path is not None and root.is_dir():
            files = case.path.parent.glob(f"**/*{CASE_SUFFIX}")
            known.setdefault(root, set()).update(file.name.removesuffix(CASE_SUFFIX) for file in files)
    return [root / name for root, names in sorted(known.items()) for name in GoldenStore(root).prune(names)]
