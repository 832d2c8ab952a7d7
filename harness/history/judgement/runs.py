"""From the rows of the history to a report: which rows are held against which, and what came of each run."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from harness.case import Waived, Waiver, find_waiver
from harness.comparison import find_origins
from harness.history.judgement.builds import Builds, OutputRow, builds_of
from harness.history.judgement.engines import ENGINE_COLUMNS, judge_engines
from harness.history.judgement.noise import Floors
from harness.history.judgement.outcome import (
    RunDrift,
    Status,
    TensorDrift,
    furthest_of,
    in_both,
    status_of,
    worst_of,
)
from harness.history.judgement.structure import compare_structures
from harness.history.judgement.tensors import (
    JUDGED,
    KEY,
    SEVERITY,
    WORSENED,
    DriftVerdict,
    empty_judgement,
    judge_tensors,
    worst_verdict,
)
from harness.history.judgement.wording import tell_comparison, tell_errors
from harness.history.matrix import EmulatedRelease, is_emulated
from harness.history.store import ENGINE, LAYER, MISTAKE, OUTPUT
from harness.judge import Verdict
from harness.tensors import Precision
from harness.text import command, plural, target_words

if TYPE_CHECKING:
    from numpy.typing import NDArray

Waivers = Mapping[str, Sequence[Waiver]]
_UNJUDGED = {Verdict.ERROR.value: Status.ERROR, Verdict.SKIP.value: Status.SKIP, MISTAKE: Status.MISTAKE}


_CALM = (DriftVerdict.SAME, DriftVerdict.WITHIN_NOISE)
_OF_LAYERS = {DriftVerdict.NEW_FAILURE: DriftVerdict.WORSE, DriftVerdict.FIXED: DriftVerdict.BETTER}


@dataclass(frozen=True)
class Pair:
    """Two sets of rows that are held against each other.

    Args:
        old: what the older side is called.
        new: what the newer side is called: a release.
        before: which rows are the older side's.
        after: which rows are the newer side's.
        distances: whether both were judged in one run.
        nights: whether the older side are the nights before the newer one.
    """

    old: str
    new: str
    before: NDArray[np.bool_]
    after: NDArray[np.bool_]
    distances: bool = True
    nights: bool = False


@dataclass(frozen=True)
class Comparison:
    """What came of one pair."""

    runs: tuple[RunDrift, ...]
    tensors: pd.DataFrame
    engines: pd.DataFrame


def pairs_of(records: pd.DataFrame, releases: Sequence[str]) -> list[Pair]:
    """Each further release against the first."""
    release = records["release"].astype(str).to_numpy()
    return [Pair(releases[0], name, release == releases[0], release == name) for name in releases[1:]]


def compare_pair(
    records: pd.DataFrame,
    pair: Pair,
    *,
    floors: Floors,
    repeats: int | None = None,
    waivers: Waivers | None = None,
    today: datetime.date | None = None,
) -> Comparison:
    """Judge all tensors and engines of a pair, run by run.

    Args:
        records: rows of the history.
        pair: which are held against which.
        floors: what counts as a difference.
        repeats: how many builds of each engine were asked for; a run that has fewer says so.
        waivers: by case.
        today: the day that decides whether a waiver has expired; by default today.
    """
    engine = (records["kind"] == ENGINE).to_numpy()
    tensors = ~engine
    sides = (pair.before[tensors], pair.after[tensors])
    judged = judge_tensors(records[tensors], *sides, floors, distances=pair.distances, nights=pair.nights)
    before, after = records[engine & pair.before], records[engine & pair.after]
    engines = judge_engines(before, after, floors)
    reader = _Reader(pair, records, judged, waivers or {}, today or datetime.date.today(), repeats)
    found = _by_run(before), _by_run(after)
    order = list(dict.fromkeys([*found[0], *found[1]]))
    runs = tuple(reader.run(key, found[0].get(key, []), found[1].get(key, [])) for key in order)
    return Comparison(
        runs,
        judged.assign(release=pair.new)[["release", *JUDGED]],
        engines.assign(release=pair.new)[["release", *ENGINE_COLUMNS]],
    )


def merge(comparisons: Sequence[Comparison]) -> Comparison:
    """Several comparisons with one older release as one."""
    tensors = [item.tensors for item in comparisons if len(item.tensors)]
    engines = [item.engines for item in comparisons if len(item.engines)]
    no_engines = pd.DataFrame({name: [] for name in ("release", *ENGINE_COLUMNS)})
    return Comparison(
        tuple(run for item in comparisons for run in item.runs),
        pd.concat(tensors, ignore_index=True) if tensors else empty_judgement().assign(release=[]),
        pd.concat(engines, ignore_index=True) if engines else no_engines,
    )


Key = tuple[str, str]
Engines = list[dict[str, Any]]
_ENGINE_COLUMNS = (
    *("case", "precision", "run", "build", "verdict", "reason"),
    *("case_path", "inputs", "tensorrt", "faithful", "structure"),
)


def _by_run(rows: pd.DataFrame) -> dict[Key, Engines]:
    """Engine rows by case and precision; what is missing is None."""
    columns = [name for name in _ENGINE_COLUMNS if name in rows]
    found: dict[Key, Engines] = {}
    lists = [rows[name].astype(object).where(rows[name].notna(), None).tolist() for name in columns]
    for values in zip(*lists, strict=True):
        row = dict(zip(columns, values, strict=True))
        found.setdefault((row["case"], row["precision"]), []).append(row)
    return found


@dataclass
class _Reader:
    """Reads what came of each run off the judged tensors."""

    pair: Pair
    records: pd.DataFrame
    judged: pd.DataFrame
    waivers: Waivers
    today: datetime.date
    repeats: int | None = None

    def __post_init__(self) -> None:
        keys = [self.judged["case"].astype(str), self.judged["precision"].astype(str)]
        self._tensors = self.judged.groupby(keys, sort=False).indices if len(self.judged) else {}
        self._reads: dict[Key, dict[str, list[str]]] | None = None
        self._outputs = self._read_outputs()
        self._zeros = _zero_references(self.records)

    def run(self, key: Key, before: Engines, after: Engines) -> RunDrift:
        rows = after or before
        case, precision = key[0], Precision(key[1])
        found = self._judged(key)
        verdict, worst, counts = _summary(found)
        errors, gravest = _errors(self.pair, before, after)
        fewer = () if errors else tuple(self._fewer(before, after))
        if self.pair.nights:
            fewer = (*fewer, *_left_out(before))
        waived = find_waiver(
            self.waivers.get(case, ()),
            precision=precision,
            tensorrt=_text(rows, "tensorrt"),
            release=self.pair.new,
            today=self.today,
        )
        status = max(status_of(verdict, waived), gravest, key=list(Status).index)
        if status is Status.ERROR and waived is not None and not waived.expired:
            status = Status.XFAIL
        path = _text(rows, "case_path")
        origins = self._origins(key, found) if verdict in WORSENED else ()
        return RunDrift(
            case=case,
            case_path=path,
            precision=precision,
            old=self.pair.old,
            new=self.pair.new,
            status=status,
            verdict=verdict,
            reason="; ".join([self._reason(verdict, worst, counts, errors, waived), *fewer]),
            counts=counts,
            worst=worst,
            origins=origins,
            faithful=(_faithful(before), _faithful(after)),
            waived=waived,
            structure=tuple(compare_structures(_structures(before), _structures(after))),
            structured=(bool(_structures(before)), bool(_structures(after))),
            command=continuation(path or case, _inputs(rows), precision, self._suspect(verdict, errors)),
            errors=errors,
            builds=self._builds(key, before, after, found),
        )

    def _suspect(self, verdict: DriftVerdict | None, errors: Sequence[str]) -> str:
        """The release that is worth a diagnosis: the newer one, unless nothing but the older one failed."""
        older = bool(errors) and all(error.startswith(f"{self.pair.old}: ") for error in errors)
        return self.pair.old if older and verdict not in WORSENED else self.pair.new

    def _builds(
        self, key: Key, before: Engines, after: Engines, found: Sequence[tuple[str, TensorDrift]]
    ) -> Builds:
        """What came of each build, with its error in the output and sample that the numbers of the run are of."""
        worst = worst_of([drift for kind, drift in found if kind == OUTPUT])
        told = None if worst is None else (worst.tensor, worst.sample)
        older, newer = ([row for row in side if row["verdict"] not in _UNJUDGED] for side in (before, after))
        outputs = self._outputs.get(key, ([], []))
        return builds_of(older, newer, *outputs, told, nights=self.pair.nights)

    def _read_outputs(self) -> dict[Key, tuple[list[OutputRow], list[OutputRow]]]:
        """The outputs of every build by run, those of the older side and those of the newer one."""
        found: dict[Key, tuple[list[OutputRow], list[OutputRow]]] = {}
        output = (self.records["kind"] == OUTPUT).to_numpy()
        for place, side in enumerate((self.pair.before, self.pair.after)):
            rows = self.records[output & side]
            columns = [rows[name].tolist() for name in ("case", "precision", *OutputRow._fields)]
            for case, precision, *values in zip(*columns, strict=True):
                found.setdefault((str(case), str(precision)), ([], []))[place].append(OutputRow(*values))
        return found

    def _reason(
        self,
        verdict: DriftVerdict | None,
        worst: TensorDrift | None,
        counts: Mapping[str, Mapping[DriftVerdict, int]],
        errors: Sequence[str],
        waived: Waived | None,
    ) -> str:
        told = (
            [tell_errors(errors, everywhere=in_both(errors, self.pair.old, self.pair.new))] if errors else []
        )
        if verdict is not None:
            told.append(tell_comparison(verdict, worst, counts))
        elif not errors:
            told.append("there is nothing to compare with")
        if waived is not None and (errors or verdict in WORSENED):
            told.append(str(waived))
        return "; ".join(told)

    def _fewer(self, before: Engines, after: Engines) -> Iterator[str]:
        """Which engines were built less often than was asked for."""
        for release, rows in ((self.pair.old, before), (self.pair.new, after)):
            if self.repeats is not None and 0 < len(rows) < self.repeats:
                limited = (
                    rows is after or self.pair.distances
                )  # else they are of another run, and why is unknown
                why = " within the time limit" if limited else ""
                yield f"{release}: {len(rows)} of {self.repeats} builds{why}"

    def _judged(self, key: Key) -> list[tuple[str, TensorDrift]]:
        if key not in self._tensors:
            return []
        rows = self.judged.iloc[self._tensors[key]]
        return [
            (str(row.kind), _tensor(row, zero_reference=_key(row) in self._zeros))
            for row in rows.itertuples(index=False)
        ]

    def _origins(self, key: Key, found: Sequence[tuple[str, TensorDrift]]) -> tuple[TensorDrift, ...]:
        layers = {drift.tensor: drift for kind, drift in found if kind == LAYER}
        failed = {name: drift.verdict in WORSENED for name, drift in layers.items()}
        if not any(failed.values()):
            return ()
        behind = self._predecessors(key)
        return tuple(layers[name] for name in find_origins(tuple(layers), failed, behind))

    def _predecessors(self, key: Key) -> dict[str, list[str]]:
        """For each layer, the nearest observed tensors behind it."""
        if self._reads is None:
            self._reads = {}
            if "reads" in self.records:
                rows = self.records[self.pair.after & (self.records["kind"] == LAYER).to_numpy()]
                columns = [rows[name] for name in ("case", "precision", "tensor", "reads")]
                for case, precision, tensor, reads in zip(*columns, strict=True):
                    if reads is not None:
                        self._reads.setdefault((case, precision), {})[str(tensor)] = list(reads)
        return self._reads.get(key, {})


def _summary(
    found: Sequence[tuple[str, TensorDrift]],
) -> tuple[DriftVerdict | None, TensorDrift | None, dict[str, dict[DriftVerdict, int]]]:
    """The run's verdict, the tensor that it rests on, and how many tensors have each verdict.

    Where the outputs moved, they decide: a fault that is gone may leave layers before it worse. Else the layers do,
    unless their noise is unknown while that of the outputs is known: layers that were observed in one build only say
    where a drift starts, and not whether there is one. A layer beyond its gate fails no run, so what is a new failure
    of a layer is a drift to the worse of the run.
    """
    by_kind = {kind: [drift for name, drift in found if name == kind] for kind in (OUTPUT, LAYER)}
    counts: dict[str, dict[DriftVerdict, int]] = {}
    for kind, drifts in by_kind.items():
        for drift in drifts:
            counts.setdefault(kind, {}).setdefault(drift.verdict, 0)
            counts[kind][drift.verdict] += 1
    outputs = worst_verdict([drift.verdict for drift in by_kind[OUTPUT]])
    told = by_kind[LAYER]
    if any(math.isfinite(drift.noise) for drift in by_kind[OUTPUT]):
        told = [drift for drift in told if drift.verdict in _CALM or not _unmeasured(drift)]
    layers = worst_verdict([drift.verdict for drift in told])
    if outputs is not None and (
        outputs not in _CALM or layers is None or SEVERITY[layers] <= SEVERITY[outputs]
    ):
        return outputs, worst_of(by_kind[OUTPUT]), counts
    if (
        outputs is not None and layers in _CALM
    ):  # nothing moved: what an output's error is says more than a layer's
        return layers, worst_of(by_kind[OUTPUT]), counts
    return None if layers is None else _OF_LAYERS.get(layers, layers), furthest_of(told), counts


def _unmeasured(drift: TensorDrift) -> bool:
    """Whether it is unknown what rebuilding alone does to the tensor; an overflow needs no noise band."""
    return math.isnan(drift.noise) and math.isfinite(drift.old)


def _errors(pair: Pair, before: Engines, after: Engines) -> tuple[tuple[str, ...], Status]:
    """What kept builds from being judged, and the gravest status that it comes to.

    Earlier nights count only where most of them could not be judged, and tonight cannot either: it is nothing new.
    """
    told: dict[str, None] = {}
    gravest = Status.PASS
    if pair.nights and not (2 * _unjudged(before) > len(before) and _unjudged(after)):
        before = []
    for label, rows in ((pair.old, before), (pair.new, after)):
        for row in rows:
            if row["verdict"] in _UNJUDGED:
                told[f"{label}: {row['reason'].removeprefix(f'environment {label}: ')}"] = None
                gravest = max(gravest, _UNJUDGED[row["verdict"]], key=list(Status).index)
    return tuple(told), gravest


def _unjudged(rows: Engines) -> int:
    return sum(row["verdict"] in _UNJUDGED for row in rows)


def _left_out(before: Engines) -> Iterator[str]:
    """How many builds of earlier nights say nothing."""
    if missing := _unjudged(before):
        yield f"without {missing} of {plural(len(before), 'earlier build')}, which could not be judged"


def _key(row: Any) -> tuple[object, ...]:
    return str(row.case), str(row.precision), str(row.kind), str(row.tensor), int(row.sample)


def _zero_references(records: pd.DataFrame) -> set[tuple[object, ...]]:
    """The tensors whose reference is all zero, by the columns `harness.history.judgement.tensors.KEY`."""
    if "reference_rms" not in records:
        return set()
    zero = records.loc[(records["reference_rms"] == 0.0).to_numpy(dtype=bool, na_value=False), list(KEY)]
    return {_key(row) for row in zero.drop_duplicates().itertuples(index=False)}


def _tensor(row: Any, *, zero_reference: bool) -> TensorDrift:
    return TensorDrift(
        tensor=str(row.tensor),
        node=None if pd.isna(row.node) else str(row.node),
        op=None if pd.isna(row.op) else str(row.op),
        sample=int(row.sample),
        verdict=DriftVerdict(row.verdict),
        old=float(row.old),
        new=float(row.new),
        noise=float(row.noise),
        floor=float(row.floor),
        old_passed=f"{row.old_passed} of {row.old_builds}",
        new_passed=f"{row.new_passed} of {row.new_builds}",
        gate=row.gate if isinstance(row.gate, str) else None,
        limit=float(row.limit),
        error_limit=float(row.error_limit),
        zero_reference=zero_reference,
    )


def _text(rows: Engines, column: str) -> str | None:
    return next((str(row[column]) for row in rows if row.get(column) is not None), None)


def _inputs(rows: Engines) -> Sequence[str]:
    text = _text(rows, "inputs")
    return () if text is None else tuple(json.loads(text))


def _faithful(rows: Engines) -> bool | None:
    known = [bool(row["faithful"]) for row in rows if row.get("faithful") is not None]
    return all(known) if known else None


def _structures(rows: Engines) -> list[str]:
    return [row["structure"] for row in rows if row.get("structure") is not None]


def continuation(target: str, inputs: Sequence[str], precision: Precision, release: str) -> str:
    """The command that goes on from a drift: the diagnosis of the newer release.

    Empty where an emulated release does what no candidate of a diagnosis does: its fault is planted, or it rounds at
    another precision than its gates are of.

    Args:
        target: the case file, or a bare model.
        inputs: the shapes that such a model was given.
        precision: what was asked for.
        release: the newer release.
    """
    words = ["harness", "diagnose", *target_words(target, inputs), "--precision"]
    if not is_emulated(release):
        return command(*words, precision.value, "--env", release)
    emulated = EmulatedRelease.parse(release)
    if emulated.planted is not None or emulated.rounds_to(precision) is not precision:
        return ""
    return command(*words, precision.value)
