"""Pins: the choices of a build that passes, in files that make TensorRT choose them again.

A folder of pins holds `pins.json` (a `TacticRecord`), `build_pinned.py`, which builds an engine with them and needs
TensorRT alone, the timing cache with these choices and no others where the release can edit it, and the model: as its
typed graph where the network is strongly typed, as it is where it is in no other file. Pins are of one model,
precision, release and GPU: nothing of them carries over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from harness.backends import Evaluation, Observation, Plan, TensorRTCandidate, Tensors, Timing
from harness.environments import Environment, Supervisor
from harness.errors import PinsNotTakenError, UsageError
from harness.model import LOW_DTYPE, Model, save_model, with_islands
from harness.tactics.record import TacticRecord, load_record
from harness.tactics.result import brief
from harness.tensors import Precision, write_bytes, write_text
from harness.worker.protocol import (
    CACHE,
    Fingerprint,
    Miss,
    PinnedTactics,
    Profile,
    TacticOrders,
    TacticReport,
    reformatted_layer,
)

PINS, SCRIPT, CACHE_FILE, MODEL = "pins.json", "build_pinned.py", "timing.cache", "model.onnx"


@dataclass(frozen=True)
class Pins:
    """The choices of one build.

    Args:
        record: the build.
        path: the file that they come from.
    """

    record: TacticRecord
    path: Path

    @property
    def cache(self) -> Path | None:
        """The timing cache beside the file, if there is one."""
        cache = self.path.with_name(CACHE_FILE)
        return cache if cache.is_file() else None

    def belong_to(self, fingerprint: Fingerprint, precision: Precision) -> bool:
        """Whether they were made on this release and GPU, at this precision."""
        ours = self.record.fingerprint
        same = ours is not None and _decisive(ours) == _decisive(fingerprint)
        return same and self.record.precision is precision


def load_pins(path: Path | str) -> Pins:
    """Read `pins.json`, or that of a folder.

    Raises:
        UsageError: there is no such file, or it holds no record of tactics.
    """
    file = Path(path)
    file = file / PINS if file.is_dir() else file
    return Pins(load_record(file), file)


def export_pins(
    record: TacticRecord,
    folder: Path,
    *,
    model: Model | None = None,
    cache: bytes | None = None,
) -> Path:
    """Write the choices of a build so that TensorRT makes them again; the path of `pins.json`.

    Args:
        record: of a build that passes.
        folder: is made if it is missing.
        model: the model. It is written beside the pins where it is in no file, and as its typed graph, from which
            a strongly typed network is built.
        cache: a timing cache with these choices, for releases that can edit it; see `pinned_cache`.

    Raises:
        UsageError: the record has no choices.
    """
    if not record.choices:
        raise UsageError("a build that recorded no choices cannot be pinned")
    # Alternatives and what came of orders are of that build, and nobody's orders.
    made = record.report
    report = TacticReport(made.mechanism, made.choices, flags=made.flags, layer_types=made.layer_types)
    replace(record, report=report).save(folder / PINS)
    write_text(folder / SCRIPT, (files("harness.scripts") / SCRIPT).read_text("utf-8"))
    if cache is not None:
        write_bytes(folder / CACHE_FILE, cache)
    if model is not None and record.typing == "strong" and record.precision in LOW_DTYPE:
        save_model(with_islands(model, record.precision, frozenset()), folder / MODEL)
    elif model is not None and model.path is None:
        save_model(model, folder / MODEL)
    return folder / PINS


def pinned_cache(
    candidate: TensorRTCandidate, plan: Plan, feeds: Tensors, record: TacticRecord
) -> tuple[bytes, TacticRecord] | None:
    """The timing cache that holds the choices of `record` and nothing else; None where releases have no such cache.

    One build. What it chose comes with it.

    Raises:
        PinsNotTakenError: TensorRT did not take the choices.
        CandidateError: the build failed.
    """
    if record.report.mechanism != CACHE:
        return None
    path = candidate.supervisor.worker().folder / f"pins-{record.model[:16]}.cache"
    orders = TacticOrders(force=record.choices, mechanism=CACHE, save_cache_path=str(path))
    evaluation = candidate.evaluate(replace(plan, tactics=orders), feeds)
    report = refuse_if_missed(evaluation, None)
    content = path.read_bytes()
    path.unlink()
    return content, replace(record, report=report)


def refuse_if_missed(evaluation: Evaluation, pins: Pins | None) -> TacticReport:
    """What an engine was built with, if it was built with all of its pinned choices.

    Raises:
        PinsNotTakenError: it was not.
    """
    report = None if evaluation.engine is None else evaluation.engine.tactics
    if report is None:
        raise PinsNotTakenError(
            "the engine does not report which tactics it was built with",
            where=None if pins is None else pins.path,
        )
    # A copy between formats that is not needed is not there: the formats around it fit.
    missed = [
        miss
        for miss in report.misses
        if not (miss.taken is None and reformatted_layer(miss.choice.layer) is not None)
    ]
    if missed:
        raise PinsNotTakenError(
            f"the engine was built without {len(missed)} of its pinned tactics: {_worded(missed[0])}",
            where=None if pins is None else pins.path,
            hint="export the pins again: the network, its build options or the environment have changed",
            evidence=[_worded(miss) for miss in missed],
        )
    return report


class PinnedCandidate(TensorRTCandidate):
    """Engines of a case whose tactics are pinned.

    A plan without orders and without observation is built with the pins of the release, GPU and precision, and an
    engine that was not is an error. Where there are none for them, it is built without, and a warning says so.
    Observed engines and islands are other networks, with other layers, and are built without.
    """

    def __init__(
        self,
        environment: Environment,
        model: Model,
        *,
        pins: Sequence[Pins],
        supervisor: Supervisor | None = None,
        profiles: Mapping[str, Profile] | None = None,
        calibration: Sequence[Tensors] = (),
        timing: Timing | None = None,
    ) -> None:
        super().__init__(
            environment,
            model,
            supervisor=supervisor,
            profiles=profiles,
            calibration=calibration,
            timing=timing,
        )
        self.pins = tuple(pins)

    def evaluate(self, plan: Plan, feeds: Tensors, *, timing: Timing | None = None) -> Evaluation:
        """As `TensorRTCandidate.evaluate`; the fact `pins` names the file and how many choices were taken.

        Raises:
            PinsNotTakenError: TensorRT did not take the pinned choices.
            UsageError: the pins are of another model.
        """
        pins = self._pins_for(plan)
        if pins is None:
            evaluation = super().evaluate(plan, feeds, timing=timing)
            unpinned = plan.observation is Observation.NONE and not plan.islands
            if unpinned and evaluation.engine is not None:
                warnings = (*evaluation.engine.warnings, self._unpinned(plan))
                return replace(evaluation, facts=replace(evaluation.engine, warnings=warnings))
            return evaluation
        evaluation = super().evaluate(self._with(plan, pins), feeds, timing=timing)
        report = refuse_if_missed(evaluation, pins)
        assert evaluation.engine is not None  # or refuse_if_missed had raised
        taken = PinnedTactics(str(pins.path), len(report.choices))
        return replace(evaluation, facts=replace(evaluation.engine, pins=taken))

    def key(self, plan: Plan, feeds: Tensors) -> str:
        """The name of an evaluation, its pins included."""
        pins = self._pins_for(plan)
        return super().key(plan if pins is None else self._with(plan, pins), feeds)

    def _pins_for(self, plan: Plan) -> Pins | None:
        ordered = plan.tactics is not None and (plan.tactics.force or plan.tactics.forbid)
        if ordered or plan.observation is not Observation.NONE or plan.islands:
            return None
        fingerprint = self.fingerprint()
        found = next((pins for pins in self.pins if pins.belong_to(fingerprint, plan.precision)), None)
        if found is not None and found.record.model != self.model.sha256:
            raise UsageError(
                f"these pins are of another model than {self.model.name}",
                where=found.path,
                hint="the model has changed since: export its pins again",
            )
        return found

    def _with(self, plan: Plan, pins: Pins) -> Plan:
        orders = plan.tactics or TacticOrders()
        mechanism = pins.record.report.mechanism
        orders = replace(orders, force=pins.record.choices, mechanism=mechanism)
        if mechanism == CACHE and pins.cache is not None:
            orders = replace(orders, cache_path=str(self._handed(pins.cache)), strict=True)
        return replace(plan, tactics=orders)

    def _handed(self, cache: Path) -> Path:
        """The timing cache where the worker can read it, which may live in a container."""
        content = cache.read_bytes()
        copy = self.supervisor.worker().folder / f"pins-{hashlib.sha256(content).hexdigest()[:16]}.cache"
        if not copy.exists():
            write_bytes(copy, content)
        return copy

    def _unpinned(self, plan: Plan) -> str:
        here = self.fingerprint()
        return (
            f"no pins are of TensorRT {here.tensorrt} on {here.gpu} at {plan.precision}: built without "
            f"({', '.join(str(pins.path) for pins in self.pins)})"
        )


def _worded(miss: Miss) -> str:
    taken = f", {brief([miss.taken])} was taken" if miss.taken is not None else ""
    return f"{miss.choice.layer}: {brief([miss.choice])} was {miss.why}{taken}"


def _decisive(fingerprint: Fingerprint) -> tuple[str | None, ...]:
    """What of a fingerprint decides whether pins apply."""
    return fingerprint.tensorrt, fingerprint.gpu, fingerprint.compute_capability
