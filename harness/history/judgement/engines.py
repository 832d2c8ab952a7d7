"""Latency, size and build time of two releases' engines, each with the noise band of the older release's rebuilds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from harness.history.judgement.noise import half_width
from harness.history.types import Floors, Trend


@dataclass(frozen=True)
class Quantity:
    """A quantity of an engine: its column in the history, what it is called, and its unit."""

    column: str
    name: str
    unit: str


QUANTITIES = (
    Quantity("latency_ms", "latency", "ms"),
    Quantity("engine_bytes", "engine size", "bytes"),
    Quantity("build_seconds", "build time", "s"),
)


class EngineDrift(NamedTuple):
    """One row of a comparison of engines: a quantity of a newer release's engine.

    Args:
        release: the newer release.
        case: name of the case.
        precision: the precision under test.
        quantity: what is compared.
        unit: its unit.
        trend: how it changed.
        old: mean over the builds of the older release.
        new: mean over the builds of the newer one.
        ratio: new over old.
        noise: half the width of the band around `old`, NaN where both releases have a single build.
        old_builds: builds of the older release.
        new_builds: builds of the newer release.
    """

    release: str
    case: str
    precision: str
    quantity: str
    unit: str
    trend: Trend
    old: float
    new: float
    ratio: float
    noise: float
    old_builds: int
    new_builds: int


def compared_engines(frame: pd.DataFrame) -> list[EngineDrift]:
    """The rows of a comparison with `release`."""
    rows = map(EngineDrift._make, frame[list(EngineDrift._fields)].itertuples(index=False, name=None))
    return [row._replace(trend=Trend(row.trend)) for row in rows]


def judge_engines(old: pd.DataFrame, new: pd.DataFrame, floors: Floors) -> pd.DataFrame:
    """Compare the engines of two releases, quantity by quantity.

    Args:
        old: engine rows of the older release.
        new: engine rows of the newer one.
        floors: what counts as a difference.

    Returns:
        One row a case, precision and quantity that both have: the fields of EngineDrift but for `release`.
    """
    shares = {"latency_ms": floors.latency, "engine_bytes": floors.size, "build_seconds": floors.build}
    frames = [
        _compare(quantity, old, new, shares[quantity.column], floors.confidence) for quantity in QUANTITIES
    ]
    judged = pd.concat(frames, ignore_index=True)
    return judged.sort_values(["case", "precision"], kind="stable").reset_index(drop=True)


def _compare(
    quantity: Quantity, old: pd.DataFrame, new: pd.DataFrame, share: float, confidence: float
) -> pd.DataFrame:
    before, after = _summary(old, quantity.column), _summary(new, quantity.column)
    both = before.add_suffix("_old").join(after.add_suffix("_new"), how="inner").reset_index()
    change = (both["mean_new"] - both["mean_old"]).to_numpy(dtype=np.float64)
    builds, further = both["count_old"].to_numpy(), both["count_new"].to_numpy()
    old_std, new_std = (both[name].fillna(0.0).to_numpy(dtype=np.float64) for name in ("std_old", "std_new"))
    noise = np.fmax(
        half_width(builds, old_std, further, confidence),
        half_width(builds, old_std, further, confidence, further_deviation=new_std),
    )
    beyond = (np.abs(change) > np.nan_to_num(noise, nan=0.0)) & (np.abs(change) > share * both["mean_old"])
    trend = np.select(
        [change == 0, ~beyond, change < 0],
        [Trend.SAME.value, Trend.WITHIN_NOISE.value, Trend.LESS.value],
        Trend.MORE.value,
    )
    return pd.DataFrame(
        {
            "case": both["case"].astype(str),
            "precision": both["precision"].astype(str),
            "quantity": quantity.name,
            "unit": quantity.unit,
            "trend": trend,
            "old": both["mean_old"],
            "new": both["mean_new"],
            "ratio": both["mean_new"] / both["mean_old"],
            "noise": noise,
            "old_builds": both["count_old"],
            "new_builds": both["count_new"],
        }
    )[list(EngineDrift._fields[1:])]


def _summary(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    known = rows[rows[column].notna()]
    values = known[column].astype(np.float64)
    return values.groupby([known["case"].astype(str), known["precision"].astype(str)]).agg(
        ["mean", "std", "count"]
    )
