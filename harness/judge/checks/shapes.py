"""The other shapes that a model promises to take: the ends of its profile, and batches against their rows.

A batch of N must give what its N rows give one by one, where rows are independent. That is not guessed but tried on the
reference: one row of the inputs is replaced, and an output of which no other row changes is taken row by row. So a
LayerNorm over the batch, a sequence on the first axis or a sum over all rows raise no alarm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np

from harness.backends import Candidate, Computed, Plan, tensor_sizes
from harness.case import Case, FileFill, InputSpec, make_feeds
from harness.comparison import DEFAULT_GATES, compare_tensors
from harness.errors import CandidateError, HarnessError, NodeFailedError
from harness.judge.checks.baked import find_baked
from harness.judge.outputs import TensorGates
from harness.judge.results import Baked, ShapeFault, ShapeResult, Skipped, Which
from harness.judge.workbench import Workbench, profiles_of
from harness.model import guess_fills
from harness.tensors import Precision

Feeds = Mapping[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]
Run = Callable[[Feeds], Mapping[str, np.ndarray]]

MOST_ROWS = 4
"""Rows of a batch that are run one by one."""

NOISE = DEFAULT_GATES[Precision.FP32].floor
"""What the order of a sum may change of a row on the reference, as nrmse."""


def check_shapes(
    bench: Workbench, candidate: Candidate, plan: Plan, judged_as: Precision
) -> tuple[ShapeResult, ...]:
    """Run the shapes of the profile on the reference and the candidate, and batches against their rows.

    Without a profile only the reference is run, with another batch, where the first axis of an input is dynamic.

    Args:
        bench: the case.
        candidate: what is judged.
        plan: how it is evaluated.
        judged_as: the precision whose gates hold.
    """
    looked = _LOOKED.setdefault(bench, _Reference(bench))
    if not looked.profiles:
        return looked.batch_of_two
    found = []
    for trial in looked.trials:
        fault = trial.result if trial.expected is None else None
        found.append(fault or _on_candidate(bench, candidate, plan, judged_as, trial))
    found += _rows(looked, candidate, plan, judged_as) if not any(each.fault for each in found) else ()
    return tuple(found)


@dataclass(frozen=True)
class _Trial:
    """One shape on the reference. `expected` are its outputs; None where `result` says why there are none."""

    result: ShapeResult
    feeds: Feeds
    expected: Mapping[str, np.ndarray] | None


@dataclass(frozen=True)
class _Batch:
    """Inputs whose first axis is the batch, for those in `batched`."""

    feeds: Feeds
    batched: frozenset[str]

    @property
    def size(self) -> int:
        """How many rows it has."""
        return int(self.feeds[min(self.batched)].shape[0])

    def result(self, which: Which = Which.BATCH) -> ShapeResult:
        """What is said of it, as long as nothing is wrong."""
        return ShapeResult(which, {name: self.feeds[name].shape for name in sorted(self.batched)}, self.size)

    def taking(self, rows: Callable[[np.ndarray], np.ndarray]) -> _Batch:
        """The same with other rows."""
        feeds = {
            name: np.ascontiguousarray(rows(array)) if name in self.batched else array
            for name, array in self.feeds.items()
        }
        return replace(self, feeds=feeds)

    def sized(self, count: int) -> _Batch:
        """The same with its rows repeated or cut to `count`."""
        return self.taking(lambda array: np.resize(array, (count, *array.shape[1:])))


class _Reference:
    """What the reference says of the shapes of a case, found out once for all its runs."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.case = bench.case
        self.profiles = profiles_of(bench.case)
        batched = (
            info.name
            for info in bench.model.inputs
            if info.shape and not isinstance(info.shape[0], int) and bench.feeds[0][info.name].ndim
        )
        self.own = _Batch(bench.feeds[0], frozenset(batched))

    @cached_property
    def trials(self) -> tuple[_Trial, ...]:
        """The minimum, optimum and maximum of the profile, without the shape that the case has anyway."""
        own = {name: array.shape for name, array in self.own.feeds.items()}
        found: dict[tuple[tuple[int, ...], ...], _Trial] = {}
        for place, which in enumerate((Which.MINIMUM, Which.OPTIMUM, Which.MAXIMUM)):
            shapes = {**own, **{name: ranges[place] for name, ranges in self.profiles.items()}}
            if shapes != own:
                found.setdefault(tuple(shapes.values()), self._trial(which, shapes))
        return tuple(found.values())

    def _trial(self, which: Which, shapes: Shapes) -> _Trial:
        result = ShapeResult(which, {name: shapes[name] for name in self.profiles})
        try:
            feeds = self.feeds(shapes)
        except HarnessError as error:
            return _Trial(replace(result, skipped=Skipped.INPUTS, failure=error.message), {}, None)
        if feeds is None:
            return _Trial(replace(result, skipped=Skipped.FILES), {}, None)
        needs, budget = sum(tensor_sizes(self.bench.model, feeds).values()), self.bench.memory_budget
        if needs > budget:
            return _Trial(replace(result, skipped=Skipped.MEMORY, needs=needs, budget=budget), {}, None)
        try:
            return _Trial(result, feeds, self.bench.itself.run(feeds))
        except NodeFailedError as error:
            return _Trial(result.refuse(error.failure, self.baked(self.batch)), feeds, None)
        except HarnessError as error:
            return _Trial(result.refuse(error.message), feeds, None)

    def feeds(self, shapes: Shapes, *, seed: int = 0) -> dict[str, np.ndarray] | None:
        """Inputs of `shapes`; None where some come from files and have another one."""
        specs = {}
        for name, shape in shapes.items():
            spec = self.case.inputs.get(name, InputSpec())
            fixed = bool(self.case.data) or isinstance(spec.fill, FileFill)
            if fixed and self.own.feeds[name].shape != shape:
                return None
            specs[name] = InputSpec(shape=shape, dtype=spec.dtype, fill=spec.fill)
        changes = {"inputs": specs, "samples": 1, "seed": self.case.seed + seed}
        case: Case = self.case.model_copy(update=changes)
        return make_feeds(case, self.bench.model.inputs, guess_fills(self.bench.model))[0]

    @property
    def batch(self) -> int:
        """The batch of the case."""
        return self.own.size if self.own.batched else 1

    def baked(self, batch: int) -> tuple[Baked, ...]:
        """The nodes into which `batch` is written."""
        return find_baked(self.bench.model, batch)

    @cached_property
    def independent(self) -> tuple[_Batch, tuple[str, ...]] | None:
        """A batch of several rows, and the outputs of which each row depends on its own row of the inputs alone.

        None where the case has none to try it with.
        """
        count = min(max(self.batch, 2), MOST_ROWS)
        low, high = self._limits
        if not self.own.batched or not low <= count <= high or self.case.data:
            return None
        shapes = {name: array.shape for name, array in self.own.sized(count).feeds.items()}
        feeds, other = self.feeds(shapes), self.feeds(shapes, seed=1)
        if feeds is None or other is None:
            return None
        moved = {name: array.copy() for name, array in feeds.items()}
        for name in self.own.batched:
            moved[name][0] = other[name][0]
        batch = _Batch(feeds, self.own.batched)
        try:
            before, after = self.bench.itself.run(feeds), self.bench.itself.run(moved)
        except HarnessError:
            return batch, ()
        return batch, tuple(
            name
            for name, value in before.items()
            if value.ndim and value.shape[0] == count == after[name].shape[0]
            if _error(after[name][1:], value[1:]) <= NOISE
        )

    @property
    def _limits(self) -> tuple[int, int]:
        """The smallest and the largest batch of the profile."""
        ranges = [ranges for name, ranges in self.profiles.items() if name in self.own.batched]
        low = max((each[0][0] for each in ranges), default=1)
        return low, min((each[2][0] for each in ranges), default=1 << 30)

    @cached_property
    def reference_rows(self) -> ShapeResult | None:
        """Whether the reference gives for a batch what it gives for its rows; None where rows are not independent."""
        if self.independent is None or self._limits[0] > 1:
            return None
        found = _against_rows(*self.independent, self.bench.itself.run, NOISE)
        return replace(found, baked=(*self.baked(1), *self.baked(self.batch))) if found.fault else found

    @cached_property
    def batch_of_two(self) -> tuple[ShapeResult, ...]:
        """What another batch than that of the case gives on the reference, for a model without a profile."""
        if not self.own.batched:
            return ()
        other = self.own.sized(1 if self.batch > 1 else 2)
        try:
            self.bench.itself.run(other.feeds)
        except NodeFailedError as error:
            return (other.result().refuse(error.failure, self.baked(self.batch)),)
        except HarnessError:
            return ()
        return (self.folded,) if self.folded else ()

    @cached_property
    def folded(self) -> ShapeResult | None:
        """A batch that ends up in another axis: a Reshape to [1, -1] of what has more than one row."""
        if not self.own.batched:
            return None
        several = self.own.sized(max(self.batch, 2))
        for baked in self.baked(1):
            try:
                read = self.bench.itself.run(several.feeds, (baked.reads,))[baked.reads]
            except HarnessError:
                continue
            if read.ndim and read.shape[0] == several.size:
                return replace(several.result(), fault=ShapeFault.FOLDED, baked=(baked,))
        return None


_LOOKED: WeakKeyDictionary[Workbench, _Reference] = WeakKeyDictionary()


def _on_candidate(
    bench: Workbench, candidate: Candidate, plan: Plan, judged_as: Precision, trial: _Trial
) -> ShapeResult:
    """A shape of the profile on the candidate, by the gates of the run."""
    assert trial.expected is not None
    try:
        evaluation = candidate.evaluate(plan, trial.feeds)
    except CandidateError as error:
        return trial.result.refuse(error.message)
    absolute = candidate.name in ("emulator", "file")
    baseline = None if absolute else bench.beside_engine(judged_as).attempt(trial.feeds, judged_as)
    gates = TensorGates(bench.model, bench.case.tolerances, judged_as)
    computed = Computed(evaluation.tensors, evaluation.failures)
    flips = bench.with_feeds([trial.feeds]).flips(judged_as, 0)
    for output in gates.judge(0, trial.expected, computed, baseline, flips=flips):
        if not output.passed:
            return replace(trial.result, fault=ShapeFault.GATE, output=output)
    return trial.result


def _rows(
    looked: _Reference, candidate: Candidate, plan: Plan, judged_as: Precision
) -> Iterator[ShapeResult]:
    """A batch against its rows, on the reference and on the candidate, and a batch of equal rows."""
    on_reference = looked.folded or looked.reference_rows
    if on_reference is None or on_reference.fault:
        yield from (on_reference,) if on_reference else ()
        return
    assert looked.independent is not None
    batch, outputs = looked.independent

    def run(fed: Feeds) -> Mapping[str, np.ndarray]:
        return candidate.evaluate(plan, fed).tensors

    row = DEFAULT_GATES[judged_as]
    try:
        yield _against_rows(batch, outputs, run, row.bound)
        yield _equal_rows(batch, outputs, run, row.floor)
    except CandidateError as error:
        yield batch.result().refuse(error.message)


def _against_rows(batch: _Batch, outputs: tuple[str, ...], run: Run, bound: float) -> ShapeResult:
    whole = run(batch.feeds)
    for place in range(min(batch.size, MOST_ROWS)):
        alone = run(batch.taking(lambda array, place=place: array[place : place + 1]).feeds)  # type: ignore[misc]
        for name in outputs:
            if name in whole and name in alone:
                error = _error(whole[name][place : place + 1], alone[name])
                if not error <= bound:
                    wrong = batch.result()
                    return replace(wrong, fault=ShapeFault.ROWS, tensor=name, row=place, error=error)
    return batch.result()


def _equal_rows(batch: _Batch, outputs: tuple[str, ...], run: Run, floor: float) -> ShapeResult:
    found = run(batch.taking(lambda array: np.broadcast_to(array[:1], array.shape)).feeds)
    result = batch.result(Which.EQUAL_ROWS)
    for name in outputs:
        if name in found:
            error = _error(found[name], np.broadcast_to(found[name][:1], found[name].shape))
            if not error <= floor:
                return replace(result, fault=ShapeFault.EQUAL_ROWS, tensor=name, error=error)
    return result


def _error(one: np.ndarray, other: np.ndarray) -> float:
    if one.shape != other.shape or one.dtype.kind not in "fiub":
        return float("inf") if one.shape != other.shape else 0.0
    if one.dtype.kind != "f":
        return 0.0 if np.array_equal(one, other) else float("inf")
    return compare_tensors(one, np.ascontiguousarray(other)).error
