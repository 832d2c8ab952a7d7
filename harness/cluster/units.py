"""A unit of work, and the desk that it is done at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

from harness.case import Case

OnStage = Callable[[str], None]
"""Is called with what goes on."""


class Desk(Protocol):
    """What units of a kind need open: sessions, engines, workers of environments."""

    def close(self) -> None:
        """Free what is open."""


D = TypeVar("D", bound=Desk)
R = TypeVar("R")


class Unit(ABC, Generic[D, R]):
    """A piece of work that any process can do; a frozen dataclass that can be pickled, as its result can."""

    @property
    def environments(self) -> tuple[str, ...]:
        """The environments that whoever carries it out must have in its harness.toml."""
        return ()

    @property
    def on_gpu(self) -> bool:
        """Whether it takes a GPU, where workers count theirs."""
        return False

    @property
    @abstractmethod
    def title(self) -> str:
        """What messages call it."""

    @property
    @abstractmethod
    def subject(self) -> str:
        """What is loaded for it: units of one subject go to the same worker where that keeps none waiting."""

    @property
    @abstractmethod
    def files(self) -> tuple[Path, ...]:
        """The files that it reads, which must be found under the same path everywhere."""

    @property
    @abstractmethod
    def desk(self) -> Hashable:
        """What its desk depends on: units that have it in common share the desk."""

    def given(self, result: R) -> Self:
        """This unit with the result of another, for kinds of units that are submitted with one."""
        raise NotImplementedError(f"{type(self).__name__} takes no result of another unit")

    @abstractmethod
    def open(self) -> D:
        """A desk for it and for units like it."""

    @abstractmethod
    def carry_out(self, desk: D, stage: OnStage) -> R:
        """Do the work; `stage` is called with what goes on."""


class CaseUnit(Unit[D, R]):
    """A unit of one case: cases are what is loaded, and what is read from files."""

    case: Case

    @property
    def subject(self) -> str:
        """See Unit."""
        return self.case.name

    @property
    def files(self) -> tuple[Path, ...]:
        """See Unit."""
        return files_of(self.case)


def files_of(case: Case) -> tuple[Path, ...]:
    """The files that a case is read from, as far as it names them itself."""
    own = [case.path] if case.path is not None else []
    return (*own, *([case.resolve(case.model.path)] if case.model.path is not None else []))
