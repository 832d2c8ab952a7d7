"""The work of a benchmark that judges models, here or on the workers of a dask scheduler (`--scheduler ADDRESS`).

Workers need this checkout: start them in its folder, with it on their path, as `PYTHONPATH=. dask worker ADDRESS
--nthreads 1`. What a benchmark times is not spread: workers that share a machine would disturb each other. Such a
benchmark says in its `--help` why it has no scheduler (`no_scheduler`).
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from harness.cluster import OnStage, Unit, open_cluster
from harness.environments import close_shared

T = TypeVar("T")
R = TypeVar("R")


def add_scheduler(parser: argparse.ArgumentParser) -> None:
    """Add the option `--scheduler`."""
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="run on the workers of this dask scheduler (docs/scale.md)"
    )


def no_scheduler(parser: argparse.ArgumentParser, why: str) -> None:
    """Say in the help why there is no option `--scheduler`."""
    parser.epilog = f"No --scheduler: {why}."


class Workers:
    """The desk of a call: workers of environments that it has shared with the calls before."""

    def close(self) -> None:
        """End them."""
        close_shared()


@dataclass(frozen=True)
class Call(Unit[Workers, R], Generic[T, R]):
    """A call of a function of a module with one argument; both can be pickled."""

    function: Callable[[T], R]
    given: T
    needs: tuple[str, ...] = ()

    @property
    def environments(self) -> tuple[str, ...]:
        """See Unit."""
        return self.needs

    @property
    def title(self) -> str:
        """See Unit."""
        return str(self.given)[:80]

    @property
    def subject(self) -> str:
        """See Unit: nothing is loaded for one call that the next one has no use for."""
        return "calls"

    @property
    def files(self) -> tuple[Path, ...]:
        """See Unit."""
        return ()

    @property
    def desk(self) -> Hashable:
        """See Unit."""
        return "calls"

    def open(self) -> Workers:
        """See Unit."""
        return Workers()

    def carry_out(self, desk: Workers, stage: OnStage) -> R:
        """See Unit."""
        return self.function(self.given)


def importable(function: Callable[..., R]) -> Callable[..., R]:
    """The function of a module, or a partial of one, as other processes can import it: not as that of `__main__`."""
    if isinstance(function, partial):
        return partial(importable(function.func), *function.args, **function.keywords)
    if function.__module__ != "__main__":
        return function
    spec = sys.modules["__main__"].__spec__
    assert spec is not None, "a benchmark is run by python -m"
    found: Callable[..., R] = getattr(importlib.import_module(spec.name), function.__name__)
    return found


def each_answer(
    function: Callable[[T], R],
    items: Sequence[T],
    scheduler: str | None = None,
    *,
    environments: Sequence[str] = (),
) -> Iterator[tuple[T, R]]:
    """Each of `items` with what `function` makes of it: here in their order, on workers as they come.

    Args:
        function: of a module, or a partial of one.
        items: what it is called with.
        scheduler: the address of the scheduler; None is this process.
        environments: what a worker must have in its harness.toml.

    Raises:
        SchedulerError: the scheduler or its workers cannot do it.
        UnitLostError: two workers died of one item.
    """
    if scheduler is None:
        yield from ((item, function(item)) for item in items)
        return
    with open_cluster(scheduler, environments=environments) as cluster:
        called = importable(function)
        waiting = {cluster.submit(Call(called, item, tuple(environments))): item for item in items}
        for future in as_completed(waiting):
            yield waiting[future], future.result()
