"""The judgement of every output and layer: what changed between two sets of builds, and by how much.

All tensors are judged at once, on arrays: a night of 15,000 tensors against thirty others takes a fraction of the
time that it takes to read them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, get_args, get_type_hints

import numpy as np
import pandas as pd

from harness.history.judgement.nights import OUTLYING, Nights, mean_of_builds
from harness.history.judgement.noise import half_width
from harness.history.types import SEVERITY, DriftVerdict, Floors, RowKind
from harness.tensors import Precision

KEY = ("case", "precision", "kind", "tensor", "sample")


@dataclass(frozen=True)
class JudgedTensor:
    """One row of a judgement: an output or layer of a newer release, and what its columns mean."""

    release: str
    case: Annotated[str, "name of the case"]
    precision: Annotated[str, "the precision under test"]
    kind: Annotated[RowKind, "`output` or `layer`"]
    tensor: Annotated[str, "ONNX name of the tensor"]
    sample: Annotated[int, "number of the sample; -1 for all together"]
    index: Annotated[int, "place of the node in topological order"]
    node: Annotated[str | None, "ONNX node that writes the tensor"]
    op: Annotated[str | None, "its operator type"]
    verdict: Annotated[
        DriftVerdict, "`same`, `within noise`, `improved`, `fixed`, `regressed`, `new failure`"
    ]
    old: Annotated[
        float,
        "mean error (nrmse over the FP32 reference) of the older release's builds that are finite; infinite "
        "where most are not. Of earlier nights, the median of these means",
    ]
    new: Annotated[float, "mean error of the newer release, likewise"]
    change: Annotated[float, "new - old"]
    noise: Annotated[
        float, "half the width of the noise band around `old`; NaN where both releases have a single build"
    ]
    floor: Annotated[float, "the largest change that is too small to matter"]
    old_builds: Annotated[int, "builds of the older release"]
    new_builds: Annotated[int, "builds of the newer release"]
    equal_builds: Annotated[int, "builds of the newer release with the bits of a build of the older one"]
    old_passed: Annotated[int, "builds of the older release in which every gate of the tensor holds"]
    new_passed: Annotated[int, "likewise of the newer release"]
    gate: Annotated[
        str | None,
        "the gate: one that fails, or else the first on a metric; of the newer release where that is known",
    ]
    limit: Annotated[float, "its limit"]
    error_limit: Annotated[
        float, "the limit as an error (nrmse) like `old` and `new`; NaN for a gate on another metric"
    ]
    distance: Annotated[
        float,
        "mean rms difference of the newer release from the older one's build 0, over the reference's rms",
    ]
    rebuild_distance: Annotated[
        float, "likewise of the older release's other builds: what rebuilding alone does"
    ]
    zero_reference: Annotated[
        bool, "whether the reference is all zero, so that an error relative to it is 0 or infinite"
    ]

    @property
    def ratio(self) -> float:
        """How many times the older release's error the newer one's is."""
        if math.isinf(self.old) and math.isinf(self.new):
            return 1.0
        return self.new / self.old if self.old else (1.0 if self.new == 0 else math.inf)

    @property
    def size(self) -> float:
        """How far it moved, as |log ratio|: what the worst is chosen by."""
        ratio = self.ratio
        return abs(math.log(ratio)) if 0 < ratio < math.inf else math.inf

    @property
    def error(self) -> float:
        """The larger of both errors: what the worst sample of the outputs is chosen by."""
        return max(self.old, self.new)


_HINTS = get_type_hints(JudgedTensor, include_extras=True)
JUDGED: Mapping[str, str] = {name: get_args(_HINTS[name])[1] for name in _HINTS if name != "release"}
"""The columns of a judgement, and what they mean; a report has `release` before them."""


def judged_tensors(frame: pd.DataFrame) -> Iterator[JudgedTensor]:
    """The rows of a judgement with `release`."""
    for values in frame[["release", *JUDGED]].itertuples(index=False, name=None):
        row = JudgedTensor(*values)
        yield replace(
            row,
            kind=RowKind(row.kind),
            node=None if pd.isna(row.node) else row.node,
            op=None if pd.isna(row.op) else row.op,
            verdict=DriftVerdict(row.verdict),
            gate=None if pd.isna(row.gate) else row.gate,
            zero_reference=bool(row.zero_reference),
        )


def worst_of(outputs: Sequence[JudgedTensor]) -> JudgedTensor | None:
    """The output with the worst verdict; of several outputs and samples, the one with the largest error.

    `harness run` names the largest error of all outputs and samples: where they have one verdict, both name the same.
    """
    return max(
        outputs, key=lambda output: (SEVERITY[output.verdict], output.error, output.size), default=None
    )


def furthest_of(tensors: Sequence[JudgedTensor]) -> JudgedTensor | None:
    """The tensor with the worst verdict; of several, the one that moved furthest."""
    return max(tensors, key=lambda tensor: (SEVERITY[tensor.verdict], tensor.size), default=None)


@dataclass(frozen=True)
class _Groups:
    """Rows by tensor: `code` numbers the tensors of a frame, `first` is the place of one row of each."""

    code: np.ndarray
    first: np.ndarray

    @property
    def size(self) -> int:
        return len(self.first)

    @classmethod
    def of(cls, frame: pd.DataFrame) -> _Groups:
        _, first, code = np.unique(row_codes(frame, KEY), return_index=True, return_inverse=True)
        return cls(code, first)

    def total(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The sum of `values` over the chosen `rows` of each tensor."""
        return np.bincount(self.code[rows], weights=values[rows].astype(np.float64), minlength=self.size)

    def count(self, rows: np.ndarray) -> np.ndarray:
        """How many of `rows` each tensor has."""
        return np.bincount(self.code[rows], minlength=self.size)


def codes_of(column: pd.Series) -> tuple[np.ndarray, int]:
    """Small whole numbers for the values of a column, and how many there are; missing values get one too."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.codes.to_numpy().astype(np.int64) + 1, len(column.cat.categories) + 1
    codes, values = pd.factorize(column, use_na_sentinel=False)
    return codes.astype(np.int64), max(len(values), 1)


def row_codes(frame: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """A whole number for each row of `frame`: the same where all of `columns` are."""
    mixed = np.zeros(len(frame), dtype=np.int64)
    for column in columns:
        codes, width = codes_of(frame[column])
        mixed = mixed * width + codes
    return mixed


def judge_tensors(
    frame: pd.DataFrame,
    old: np.ndarray,
    new: np.ndarray,
    floors: Floors,
    *,
    distances: bool = True,
    nights: bool = False,
) -> pd.DataFrame:
    """Judge every tensor that both sides have.

    Args:
        frame: rows of the history with the columns `harness.history.store.schema.NEEDED`, of outputs and layers.
        old: which rows are builds of the older release.
        new: which rows are builds of the newer one.
        floors: what counts as a difference.
        distances: whether `distance` means something: both sides were judged in one run.
        nights: whether the older side are earlier nights, by `run`, which vary, and of which a tenth may be bad.

    Returns:
        One row a tensor with the columns JUDGED, cases and precisions in the order of `frame`.
    """
    frame, old, new = frame[old | new], old[old | new], new[old | new]
    groups = _Groups.of(frame)
    error = frame["error"].to_numpy(dtype=np.float64, na_value=np.inf)
    before, after = groups.count(old), groups.count(new)
    bands = _Bands.of(groups, error, old, new, floors.confidence)
    if nights:
        bands = bands.of_nights(groups, error, old, codes_of(frame["run"]), floors.confidence)
    change = bands.change
    floor = np.maximum(floors.relative * bands.old, _absolute(frame, groups, floors))
    alike = _builds_alike(frame, groups, old, new)
    equal, usual = groups.count(new & (alike > 0)), groups.count(new & (2 * alike > before[groups.code]))
    passed = frame["passed"].eq(True).to_numpy(dtype=bool)
    old_passed, new_passed = (groups.count(side & passed) for side in (old, new))
    # Of many nights, a few bad builds are no reason to expect a failure, nor its end to be a fix.
    held = old_passed >= before * (1 - OUTLYING if nights else 1)
    failed = (2 * old_passed < before) if nights else (old_passed < before)
    effect = _beyond(change, np.zeros_like(floor), floor)
    moved = _beyond(change, bands.noise, floor)
    if nights:  # one build of three that chose other tactics moves the mean of a night, and not its level
        moved &= 2 * groups.count(new & bands.within(groups, error, floor)) <= after
    broken = _beyond(change, bands.settled, floor) & held & (change > 0) & (new_passed < after)
    gates = _gates(frame, groups, passed, new)
    # The error says nothing of a gate on another metric: it has broken if it held before and holds in no build now.
    elsewhere = pd.notna(gates["gate"]) & np.isnan(gates["error_limit"])
    broken |= elsewhere & held & (before > 0) & (new_passed == 0)
    # The level of finite builds says nothing of one that overflows, where none did before.
    overflows = (groups.count(new & np.isinf(error)) > 0) & (groups.count(old & np.isinf(error)) == 0)
    broken |= overflows & held & (before > 0) & (new_passed < after)
    # Bits that few older builds have do not prove that nothing changed: those of one bad build come back. And if the
    # bits with which every older build passed fail a gate now, the gate has changed.
    same = (usual == after) | ((equal == after) & ~effect & (~broken | (old_passed == before)))
    judged = _described(frame, groups, new).assign(
        verdict=_choose(
            {
                DriftVerdict.SAME: same & (after > 0),
                DriftVerdict.NEW_FAILURE: broken,
                DriftVerdict.WITHIN_NOISE: ~moved,
                DriftVerdict.REGRESSED: change > 0,
                DriftVerdict.FIXED: failed & (new_passed == after),
            },
            DriftVerdict.IMPROVED,
        ),
        old=bands.old,
        new=bands.new,
        change=change,
        noise=bands.noise,
        floor=floor,
        old_builds=before,
        new_builds=after,
        equal_builds=equal,
        old_passed=old_passed,
        new_passed=new_passed,
        **gates,
        **_distances(frame, groups, old, new, distances),
        zero_reference=_zero_references(frame, groups),
    )
    judged = judged[(before > 0) & (after > 0)].sort_values("_place", kind="stable")
    return judged[list(JUDGED)].reset_index(drop=True)


def _choose(conditions: Mapping[DriftVerdict, np.ndarray], otherwise: DriftVerdict) -> pd.Categorical:
    """For each tensor the first verdict whose condition holds."""
    verdicts = np.select(list(conditions.values()), [item.value for item in conditions], otherwise.value)
    return pd.Categorical(verdicts, categories=[item.value for item in DriftVerdict])


def worst_verdict(verdicts: Sequence[str]) -> DriftVerdict | None:
    """The worst of `verdicts`; None if there are none."""
    return max((DriftVerdict(item) for item in verdicts), key=SEVERITY.__getitem__, default=None)


@dataclass(frozen=True)
class _Level:
    """Where the errors of some builds of each tensor lie.

    An overflow in one build of three does not make the level infinite, though it is a failure where none did before.
    It is infinite where most builds are, and else the mean of the finite ones.

    Args:
        mean: the level.
        deviation: standard deviation of the finite errors; exactly 0 where they are equal, NaN for fewer than two.
        finite: how many are finite.
    """

    mean: np.ndarray
    deviation: np.ndarray
    finite: np.ndarray

    @classmethod
    def of(cls, groups: _Groups, error: np.ndarray, rows: np.ndarray) -> _Level:
        known = rows & np.isfinite(error)
        mean, finite = mean_of_builds(groups.code[rows], error[rows], groups.size)
        with np.errstate(invalid="ignore", divide="ignore"):
            residual = np.where(known, error - mean[groups.code], 0.0)
            spread = np.sqrt(
                groups.total(residual * residual, known) / np.where(finite > 1, finite - 1, np.nan)
            )
        low, high = np.full(groups.size, np.inf), np.full(groups.size, -np.inf)
        np.minimum.at(low, groups.code[known], error[known])
        np.maximum.at(high, groups.code[known], error[known])
        return cls(mean, np.where((low == high) & (finite > 1), 0.0, spread), finite)


@dataclass(frozen=True)
class _Bands:
    """The levels of both sides of each tensor, and the noise bands around the older one.

    Args:
        old: level of the older side.
        new: level of the newer side.
        settled: half the width of the band from the older side alone.
        noise: that of the band of the verdict.
    """

    old: np.ndarray
    new: np.ndarray
    settled: np.ndarray
    noise: np.ndarray

    @classmethod
    def of(
        cls, groups: _Groups, error: np.ndarray, old: np.ndarray, new: np.ndarray, confidence: float
    ) -> _Bands:
        """Builds compared with builds."""
        before, after = _Level.of(groups, error, old), _Level.of(groups, error, new)
        with np.errstate(invalid="ignore"):
            known = (before.finite, before.deviation, after.finite, confidence)
            settled = half_width(*known)
            noise = np.fmax(settled, half_width(*known, further_deviation=after.deviation))
        return cls(before.mean, after.mean, settled, noise)

    @property
    def change(self) -> np.ndarray:
        """How far the newer side lies above the older one; none where both are infinite."""
        with np.errstate(invalid="ignore"):
            return np.where(np.isinf(self.old) & np.isinf(self.new), 0.0, self.new - self.old)

    def within(self, groups: _Groups, error: np.ndarray, floor: np.ndarray) -> np.ndarray:
        """Which rows lie within the band, or closer to the older side than an effect."""
        with np.errstate(invalid="ignore"):
            distance = np.abs(error - self.old[groups.code])
        return np.asarray(distance <= np.fmax(self.noise, floor)[groups.code])

    def of_nights(
        self,
        groups: _Groups,
        error: np.ndarray,
        old: np.ndarray,
        runs: tuple[np.ndarray, int],
        confidence: float,
    ) -> _Bands:
        """A night compared with those before it; of a single one, its builds are all that is known of noise."""
        night, width = runs
        found = Nights.of(groups.code[old], night[old], error[old], groups.size, width)
        several = found.count > 1
        band = found.half_width(confidence)
        return _Bands(
            found.level,
            self.new,
            np.where(several, band, self.settled),
            np.where(several, band, self.noise),
        )


def _beyond(change: np.ndarray, noise: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """Whether a change is more than noise, where that is known, and more than no effect.

    An infinite one is: most builds overflow on one side, and most do not on the other.
    """
    size = np.abs(change)
    return np.asarray(((size > np.nan_to_num(noise, nan=0.0)) & (size > floor)) | np.isinf(change))


def _absolute(frame: pd.DataFrame, groups: _Groups, floors: Floors) -> np.ndarray:
    precisions = frame["precision"].iloc[groups.first].astype(str)
    return precisions.map(lambda name: floors.absolute[Precision(name)]).to_numpy(dtype=np.float64)


def _builds_alike(frame: pd.DataFrame, groups: _Groups, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """For each row that is new, how many builds of the older release have the same bits; 0 for the others."""
    codes, width = codes_of(frame["hash"])
    pairs = groups.code.astype(np.int64) * width + codes
    known = frame["hash"].notna().to_numpy()
    alike = np.zeros(len(frame), dtype=np.int64)
    wanted, which = np.unique(pairs[new], return_inverse=True)
    places = np.searchsorted(wanted, pairs[old])
    found = np.zeros(len(wanted) + 1, dtype=np.int64)
    hit = np.append(wanted, -1)[places] == pairs[old]
    found[: len(wanted)] = np.bincount(places[hit], minlength=len(wanted))
    alike[new] = found[which]
    return np.where(known, alike, 0)


def _described(frame: pd.DataFrame, groups: _Groups, new: np.ndarray) -> pd.DataFrame:
    """What each tensor is, in the newer release's words where it has any."""
    place = groups.first.copy()
    rows = np.flatnonzero(new)[::-1]
    place[groups.code[rows]] = rows
    described = frame[[*KEY, "index", "node", "op"]].iloc[place].reset_index(drop=True)
    return described.assign(_place=groups.first)


def _gates(
    frame: pd.DataFrame, groups: _Groups, passed: np.ndarray, new: np.ndarray
) -> dict[str, np.ndarray]:
    """The gate of each tensor: one that fails before one that holds, the newer release's before the older's."""
    nothing = np.full(groups.size, np.nan)
    if not {"gate", "limit", "reference_rms"} <= set(frame.columns):
        return {"gate": np.full(groups.size, None, dtype=object), "limit": nothing, "error_limit": nothing}
    known = frame["gate"].notna().to_numpy()
    chosen = np.zeros(groups.size, dtype=np.int64)
    for rows in (known & ~new, known & new, known & new & ~passed):
        places = np.flatnonzero(rows)[::-1]
        chosen[groups.code[places]] = places
    found = groups.count(known) > 0
    gate = frame["gate"].astype(object).to_numpy()[chosen]
    limit, rms = (
        frame[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in ("limit", "reference_rms")
    )
    gate[~found] = None
    limit, rms = np.where(found, limit[chosen], np.nan), rms[chosen]
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.where(rms > 0, limit / rms, np.nan)
    error_limit = np.select([gate == "nrmse", gate == "rmse"], [limit, relative], np.nan)
    return {"gate": gate, "limit": limit, "error_limit": error_limit}


def _zero_references(frame: pd.DataFrame, groups: _Groups) -> np.ndarray:
    """Whether the reference of each tensor is all zero, as far as that is known."""
    if "reference_rms" not in frame:
        return np.zeros(groups.size, dtype=bool)
    zero = (frame["reference_rms"] == 0.0).to_numpy(dtype=bool, na_value=False)
    return groups.count(zero) > 0


def _distances(
    frame: pd.DataFrame, groups: _Groups, old: np.ndarray, new: np.ndarray, wanted: bool
) -> dict[str, np.ndarray]:
    nothing = np.full(groups.size, np.nan)
    if not wanted:
        return {"distance": nothing, "rebuild_distance": nothing}
    distance = frame["distance"].to_numpy(dtype=np.float64, na_value=np.nan)
    known = ~np.isnan(distance)
    rebuilt = old & known & (frame["build"].to_numpy() > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "distance": groups.total(distance, new & known) / groups.count(new & known),
            "rebuild_distance": groups.total(distance, rebuilt) / groups.count(rebuilt),
        }
