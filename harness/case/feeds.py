"""The data that a case feeds to its model: seeded or read from files, and checked against its inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
    _check_size(case, inputs, wanted, recorded[0][1] if recorded else {})
    return [_sample(case, inputs, sample, recorded, fills or {}) for sample in range(wanted)]


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
    case: Case, inputs: Sequence[TensorLike], samples: int, recorded: Mapping[str, np.ndarray]
) -> None:
    """Refuse generated data that cannot be held, before any of it is made."""
    nbytes = 0
    for info in inputs:
        spec = case.inputs.get(info.name, InputSpec())
        if info.name not in recorded and not isinstance(spec.fill, FileFill):
            nbytes += _dtype(case, info, spec).itemsize * math.prod(_shape(case, info, spec))
    if nbytes * samples > memory_limit() * SHARE_OF_INPUTS:
        of_samples = f" of {samples:,} samples" if samples > 1 else ""
        raise InputDataError(
            f"the inputs{of_samples} would take {size(nbytes * samples)}, more than "
            f"{percent(SHARE_OF_INPUTS)} of the {size(memory_limit())} that this machine has",
            where=_where(case),
            hint="make the inputs smaller, or ask for fewer samples",
        )


def _sample(
    case: Case,
    inputs: Sequence[TensorLike],
    sample: int,
    recorded: Recorded,
    fills: Mapping[str, DrawnFill],
) -> dict[str, np.ndarray]:
    symbols: dict[str, tuple[int, str]] = {}
    feed = {}
    for info in inputs:
        spec = case.inputs.get(info.name, InputSpec())
        dtype = _dtype(case, info, spec)
        if recorded and (info.name in recorded[sample][1] or spec.fill is None):
            path, held = recorded[sample]
            array = _fitting(info, _held(info, path, held), path, dtype)
            _check_file_shape(case, info, spec, array.shape, path)
        elif isinstance(spec.fill, FileFill):
            array = _from_file(case, info, spec.fill, sample, dtype)
            _check_file_shape(case, info, spec, array.shape, case.resolve(_file_of(spec.fill, sample)))
        else:
            fill = spec.fill or fills.get(info.name) or default_fill(dtype)
            array = _generate(case, info, spec, fill, sample, dtype)
        _check_range(case, info, spec, array.shape)
        _check_symbols(case, info, array.shape, symbols)
        feed[info.name] = np.ascontiguousarray(array).reshape(array.shape)  # keeps a scalar a scalar
    return feed


def _dtype(case: Case, info: TensorLike, spec: InputSpec) -> np.dtype:
    if spec.dtype is not None and spec.dtype != info.dtype:
        raise _wrong(case, info, f"the model wants dtype {info.dtype}, the case says {spec.dtype}")
    try:
        return dtype_of(info.dtype)
    except InputDataError as error:
        message = (
            f"inputs of dtype {info.dtype} cannot be fed: engines of TensorRT have tensors of numbers alone"
        )
        raise _wrong(case, info, message, hint="let the model begin behind what reads it") from error


# Shapes


def _shape(case: Case, info: TensorLike, spec: InputSpec) -> Shape:
    shape = spec.concrete_shape
    if shape is not None:
        if difference := _mismatch(info, shape):
            giver = "the case" if case.path is not None or case.model.path is None else "--input"
            raise _wrong(case, info, f"{giver} gives {difference}")
        return shape
    if info.shape is None:
        raise _wrong(case, info, "its rank is unknown", hint=_how_to_give_a_shape(case, info))
    open_axes = [
        f"{axis} ({dim})" if isinstance(dim, str) else f"{axis}"
        for axis, dim in enumerate(info.shape)
        if not isinstance(dim, int)
    ]
    if open_axes:
        plural, verb = ("axes", "are") if len(open_axes) > 1 else ("axis", "is")
        raise _wrong(
            case,
            info,
            f"{plural} {', '.join(open_axes)} of {_spell(info.shape)} {verb} dynamic",
            hint=_how_to_give_a_shape(case, info),
        )
    return tuple(dim for dim in info.shape if isinstance(dim, int))


def _mismatch(info: TensorLike, shape: Shape) -> str | None:
    """How `shape` and the shape that the model wants differ; None if they do not."""
    if info.shape is None:
        return None
    if len(shape) != len(info.shape):
        wanted = f"rank {len(info.shape)}, shape {_spell(info.shape)}"
        return f"rank {len(shape)}, shape {_spell(shape)}; the model wants {wanted}"
    for axis, (given, dim) in enumerate(zip(shape, info.shape, strict=True)):
        if isinstance(dim, int) and given != dim:
            return f"shape {_spell(shape)}; the model wants {_spell(info.shape)}, axis {axis} differs"
    return None


def _check_file_shape(case: Case, info: TensorLike, spec: InputSpec, shape: Shape, path: Path) -> None:
    difference = _mismatch(info, shape)
    if difference is None and spec.shape is not None and shape != spec.shape:
        difference = f"shape {_spell(shape)}; the case wants {_spell(spec.shape)}"
    if difference is not None:
        raise InputDataError(f"input {info.name!r}: the file holds {difference}", where=path)


def _check_range(case: Case, info: TensorLike, spec: InputSpec, shape: Shape) -> None:
    if spec.min is None or spec.max is None:
        return
    inside = len(shape) == len(spec.min) and all(
        low <= dim <= high for low, dim, high in zip(spec.min, shape, spec.max, strict=True)
    )
    if not inside:
        limits = f"`min` {_spell(spec.min)} to `max` {_spell(spec.max)}"
        raise _wrong(case, info, f"shape {_spell(shape)} lies outside of {limits}")


def _check_symbols(case: Case, info: TensorLike, shape: Shape, symbols: dict[str, tuple[int, str]]) -> None:
    """Two inputs that share a named axis must agree on its length."""
    for given, symbol in zip(shape, info.shape or (), strict=False):
        if not isinstance(symbol, str) or not symbol:
            continue
        length, other = symbols.setdefault(symbol, (given, info.name))
        if length != given:
            raise _wrong(
                case, info, f"axis {symbol!r} has length {given}, in input {other!r} it has {length}"
            )


# Values


def _from_file(case: Case, info: TensorLike, fill: FileFill, sample: int, dtype: np.dtype) -> np.ndarray:
    path = case.resolve(_file_of(fill, sample))
    try:
        array = read_array(path, key=fill.key, name=info.name)
    except InputDataError as error:
        raise InputDataError(f"input {info.name!r}: {error.message}", where=path, hint=error.hint) from error
    return _fitting(info, array, path, dtype)


def _held(info: TensorLike, path: Path, held: Mapping[str, np.ndarray]) -> np.ndarray:
    if info.name in held:
        return held[info.name]
    near = suggestion(info.name, held) or f"it holds {', '.join(held) or 'nothing'}"
    raise InputDataError(f"no data for input {info.name!r}", where=path, hint=near)


def _fitting(info: TensorLike, array: np.ndarray, path: Path, dtype: np.dtype) -> np.ndarray:
    if array.dtype != dtype:
        raise InputDataError(
            f"input {info.name!r}: the file holds dtype {array.dtype.name}, the model wants {dtype.name}",
            where=path,
            hint="convert the file: data are never cast silently",
        )
    return array


def _file_of(fill: FileFill, sample: int) -> str:
    return fill.path[0] if len(fill.path) == 1 else fill.path[sample]


def _generate(
    case: Case, info: TensorLike, spec: InputSpec, fill: DrawnFill, sample: int, dtype: np.dtype
) -> np.ndarray:
    shape = _shape(case, info, spec)
    random = generator(case.seed, sample, info.name)
    try:
        return generate(fill, shape, dtype, random)
    except InputDataError as error:
        raise _wrong(case, info, error.message, hint=error.hint) from None


def _wrong(case: Case, info: TensorLike, message: str, *, hint: str | None = None) -> InputDataError:
    return InputDataError(f"input {info.name!r}: {message}", where=_where(case), hint=hint)


def _how_to_give_a_shape(case: Case, info: TensorLike) -> str:
    if case.path is not None:
        return f"give `inputs.{info.name}.shape` in the case"
    axes = ["1" if not isinstance(dim, int) else str(dim) for dim in info.shape or (1, 3, 224, 224)]
    return f"give a shape, such as --input '{info.name}:[{','.join(axes)}]'"


def _where(case: Case) -> str:
    return str(case.path or case.name)


def _spell(shape: Sequence[int | str | None]) -> str:
    return f"[{', '.join('?' if dim is None else str(dim) for dim in shape)}]"
