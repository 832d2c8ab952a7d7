"""From the rows of the history to a report: which rows are compared with which, and what came of each run."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from harness.case import Waiver, find_waiver, load_case
from harness.comparison import find_origins
from harness.errors import HarnessError
from harness.history.judgement.builds import Builds, OutputRow, builds_of
from harness.history.judgement.engines import EngineDrift, judge_engines
from harness.history.judgement.outcome import FewerBuilds, Incomparable, UnjudgedBuild, failed_releases
from harness.history.judgement.report import DriftReport, RunDrift
from harness.history.judgement.structure import compare_structures, judge_compiled
from harness.history.judgement.tensors import (
    JUDGED,
    JudgedTensor,
    furthest_of,
    judge_tensors,
    judged_tensors,
    worst_of,
    worst_verdict,
)
from harness.history.matrix import EmulatedRelease, is_emulated
from harness.history.store import BuiltLayer, EngineRow, RunInfo, engine_rows, fingerprint_in
from harness.history.types import (
    REGRESSIONS,
    SEVERITY,
    UNMOVED,
    BuildCount,
    CaseRun,
    DriftStatus,
    DriftVerdict,
    Floors,
    RowKind,
    worst_status,
)
from harness.tensors import Precision
from harness.text import command, target_words

if TYPE_CHECKING:
    from numpy.typing import NDArray

Waivers = Mapping[str, Sequence[Waiver]]
"""By case."""

Engines = Sequence[EngineRow]
Tensors = Mapping[RowKind, Sequence[JudgedTensor]]
_OF_LAYERS = {DriftVerdict.NEW_FAILURE: DriftVerdict.REGRESSED, DriftVerdict.FIXED: DriftVerdict.IMPROVED}


@dataclass(frozen=True)
class Pair:
    """Two sets of rows that are compared.

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
    """What came of some pairs."""

    runs: tuple[RunDrift, ...]
    tensors: pd.DataFrame
    engines: pd.DataFrame

    def report(
        self, info: RunInfo, releases: tuple[str, ...], records: pd.DataFrame, floors: Floors
    ) -> DriftReport:
        """The report of the run `info`; the others are those of DriftReport."""
        return DriftReport(
            run=info.run,
            old=releases[0],
            releases=releases,
            runs=self.runs,
            tensors=self.tensors,
            engines=self.engines,
            records=records,
            fingerprint=info.fingerprint if info.finished else fingerprint_in(records),
            floors=floors,
            repeats=info.repeats,
            time=info.started,
            files=tuple(str(path) for path in info.files),
        )


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
        pair: which are compared.
        floors: what counts as a difference.
        repeats: how many builds of each engine were requested; a run that has fewer says so.
        waivers: by case.
        today: the day that decides whether a waiver has expired; by default today.
    """
    engine = (records["kind"] == RowKind.ENGINE).to_numpy()
    tensors = ~engine
    sides = (pair.before[tensors], pair.after[tensors])
    judged = judge_tensors(records[tensors], *sides, floors, distances=pair.distances, nights=pair.nights)
    judged.insert(0, "release", pair.new)
    before, after = records[engine & pair.before], records[engine & pair.after]
    reader = _Reader(pair, records, judged, waivers or {}, today or datetime.date.today(), repeats)
    older, newer = engine_rows(before), engine_rows(after)
    runs = tuple(reader.run(key, older.get(key, []), newer.get(key, [])) for key in {**older, **newer})
    engines = judge_engines(before, after, floors)
    engines.insert(0, "release", pair.new)
    return Comparison(runs, judged, engines)


def compare_pairs(records: pd.DataFrame, pairs: Sequence[Pair], **options: Any) -> Comparison:
    """`compare_pair` of several pairs with one older side, as one."""
    comparisons = [compare_pair(records, pair, **options) for pair in pairs]
    return Comparison(
        tuple(run for item in comparisons for run in item.runs),
        _joined([item.tensors for item in comparisons], ("release", *JUDGED)),
        _joined([item.engines for item in comparisons], EngineDrift._fields),
    )


def _joined(frames: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame({name: [] for name in columns})


@dataclass
class _Reader:
    """Reads what came of each run off the judged tensors."""

    pair: Pair
    records: pd.DataFrame
    judged: pd.DataFrame
    waivers: Waivers
    today: datetime.date
    repeats: int | None = None

    def run(self, key: CaseRun, before: Engines, after: Engines) -> RunDrift:
        rows = after or before
        case, precision = key[0], Precision(key[1])
        tensors = self._tensors.get(key, {RowKind.OUTPUT: [], RowKind.LAYER: []})
        verdict, worst = _verdict(tensors)
        errors = _errors(self.pair, before, after)
        older, newer = _structures(before), _structures(after)
        structure = tuple(compare_structures(older, newer))
        compiled = any(row.compiled for row in before) and any(row.compiled for row in after)
        if compiled:
            verdict = judge_compiled(_built(before), _built(after), structure)
        waived = find_waiver(
            self.waivers.get(case, ()),
            precision=precision,
            tensorrt=next((row.tensorrt for row in rows if row.tensorrt is not None), None),
            release=self.pair.new,
            today=self.today,
        )
        excused = waived is not None and not waived.expired
        status = (
            DriftStatus.PASS
            if verdict not in REGRESSIONS
            else DriftStatus.XFAIL
            if excused
            else DriftStatus.FAIL
        )
        if not compiled:
            status = worst_status(status, *(error.status for error in errors))
        elif verdict is None:
            status = DriftStatus.SKIP
        if status is DriftStatus.ERROR and excused:
            status = DriftStatus.XFAIL
        path = next((row.case_path for row in rows if row.case_path is not None), None)
        inputs = next((row.inputs for row in rows if row.inputs), ())
        return RunDrift(
            case=case,
            case_path=path,
            precision=precision,
            old=self.pair.old,
            new=self.pair.new,
            status=status,
            verdict=verdict,
            counts=_counts(tensors),
            worst=worst,
            origins=self._origins(key, tensors) if verdict in REGRESSIONS else (),
            faithful=(_faithful(before), _faithful(after)),
            waived=waived,
            structure=structure,
            structured=(bool(older), bool(newer)),
            compiled=compiled,
            command=""
            if compiled
            else continuation(path or case, inputs, precision, self._suspect(verdict, errors)),
            errors=errors,
            builds=self._builds(key, before, after, tensors),
            fewer=() if errors else tuple(self._fewer(before, after)),
            unjudged_before=self._unjudged_before(before),
            incomparable=Incomparable.NOTHING_BEFORE if verdict is None and not errors else None,
        )

    def _suspect(self, verdict: DriftVerdict | None, errors: Sequence[UnjudgedBuild]) -> str:
        """The release that is worth a diagnosis: the newer one, unless nothing but the older one failed."""
        older = failed_releases(errors) == {self.pair.old}
        return self.pair.old if older and verdict not in REGRESSIONS else self.pair.new

    def _builds(self, key: CaseRun, before: Engines, after: Engines, tensors: Tensors) -> Builds:
        """What came of each build, with its error in the output and sample whose numbers stand for the run."""
        worst = worst_of(tensors[RowKind.OUTPUT])
        place = None if worst is None else (worst.tensor, worst.sample)
        older, newer = ([row for row in side if row.unjudged is None] for side in (before, after))
        outputs = self._outputs.get(key, ([], []))
        return builds_of(older, newer, *outputs, place, nights=self.pair.nights)

    def _fewer(self, before: Engines, after: Engines) -> Iterator[FewerBuilds]:
        """Which engines were built less often than requested. Why is not known of those of another run."""
        for release, rows in ((self.pair.old, before), (self.pair.new, after)):
            if self.repeats is not None and 0 < len(rows) < self.repeats:
                same_run = rows is after or self.pair.distances
                yield FewerBuilds(release, BuildCount(len(rows), self.repeats), out_of_time=same_run)

    def _unjudged_before(self, before: Engines) -> BuildCount | None:
        """How many builds of earlier nights say nothing."""
        missing = _unjudged(before) if self.pair.nights else 0
        return BuildCount(missing, len(before)) if missing else None

    @cached_property
    def _tensors(self) -> Mapping[CaseRun, Tensors]:
        """The tensors of each run."""
        found: dict[CaseRun, dict[RowKind, list[JudgedTensor]]] = {}
        for row in judged_tensors(self.judged):
            of_run = found.setdefault((row.case, row.precision), {RowKind.OUTPUT: [], RowKind.LAYER: []})
            of_run[row.kind].append(row)
        return found

    @cached_property
    def _outputs(self) -> dict[CaseRun, tuple[list[OutputRow], list[OutputRow]]]:
        """The outputs of every build by run, those of the older side and those of the newer one."""
        found: dict[CaseRun, tuple[list[OutputRow], list[OutputRow]]] = {}
        output = (self.records["kind"] == RowKind.OUTPUT).to_numpy()
        for place, side in enumerate((self.pair.before, self.pair.after)):
            rows = self.records[output & side]
            columns = [rows[name].tolist() for name in ("case", "precision", *OutputRow._fields)]
            for case, precision, *values in zip(*columns, strict=True):
                found.setdefault((str(case), str(precision)), ([], []))[place].append(OutputRow(*values))
        return found

    def _origins(self, key: CaseRun, tensors: Tensors) -> tuple[JudgedTensor, ...]:
        layers = {drift.tensor: drift for drift in tensors[RowKind.LAYER]}
        reads = self._reads[RowKind.LAYER].get(key, {})
        live = self._live(key, reads)
        failed = {
            name: drift.verdict in REGRESSIONS and (live is None or name in live)
            for name, drift in layers.items()
        }
        if not any(failed.values()):
            return ()
        return tuple(layers[name] for name in find_origins(tuple(layers), failed, reads))

    def _live(self, key: CaseRun, reads: Mapping[str, Sequence[str]]) -> set[str] | None:
        """The layers that outputs are computed from; None where the record does not say."""
        ends = self._reads[RowKind.OUTPUT].get(key, {})
        found, waiting = set[str](), [name for names in ends.values() for name in names]
        if not waiting:
            return None
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += reads.get(name, ())
        return found

    @cached_property
    def _reads(self) -> dict[RowKind, dict[CaseRun, dict[str, list[str]]]]:
        """By run, for each layer and each output the nearest observed tensors behind it."""
        return {kind: self._read_by(kind) for kind in (RowKind.LAYER, RowKind.OUTPUT)}

    def _read_by(self, kind: RowKind) -> dict[CaseRun, dict[str, list[str]]]:
        found: dict[CaseRun, dict[str, list[str]]] = {}
        if "reads" in self.records:
            rows = self.records[self.pair.after & (self.records["kind"] == kind).to_numpy()]
            columns = [rows[name] for name in ("case", "precision", "tensor", "reads")]
            for case, precision, tensor, reads in zip(*columns, strict=True):
                if isinstance(reads, np.ndarray | list):  # an earlier version kept none of outputs
                    found.setdefault((case, precision), {})[str(tensor)] = list(reads)
        return found


def _counts(tensors: Tensors) -> dict[RowKind, dict[DriftVerdict, int]]:
    """How many tensors have each verdict, by kind."""
    counts: dict[RowKind, dict[DriftVerdict, int]] = {}
    for kind, drifts in tensors.items():
        for drift in drifts:
            of_kind = counts.setdefault(kind, {})
            of_kind[drift.verdict] = of_kind.get(drift.verdict, 0) + 1
    return counts


def _verdict(tensors: Tensors) -> tuple[DriftVerdict | None, JudgedTensor | None]:
    """The verdict of a run, and the tensor that it rests on.

    Where the outputs moved, they decide: a fault that is gone may leave layers before it worse. Else the layers do,
    unless their noise is unknown while that of the outputs is known: layers that were observed in one build only show
    where a drift starts, and not whether there is one. A layer beyond its gate fails no run, so what is a new failure
    of a layer is a regression of the run.
    """
    of_outputs, of_layers = tensors[RowKind.OUTPUT], tensors[RowKind.LAYER]
    outputs = worst_verdict([drift.verdict for drift in of_outputs])
    if any(math.isfinite(drift.noise) for drift in of_outputs):
        of_layers = [drift for drift in of_layers if drift.verdict in UNMOVED or not _unmeasured(drift)]
    layers = worst_verdict([drift.verdict for drift in of_layers])
    if outputs is not None:
        if outputs not in UNMOVED or layers is None or SEVERITY[layers] <= SEVERITY[outputs]:
            return outputs, worst_of(of_outputs)
        if layers in UNMOVED:  # nothing moved: the error of an output says more than that of a layer
            return layers, worst_of(of_outputs)
    return None if layers is None else _OF_LAYERS.get(layers, layers), furthest_of(of_layers)


def _unmeasured(drift: JudgedTensor) -> bool:
    """Whether it is unknown what rebuilding alone does to the tensor; an overflow needs no noise band."""
    return math.isnan(drift.noise) and math.isfinite(drift.old)


def _errors(pair: Pair, before: Engines, after: Engines) -> tuple[UnjudgedBuild, ...]:
    """Why builds could not be judged.

    Earlier nights count only where most of them could not be judged, and tonight cannot either: it is nothing new.
    """
    if pair.nights and not (2 * _unjudged(before) > len(before) and _unjudged(after)):
        before = []
    found: list[UnjudgedBuild] = []
    for release, rows in ((pair.old, before), (pair.new, after)):
        for row in rows:
            if row.unjudged is not None:
                error = UnjudgedBuild(release, row.why, row.unjudged, row.evidence)
                found += [] if error in found else [error]
    return tuple(found)


def _unjudged(rows: Engines) -> int:
    return sum(row.unjudged is not None for row in rows)


def _faithful(rows: Engines) -> bool | None:
    known = [row.faithful for row in rows if row.faithful is not None]
    return all(known) if known else None


def _built(rows: Engines) -> bool:
    return any(row.unjudged is None for row in rows)


def _structures(rows: Engines) -> list[tuple[BuiltLayer, ...]]:
    return [row.layers for row in rows if row.layers is not None]


def continuation(target: str, inputs: Sequence[str], precision: Precision, release: str) -> str:
    """The command that continues from a drift: the diagnosis of the newer release.

    Empty where an emulated release does what no candidate of a diagnosis does: one of its nodes rounds otherwise, or
    it rounds at another precision than its gates are of.

    Args:
        target: the case file, or a bare model.
        inputs: the shapes that such a model was given.
        precision: the precision under test.
        release: the newer release.
    """
    words = ["harness", "diagnose", *target_words(target, inputs), "--precision"]
    if not is_emulated(release):
        return command(*words, precision.value, "--env", release)
    emulated = EmulatedRelease.parse(release)
    if emulated.planted is not None or emulated.rounds_to(precision) is not precision:
        return ""
    return command(*words, precision.value)


def waivers_of(records: pd.DataFrame) -> Waivers:
    """The waivers in the case files that `records` name, as far as those can still be read.

    Args:
        records: rows of one run, with the columns `case` and `case_path`.
    """
    found = {}
    for case, path in records[["case", "case_path"]].drop_duplicates().itertuples(index=False):
        if isinstance(path, str) and path.endswith((".yaml", ".yml")):
            try:
                found[str(case)] = load_case(path).waivers
            except HarnessError:
                continue
    return found
