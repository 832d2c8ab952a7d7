"""Tolerances: limits on metrics, which tensors a rule is for, and how rules are merged."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from types import EllipsisType
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from harness.case.scalars import Frozen, Int, Text, examples, mistake, one_or_list
from harness.tensors import Precision

NonNegative = Annotated[float, Field(strict=True, ge=0)]
Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]
Globs = Annotated[tuple[Text, ...], one_or_list(Text)]


_NUMBER = r"\s*(-?\d+)?\s*"
_PLACE = re.compile(rf"\s*(?P<index>-?\d+)\s*|{_NUMBER}:{_NUMBER}(?::{_NUMBER})?|\s*\.\.\.\s*")


def parse_slice(text: str) -> tuple[int | slice | EllipsisType, ...]:
    """`[:, 4:, 0]` as what indexes an array; also without brackets.

    Raises:
        ValueError: it is not a slice.
    """
    places: list[int | slice | EllipsisType] = []
    for each in text.strip().removeprefix("[").removesuffix("]").split(","):
        found = _PLACE.fullmatch(each)
        if found is None:
            raise ValueError(f"{each.strip()!r} is not a slice of an axis; write `[:, 4:, :]`, or `[..., 0]`")
        if found["index"] is not None:
            places.append(int(found["index"]))
        elif ":" not in each:
            places.append(...)
        else:
            bounds = found.group(2, 3, 4)
            places.append(slice(*(None if bound is None else int(bound) for bound in bounds)))
    return tuple(places)


def _checked_slice(text: str) -> str:
    try:
        parse_slice(text)
    except ValueError as error:
        raise mistake(str(error)) from error
    return text


class Relative(Frozen):
    """rmse(candidate) ≤ `factor` · rmse(emulator at the same precision) + `floor`."""

    factor: NonNegative
    """How many times the emulator's error is accepted."""
    floor: NonNegative = 0.0
    """What is accepted besides."""


class MetricLimits(Frozen):
    """Limits on metrics. Upper limits, but for cosine, sqnr_db, psnr_db and topk_agreement, which are lower limits."""

    max_abs: NonNegative | None = None
    """Largest absolute error."""
    mean_abs: NonNegative | None = None
    """Mean absolute error."""
    max_rel: NonNegative | None = None
    """Largest relative error."""
    rmse: NonNegative | None = None
    """Root of the mean squared error."""
    nrmse: NonNegative | None = None
    """rmse over the root mean square of the reference."""
    slice_nrmse: NonNegative | None = None
    """nrmse of the worst slice (one index of one axis); by default the limit on nrmse."""
    cosine: Annotated[float, Field(strict=True, ge=-1, le=1)] | None = None
    """Smallest cosine similarity. Blind to a common factor: never use it alone."""
    sqnr_db: Annotated[float, Field(strict=True)] | None = None
    """Smallest signal-to-quantisation-noise ratio, in dB."""
    psnr_db: Annotated[float, Field(strict=True)] | None = None
    """Smallest peak-signal-to-noise ratio, in dB: for images."""
    abs_quantile: NonNegative | None = None
    """Largest value of a quantile of the absolute error."""
    quantile: Annotated[float, Field(strict=True, gt=0, le=1)] | None = None
    """Which quantile `abs_quantile` limits; 0.99 by default."""
    max_ulp: NonNegative | None = None
    """Largest distance in units in the last place of the candidate's dtype."""
    p99_ulp: NonNegative | None = None
    """99th percentile of that distance."""
    mismatch_fraction: Fraction | None = None
    """Fraction of elements with |error| > atol + rtol · |reference|; 0 if only `atol` or `rtol` is given."""
    atol: NonNegative | None = None
    """Absolute part of the tolerance of `mismatch_fraction`."""
    rtol: NonNegative | None = None
    """Relative part of the tolerance of `mismatch_fraction`."""
    topk_agreement: Fraction | None = None
    """Smallest fraction of rows whose k largest elements agree; 1 if only `topk` is given."""
    topk: Annotated[Int, Field(ge=1)] | None = None
    """The k of `topk_agreement`; 1 by default."""
    relative: Relative | None = None
    """A limit relative to the error of the emulator at the same precision."""

    def gates(self) -> dict[str, float]:
        """Limit by metric name, the implied ones included; `relative` is not among them."""
        found = {name: getattr(self, name) for name in _GATED if getattr(self, name) is not None}
        if self.atol is not None or self.rtol is not None:
            found.setdefault("mismatch_fraction", 0.0)
        if self.topk is not None:
            found.setdefault("topk_agreement", 1.0)
        return found


_LIMITS = frozenset(MetricLimits.model_fields)
_PARAMETERS = ("atol", "rtol", "topk", "quantile", "relative")
_GATED = tuple(name for name in MetricLimits.model_fields if name not in _PARAMETERS)


class Tolerance(MetricLimits):
    """One rule: which tensors it is for, and their limits. Without a selector it is for all."""

    model_config = examples(
        {"precision": ["fp16", "bf16"], "output": "logits", "nrmse": 1e-2},
        {"layer": "encoder/*", "atol": 1e-3, "rtol": 1e-2},
        {"relative": {"factor": 1.5, "floor": 1e-6}},
    )

    precision: Annotated[tuple[Precision, ...], one_or_list(Precision)] = ()
    """The precisions that the rule is for; by default all."""
    output: Globs = ()
    """Globs over the names of the model's outputs."""
    layer: Globs = ()
    """Globs over the names of nodes, or of the tensors that they write."""
    slice: Annotated[Text, AfterValidator(_checked_slice)] | None = None
    """A part of the outputs, as NumPy writes it: `[:, 4:, :]`. The limits hold there, besides those of the whole."""

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if not any(getattr(self, name) is not None for name in MetricLimits.model_fields):
            raise mistake("a tolerance without a limit; add one, such as `nrmse: 1e-2`")
        if self.slice is not None and (self.layer or not self.output):
            raise mistake("`slice` is of outputs: name them with `output`, and no `layer`")
        return self

    def is_for(self, precision: Precision, output: str) -> bool:
        """Whether the rule, which has a slice, is for an output at `precision`."""
        return (not self.precision or precision in self.precision) and any(
            fnmatchcase(output, glob) for glob in self.output
        )

    def matches(self, precision: Precision, *, tensor: str, node: str | None, is_output: bool) -> bool:
        """Whether the rule is for the whole of `tensor`, written by `node`, at `precision`."""
        if self.slice is not None or (self.precision and precision not in self.precision):
            return False
        if not self.output and not self.layer:
            return True
        names = [name for name in (tensor, node) if name is not None]
        return (is_output and any(fnmatchcase(tensor, glob) for glob in self.output)) or any(
            fnmatchcase(name, glob) for name in names for glob in self.layer
        )


def merge_tolerances(
    rules: Iterable[Tolerance],
    precision: Precision,
    *,
    tensor: str,
    node: str | None = None,
    is_output: bool = False,
) -> MetricLimits | None:
    """The limits of all rules that match a tensor, the later one winning by metric; None if none matches."""
    merged: dict[str, object] = {}
    for rule in rules:
        if rule.matches(precision, tensor=tensor, node=node, is_output=is_output):
            merged.update({name: value for name, value in rule if name in _LIMITS and value is not None})
    return MetricLimits.model_validate(merged) if merged else None
