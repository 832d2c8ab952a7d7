"""The data that a case feeds to its model: seeded or read from files, and checked against its inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from harness.case.arrays import read_array, read_samples
from harness.case.fills import DrawnFill, default_fill, generate, generator
from harness.case.inputs import FileFill, InputSpec, Shape
from harness.case.schema import Case
from harness.errors import InputDataError
from harness.tensors import dtype_of, memory_limit
from harness.text import percent, plural, size, suggestion

SHARE_OF_INPUTS = 0.25
"""Of the memory: the rest is for the tensors of the reference and of the candidate."""


class TensorLike(Protocol):
    """An input of a model, as `harness.model.TensorInfo` describes it; a shape of None has no known rank."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def dtype(self) -> str: ...  # noqa: D102
    @property
    def shape(self) -> tuple[int | str | None, ...] | None: ...  # noqa: D102


def make_feeds(
    case: Case, inputs: Sequence[TensorLike], fills: Mapping[str, DrawnFill] | None = None
) -> list[dict[str, np.ndarray]]:
    """The data for every sample of `case`: one array an input, in its dtype, C-contiguous.

    Each array depends on the seed, the number of the sample, the name of the input and its own description
    only: adding an input or a sample changes none of the others.

    Args:
        case: describes the inputs.
        inputs: the inputs of its model.
        fills: by input, what fills it where the case does not say.

    Raises:
        InputDataError: the case names an input that the model lacks, leaves a dynamic axis open, or gives
            data that do not fit: the input, and the file if there is one, are named.
    """
    check_input_names(case, inputs)
    recorded = _recorded(case, inputs)
    if case.samples is not None and 0 < len(recorded) < case.samples:
        raise InputDataError(
            f"{plural(case.samples, 'sample')} asked for, and the data hold {len(recorded)}",
            where=_where(case),
            hint="ask for fewer, or leave `samples` out",
        )
    wanted = case.samples or len(recorded) or 1
    described = [_Input(case, info) for info in inputs]
    _check_size(case, described, wanted, recorded[0][1] if recorded else {})
    return [_sample(described, sample, recorded, fills or {}) for sample in range(wanted)]


def check_input_names(case: Case, inputs: Sequence[TensorLike]) -> None:
    """Check that the inputs which a case describes are the model's.

    Raises:
        InputDataError: the model lacks one.
    """
    known = {info.name: info for info in inputs}
    for name in case.inputs:
        if name not in known:
            raise InputDataError(
                f"the model has no input {name!r}",
                where=_where(case),
                hint=suggestion(name, known) or f"its inputs are {', '.join(known) or 'none'}",
            )


Recorded = Sequence[tuple[Path, Mapping[str, np.ndarray]]]


def _recorded(case: Case, inputs: Sequence[TensorLike]) -> Recorded:
    """What the files of `data` hold, sample by sample, with the file that each comes from."""
    return [
        (path, sample)
        for path in map(case.resolve, case.data)
        for held in read_samples(path)
        for sample in _apart(held, inputs)
    ]


def _apart(held: Mapping[str, np.ndarray], inputs: Sequence[TensorLike]) -> list[Mapping[str, np.ndarray]]:
    """The samples that lie behind each other on an axis of their own, in front of those of the model."""
    fed = {info.name: info for info in inputs if info.name in held}
    ranks = {None if info.shape is None else held[name].ndim - len(info.shape) for name, info in fed.items()}
    lengths = {held[name].shape[:1] for name in fed}
    if ranks == {0}:
        return _batches(held, fed)
    if ranks != {1} or len(lengths) != 1:
        return [held]
    return [{name: held[name][place] for name in fed} for place in range(lengths.pop()[0])]


def _batches(held: Mapping[str, np.ndarray], fed: Mapping[str, TensorLike]) -> list[Mapping[str, np.ndarray]]:
    """The samples of a model with a fixed batch that lie behind each other on the axis of its batch."""
    sizes = {name: info.shape[0] for name, info in fed.items() if info.shape}
    if len(sizes) != len(held) or not all(isinstance(size, int) and size for size in sizes.values()):
        return [held]
    counts = {divmod(len(held[name]), int(size or 1)) for name, size in sizes.items()}
    count, rest = counts.pop()
    if counts or rest or count < 2:
        return [held]
    parts = {name: np.split(held[name], count) for name in sizes}
    return [{name: parts[name][place] for name in sizes} for place in range(count)]


def _check_size(
    case: Case, inputs: Sequence[_Input], samples: int, recorded: Mapping[str, np.ndarray]
) -> None:
    """Refuse generated data that cannot be held, before any of it is made."""
    nbytes = 0
    for each in inputs:
        if each.name not in recorded and not isinstance(each.spec.fill, FileFill):
            nbytes += each.dtype.itemsize * math.prod(each.shape)
    if nbytes * samples > memory_limit() * SHARE_OF_INPUTS:
        of_samples = f" of {samples:,} samples" if samples > 1 else ""
        raise InputDataError(
            f"the inputs{of_samples} would take {size(nbytes * samples)}, more than "
            f"{percent(SHARE_OF_INPUTS)} of the {size(memory_limit())} that this machine has",
            where=_where(case),
            hint="make the inputs smaller, or ask for fewer samples",
        )


def _sample(
    inputs: Sequence[_Input], sample: int, recorded: Recorded, fills: Mapping[str, DrawnFill]
) -> dict[str, np.ndarray]:
    symbols: dict[str, tuple[int, str]] = {}
    feed = {}
    for each in inputs:
        fill = each.spec.fill
        if recorded and (each.name in recorded[sample][1] or fill is None):
            array = each.recorded(*recorded[sample])
        elif isinstance(fill, FileFill):
            array = each.from_file(fill, sample)
        else:
            array = each.generated(fill or fills.get(each.name) or default_fill(each.dtype), sample)
        each.check_range(array.shape)
        each.check_symbols(array.shape, symbols)
        feed[each.name] = np.ascontiguousarray(array).reshape(array.shape)  # keeps a scalar a scalar
    return feed


@dataclass(frozen=True)
class _Input:
    """An input of the model, and what the case says of it."""

    case: Case
    info: TensorLike

    @property
    def name(self) -> str:
        return self.info.name

    @cached_property
    def spec(self) -> InputSpec:
        return self.case.inputs.get(self.name, InputSpec())

    @cached_property
    def dtype(self) -> np.dtype:
        wanted = self.info.dtype
        if self.spec.dtype is not None and self.spec.dtype != wanted:
            raise self.wrong(f"the model wants dtype {wanted}, the case says {self.spec.dtype}")
        try:
            return dtype_of(wanted)
        except InputDataError as error:
            message = (
                f"inputs of dtype {wanted} cannot be fed: engines of TensorRT have tensors of numbers alone"
            )
            raise self.wrong(message, hint="let the model begin behind what reads it") from error

    @cached_property
    def shape(self) -> Shape:
        """The shape of data that are generated."""
        shape, wanted = self.spec.concrete_shape, self.info.shape
        if shape is not None:
            if difference := self.mismatch(shape):
                giver = (
                    "the case" if self.case.path is not None or self.case.model.path is None else "--input"
                )
                raise self.wrong(f"{giver} gives {difference}")
            return shape
        if wanted is None:
            raise self.wrong("its rank is unknown", hint=self.how_to_give_a_shape())
        open_axes = [
            f"{axis} ({dim})" if isinstance(dim, str) else f"{axis}"
            for axis, dim in enumerate(wanted)
            if not isinstance(dim, int)
        ]
        if open_axes:
            plural, verb = ("axes", "are") if len(open_axes) > 1 else ("axis", "is")
            message = f"{plural} {', '.join(open_axes)} of {_spell(wanted)} {verb} dynamic"
            raise self.wrong(message, hint=self.how_to_give_a_shape())
        return tuple(dim for dim in wanted if isinstance(dim, int))

    def recorded(self, path: Path, held: Mapping[str, np.ndarray]) -> np.ndarray:
        if self.name not in held:
            near = suggestion(self.name, held) or f"it holds {', '.join(held) or 'nothing'}"
            raise InputDataError(f"no data for input {self.name!r}", where=path, hint=near)
        return self.fitting(held[self.name], path)

    def from_file(self, fill: FileFill, sample: int) -> np.ndarray:
        path = self.case.resolve(fill.path[0] if len(fill.path) == 1 else fill.path[sample])
        try:
            array = read_array(path, key=fill.key, name=self.name)
        except InputDataError as error:
            message = f"input {self.name!r}: {error.message}"
            raise InputDataError(message, where=path, hint=error.hint) from error
        return self.fitting(array, path)

    def generated(self, fill: DrawnFill, sample: int) -> np.ndarray:
        shape, dtype = self.shape, self.dtype
        try:
            return generate(fill, shape, dtype, generator(self.case.seed, sample, self.name))
        except InputDataError as error:
            raise self.wrong(error.message, hint=error.hint) from None

    def fitting(self, array: np.ndarray, path: Path) -> np.ndarray:
        """`array`, which a file holds, if it has the dtype and the shape that are wanted."""
        if array.dtype != self.dtype:
            raise InputDataError(
                f"input {self.name!r}: the file holds dtype {array.dtype.name}, the model wants {self.dtype.name}",
                where=path,
                hint="convert the file: data are never cast silently",
            )
        difference, wanted = self.mismatch(array.shape), self.spec.shape
        if difference is None and wanted is not None and array.shape != wanted:
            difference = f"shape {_spell(array.shape)}; the case wants {_spell(wanted)}"
        if difference is not None:
            raise InputDataError(f"input {self.name!r}: the file holds {difference}", where=path)
        return array

    def mismatch(self, shape: Shape) -> str | None:
        """How `shape` and the shape that the model wants differ; None if they do not."""
        wanted = self.info.shape
        if wanted is None:
            return None
        if len(shape) != len(wanted):
            of_model = f"rank {len(wanted)}, shape {_spell(wanted)}"
            return f"rank {len(shape)}, shape {_spell(shape)}; the model wants {of_model}"
        for axis, (given, dim) in enumerate(zip(shape, wanted, strict=True)):
            if isinstance(dim, int) and given != dim:
                return f"shape {_spell(shape)}; the model wants {_spell(wanted)}, axis {axis} differs"
        return None

    def check_range(self, shape: Shape) -> None:
        low, high = self.spec.min, self.spec.max
        if low is None or high is None:
            return
        bounds = zip(low, shape, high, strict=False)
        if len(shape) != len(low) or not all(least <= dim <= most for least, dim, most in bounds):
            limits = f"`min` {_spell(low)} to `max` {_spell(high)}"
            raise self.wrong(f"shape {_spell(shape)} lies outside of {limits}")

    def check_symbols(self, shape: Shape, symbols: dict[str, tuple[int, str]]) -> None:
        """Two inputs that share a named axis must agree on its length."""
        for given, symbol in zip(shape, self.info.shape or (), strict=False):
            if not isinstance(symbol, str) or not symbol:
                continue
            length, other = symbols.setdefault(symbol, (given, self.name))
            if length != given:
                raise self.wrong(f"axis {symbol!r} has length {given}, in input {other!r} it has {length}")

    def wrong(self, message: str, *, hint: str | None = None) -> InputDataError:
        return InputDataError(f"input {self.name!r}: {message}", where=_where(self.case), hint=hint)

    def how_to_give_a_shape(self) -> str:
        if self.case.path is not None:
            return f"give `inputs.{self.name}.shape` in the case"
        axes = [str(dim) if isinstance(dim, int) else "1" for dim in self.info.shape or (1, 3, 224, 224)]
        return f"give a shape, such as --input '{self.name}:[{','.join(axes)}]'"


def _where(case: Case) -> str:
    return str(case.path or case.name)


def _spell(shape: Sequence[int | str | None]) -> str:
    return f"[{', '.join('?' if dim is None else str(dim) for dim in shape)}]"
