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
from harness.comparison import DEFAULT_GATES, compare
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


class _Reference:
    """What the reference says of the shapes of a case, found out once for all its runs."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.case = bench.case
        self.profiles = profiles_of(bench.case)
        self.batched = frozenset(
            info.name
            for info in bench.model.inputs
            if info.shape and not isinstance(info.shape[0], int) and bench.feeds[0][info.name].ndim
        )

    @cached_property
    def trials(self) -> tuple[_Trial, ...]:
        """The minimum, optimum and maximum of the profile, without the shape that the case has anyway."""
        own = {name: array.shape for name, array in self.bench.feeds[0].items()}
        found: dict[tuple[tuple[int, ...], ...], _Trial] = {}
        for place, which in enumerate((Which.MINIMUM, Which.OPTIMUM, Which.MAXIMUM)):
            shapes = {**own, **{name: ranges[place] for name, ranges in self.profiles.items()}}
            if shapes != own:
                found.setdefault(tuple(shapes.values()), self._trial(which, shapes))
        return tuple(found.values())

    def _trial(self, which: Which, shapes: Shapes) -> _Trial:
        profile = {name: shapes[name] for name in self.profiles}
        result = ShapeResult(which, profile)
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
        own = self.bench.feeds[0]
        specs = {}
        for name, shape in shapes.items():
            spec = self.case.inputs.get(name, InputSpec())
            fixed = bool(self.case.data) or isinstance(spec.fill, FileFill)
            if fixed and own[name].shape != shape:
                return None
            specs[name] = InputSpec(shape=shape, dtype=spec.dtype, fill=spec.fill)
        changes = {"inputs": specs, "samples": 1, "seed": self.case.seed + seed}
        case: Case = self.case.model_copy(update=changes)
        return make_feeds(case, self.bench.model.inputs, guess_fills(self.bench.model))[0]

    @property
    def batch(self) -> int:
        """The batch of the case."""
        return int(self.bench.feeds[0][min(self.batched)].shape[0]) if self.batched else 1

    def baked(self, batch: int) -> tuple[Baked, ...]:
        """The nodes into which `batch` is written."""
        return find_baked(self.bench.model, batch)

    def sized(self, feeds: Feeds, batch: int) -> Feeds:
        """`feeds` with their rows repeated or cut to `batch`."""
        return {
            name: np.ascontiguousarray(np.resize(array, (batch, *array.shape[1:])))
            if name in self.batched
            else array
            for name, array in feeds.items()
        }

    @cached_property
    def independent(self) -> tuple[Feeds, tuple[str, ...]]:
        """A batch of several rows, and the outputs of which each row depends on its own row of the inputs alone."""
        own = self.bench.feeds[0]
        batch = min(max(self.batch, 2), MOST_ROWS)
        low, high = self._limits
        if not self.batched or not low <= batch <= high or self.case.data:
            return {}, ()
        feeds = self.feeds({**{n: a.shape for n, a in own.items()}, **self._rows(own, batch)})
        other = self.feeds({**{n: a.shape for n, a in own.items()}, **self._rows(own, batch)}, seed=1)
        if feeds is None or other is None:
            return {}, ()
        moved = {name: array.copy() for name, array in feeds.items()}
        for name in self.batched:
            moved[name][0] = other[name][0]
        try:
            before, after = self.bench.itself.run(feeds), self.bench.itself.run(moved)
        except HarnessError:
            return feeds, ()
        return feeds, tuple(
            name
            for name, value in before.items()
            if value.ndim and value.shape[0] == batch == after[name].shape[0]
            if _error(after[name][1:], value[1:]) <= NOISE
        )

    def _rows(self, own: Feeds, batch: int) -> Shapes:
        return {name: (batch, *own[name].shape[1:]) for name in self.batched}

    @property
    def _limits(self) -> tuple[int, int]:
        """The smallest and the largest batch of the profile."""
        ranges = [ranges for name, ranges in self.profiles.items() if name in self.batched]
        low = max((each[0][0] for each in ranges), default=1)
        return low, min((each[2][0] for each in ranges), default=1 << 30)

    @cached_property
    def reference_rows(self) -> ShapeResult | None:
        """Whether the reference gives for a batch what it gives for its rows; None where rows are not independent."""
        feeds, outputs = self.independent
        if not feeds or self._limits[0] > 1:
            return None
        found = _against_rows(feeds, self.batched, outputs, self.bench.itself.run, NOISE)
        return replace(found, baked=(*self.baked(1), *self.baked(self.batch))) if found.fault else found

    @cached_property
    def batch_of_two(self) -> tuple[ShapeResult, ...]:
        """What another batch than that of the case gives on the reference, for a model without a profile."""
        own = self.bench.feeds[0]
        if not self.batched:
            return ()
        batch = 1 if self.batch > 1 else 2
        shapes = {**{name: array.shape for name, array in own.items()}, **self._rows(own, batch)}
        profile = {name: shapes[name] for name in sorted(self.batched)}
        feeds = self.sized(own, batch)
        try:
            self.bench.itself.run(feeds)
        except NodeFailedError as error:
            result = ShapeResult(Which.BATCH, profile, batch)
            return (result.refuse(error.failure, self.baked(self.batch)),)
        except HarnessError:
            return ()
        folded = self.folded
        return (folded,) if folded else ()

    @cached_property
    def folded(self) -> ShapeResult | None:
        """A batch that ends up in another axis: a Reshape to [1, -1] of what has more than one row."""
        if not self.batched:
            return None
        feeds = self.sized(self.bench.feeds[0], max(self.batch, 2))
        batch = next(iter(feeds[name].shape[0] for name in self.batched))
        for baked in find_baked(self.bench.model, 1):
            if baked.op != "Reshape" or -1 not in baked.constant[1:]:
                continue
            try:
                read = self.bench.itself.run(feeds, (baked.reads,))[baked.reads]
            except HarnessError:
                continue
            if read.ndim and read.shape[0] == batch:
                profile = {name: feeds[name].shape for name in sorted(self.batched)}
                return ShapeResult(Which.BATCH, profile, batch, ShapeFault.FOLDED, baked=(baked,))
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
    folded = looked.folded
    if folded is not None:
        yield folded
        return
    on_reference = looked.reference_rows
    if on_reference is None or on_reference.fault:
        yield from (on_reference,) if on_reference else ()
        return
    feeds, outputs = looked.independent

    def run(fed: Feeds) -> Mapping[str, np.ndarray]:
        return candidate.evaluate(plan, fed).tensors

    row = DEFAULT_GATES[judged_as]
    try:
        yield _against_rows(feeds, looked.batched, outputs, run, row.bound)
        yield _equal_rows(feeds, looked.batched, outputs, run, row.floor)
    except CandidateError as error:
        batch = feeds[min(looked.batched)].shape[0]
        yield ShapeResult(Which.BATCH, _batched(feeds, looked.batched), batch).refuse(error.message)


def _against_rows(
    feeds: Feeds, batched: frozenset[str], outputs: tuple[str, ...], run: Run, bound: float
) -> ShapeResult:
    batch = feeds[min(batched)].shape[0]
    result = ShapeResult(Which.BATCH, _batched(feeds, batched), batch)
    whole = run(feeds)
    for place in range(min(batch, MOST_ROWS)):
        row = {name: array[place : place + 1] if name in batched else array for name, array in feeds.items()}
        alone = run({name: np.ascontiguousarray(array) for name, array in row.items()})
        for name in outputs:
            if name not in whole or name not in alone:
                continue
            error = _error(whole[name][place : place + 1], alone[name])
            if not error <= bound:
                return replace(result, fault=ShapeFault.ROWS, tensor=name, row=place, error=error)
    return result


def _equal_rows(
    feeds: Feeds, batched: frozenset[str], outputs: tuple[str, ...], run: Run, floor: float
) -> ShapeResult:
    alike = {
        name: np.ascontiguousarray(np.broadcast_to(array[:1], array.shape)) if name in batched else array
        for name, array in feeds.items()
    }
    result = ShapeResult(Which.EQUAL_ROWS, _batched(feeds, batched), feeds[min(batched)].shape[0])
    found = run(alike)
    for name in outputs:
        if name in found:
            error = _error(found[name], np.broadcast_to(found[name][:1], found[name].shape))
            if not error <= floor:
                return replace(result, fault=ShapeFault.EQUAL_ROWS, tensor=name, error=error)
    return result


def _batched(feeds: Feeds, batched: frozenset[str]) -> Shapes:
    return {name: feeds[name].shape for name in sorted(batched)}


def _error(one: np.ndarray, other: np.ndarray) -> float:
    if one.shape != other.shape or one.dtype.kind not in "fiub":
        return float("inf") if one.shape != other.shape else 0.0
    if one.dtype.kind != "f":
        return 0.0 if np.array_equal(one, other) else float("inf")
    return compare(one, np.ascontiguousarray(other)).error
