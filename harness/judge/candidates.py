"""Where candidates come from: the emulator, or an engine in an environment of harness.toml."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.backends import FILE, SAVED, Assumed, Candidate
from harness.case import Case, RunSpec
from harness.errors import CandidateError
from harness.judge.results import Cause, Emulation, RunReason
from harness.judge.workbench import Workbench, profiles_of
from harness.model import Model, stands_in, units_of
from harness.tensors import Accumulate, Precision
from harness.worker.protocol import PACKAGE_OF, TENSORRT_RTX

if TYPE_CHECKING:
    from harness.backends import TensorRTCandidate
    from harness.environments import Environment, Supervisor


EMULATOR = "emulator"
NO_KERNELS = "none"
WITHOUT_ENGINE = (EMULATOR, FILE, SAVED)
TIMED_INFERENCES = 50


class Candidates:
    """Makes candidates by name and keeps the engines of the model at hand.

    Workers belong to the process, not to a model: they stay until `close`.

    Args:
        config: the harness.toml to read; by default the nearest one upwards.
        lane: which of the lanes that share a GPU: its workers are its own.
    """

    def __init__(self, config: Path | None = None, lane: int = 0) -> None:
        self._config, self._lane = config, lane
        self._open: dict[str, Candidate] = {}
        self._ahead: dict[str, tuple[Workbench, Candidate]] = {}

    @cached_property
    def environments(self) -> Mapping[str, Environment]:
        """The environments of harness.toml, read once."""
        from harness.environments import load

        found = load(self._config)
        return {name: replace(environment, lane=self._lane) for name, environment in found.items()}

    @cached_property
    def emulated_kernels(self) -> str | None:
        """The environment whose kernels the emulator assumes where nobody says else, as harness.toml names it."""
        from harness.environments import emulated_kernels

        return emulated_kernels(self._config)

    def get(self, name: str, bench: Workbench) -> Candidate:
        """The candidate `name` for the model of `bench`.

        Raises:
            EnvironmentConfigError: no environment has this name.
        """
        if name in WITHOUT_ENGINE and name not in self._open:
            return bench.file if name == FILE else bench.emulator
        if name not in self._open:
            self._open[name] = self.prepare(name, bench)
            del self._ahead[name]
        return self._open[name]

    def prepare(self, name: str, bench: Workbench) -> Candidate:
        """As `get`, for a model that is not at hand yet: `get` returns the same candidate when it is."""
        prepared = self._ahead.get(name)
        if prepared is not None and prepared[0] is not bench:
            prepared[1].close()
        if prepared is None or prepared[0] is not bench:
            self._ahead[name] = bench, self._engine(name, bench)
        return self._ahead[name][1]

    def offer(self, name: str, candidate: Candidate) -> None:
        """Let `get` return `candidate` for `name`, for the model at hand."""
        self._open[name] = candidate

    def check(self, names: tuple[str, ...]) -> None:
        """Raise EnvironmentConfigError for the first name that is neither the emulator nor an environment."""
        for name in names:
            if name not in WITHOUT_ENGINE:
                self._environment(name)

    def check_kernels(self, kernels: str | None) -> None:
        """Raise EnvironmentConfigError where the kernels to assume are of no environment.

        Args:
            kernels: as JudgeOptions has them; None is what harness.toml names.
        """
        kernels = kernels or self.emulated_kernels or NO_KERNELS
        if kernels != NO_KERNELS:
            self.check((kernels,))

    def assumed(
        self, name: str, case: Case, *, kernels: str | None = None, accumulate: Accumulate | None = None
    ) -> Assumed:
        """What the emulator assumes, as the candidate `name` or beside it.

        Args:
            name: the candidate.
            case: the case, which may say how products are added up.
            kernels: the environment whose kernels are assumed, or `none`; None is the environment itself for an engine
                of TensorRT for RTX, and for the emulator what harness.toml names.
            accumulate: what products of FP16 are added up in, whatever the case says.

        Raises:
            EnvironmentConfigError: no environment has the name.
            CandidateError: the worker does not start.
        """
        own, product, release = None, TENSORRT_RTX, ""
        is_engine = name not in WITHOUT_ENGINE and name in self.environments
        if is_engine:
            probe = self._supervisor(name).probe()
            product = probe.product
            if product == TENSORRT_RTX:  # all of whose releases add up alike
                own = name
            else:
                own, release = NO_KERNELS, probe.tensorrt
        chosen = kernels or own or self.emulated_kernels or NO_KERNELS
        compiler = None if chosen == NO_KERNELS else self._environment(chosen)
        how = accumulate or case.accumulate
        if how is Accumulate.AUTO:
            how = Accumulate.FP16 if is_engine or compiler is not None else Accumulate.FP32
        return Assumed(how, compiler, kernels is None and is_engine, product, release)

    def emulation(self, name: str, assumed: Assumed) -> Emulation:
        """What is assumed, in words, and whose rules are taken where the release of the candidate was not measured.

        Args:
            name: the candidate.
            assumed: what the emulator assumes, as it or beside it.
        """
        from harness.compiler import probe_of
        from harness.environments import shared_supervisor

        if assumed == Assumed():
            return Emulation()
        environment = self.environments.get(name, assumed.compiler)
        rules = None
        if environment is not None:
            with contextlib.suppress(CandidateError):  # a run that needs the worker says so
                probe = probe_of(environment, shared_supervisor(environment))
                rules = stands_in(probe.product, probe.tensorrt)
        return Emulation(assumed.kernels, assumed.accumulate, rules)

    def start_ahead(self, names: Iterable[str]) -> None:
        """Start the workers that are asked first, in the background: models and references are made meanwhile."""
        known = [name for name in names if name != EMULATOR and name in self.environments]
        for lane in self.lanes(known) if known else ():
            self._supervisor(lane[0]).start_ahead()

    def lanes(self, names: Iterable[str]) -> list[tuple[str, ...]]:
        """`names` by what they keep busy: those on the same GPU together, the emulator by itself."""
        by_device: dict[int | str | None, list[str]] = {}
        for name in names:
            by_device.setdefault(self.device_of(name), []).append(name)
        return [tuple(lane) for lane in by_device.values()]

    def device_of(self, name: str) -> int | str | None:
        """What a candidate keeps busy: a GPU by its number, or the processor."""
        return EMULATOR if name in WITHOUT_ENGINE else self._environment(name).gpu

    def beside(self, names: Iterable[str]) -> int:
        """How many lanes may share the GPU of these environments: builds of TensorRT for RTX need none.

        Those of TensorRT time kernels on it: one lane. Waits for the first word of the workers, where that decides.
        """
        names = tuple(names)
        if any(name in WITHOUT_ENGINE or name not in self.environments for name in names):
            return 1
        count = min(self.environments[name].limits.lanes for name in names)
        if count == 1:
            return 1
        try:
            products = {self._supervisor(name).product() for name in names}
        except CandidateError:  # which the runs say
            return 1
        return count if products == {TENSORRT_RTX} else 1

    def lacking(self, name: str, case: Case, spec: RunSpec) -> RunReason | None:
        """Why an environment's release is not one to judge this run on: too old for the case, or for the precision.

        Raises:
            CandidateError: the worker does not start.
        """
        probe = self._supervisor(name).probe()
        if not case.allows_release(probe.tensorrt, PACKAGE_OF[probe.product]):
            needed = ", ".join(case.required_releases)
            return RunReason(
                Cause.RELEASE, f"needs {needed}, and {name} has {probe.product} {probe.tensorrt}"
            )
        if spec.precision not in probe.capabilities:
            detail = f"{probe.product} {probe.tensorrt} has no precision {spec.precision}"
            return RunReason(Cause.PRECISION, detail)
        return None

    def again(self, lane: int = 0) -> Candidates:
        """Candidates of the same environments, with engines of their own, and workers for each lane."""
        return Candidates(self._config, lane)

    def abort(self) -> None:
        """Kill the workers, whatever they do: what waits for them fails at once."""
        from harness.environments import abort_shared

        abort_shared()

    def _engine(self, name: str, bench: Workbench) -> TensorRTCandidate:
        from harness.backends import TensorRTCandidate, Timing

        case = bench.case
        make: Callable[..., TensorRTCandidate] = TensorRTCandidate
        if case.build.pins is not None:
            from harness.tactics import PinnedCandidate, load_pins

            make = partial(PinnedCandidate, pins=[load_pins(case.resolve(path)) for path in case.build.pins])
        return make(
            self._environment(name),
            bench.model,
            profiles=profiles_of(case),
            calibration=bench.feeds,
            timing=Timing(repeats=TIMED_INFERENCES, layers=True),
        )

    def _environment(self, name: str) -> Environment:
        """The environment of that name.

        Raises:
            EnvironmentConfigError: there is none.
        """
        from harness.environments import select

        return select(name, self.environments)

    def _supervisor(self, name: str) -> Supervisor:
        """Who keeps its workers."""
        from harness.environments import shared_supervisor

        return shared_supervisor(self._environment(name))

    def release_model(self) -> None:
        """Forget the engines of the model at hand; workers stay."""
        for candidate in self._open.values():
            candidate.close()
        self._open.clear()

    def close(self) -> None:
        """Free the engines and end the workers. Calling it twice is allowed."""
        self.release_model()
        for _, candidate in self._ahead.values():
            candidate.close()
        self._ahead.clear()
        self.end_workers()

    def end_workers(self) -> None:
        """End the workers; engines are gone then."""
        if "environments" in self.__dict__:
            from harness.environments import close_shared

            close_shared()


_WHY = {
    Precision.INT8: "the model has no Q/DQ nodes to say how. Engines up to TensorRT 10 are calibrated on the inputs "
    "of the case: name one with --env",
    Precision.TF32: "TF32 rounds what matrix products and convolutions read in FP32, and the model has none",
}
_QUANTIZED = (
    "the INT8 of this model is its own Q/DQ nodes, and the reference has them, too. An engine is what can differ: name "
    "one with --env"
)
_ELSE = "no node computes float32 tensors from the inputs"


def nothing_to_round(model: Model, precision: Precision) -> str | None:
    """Why the emulator at `precision` would compute the reference once more; None where it does not.

    FP32 is never refused: that run shows that there is a reference, and that it is the golden one.
    """
    if precision is Precision.FP32 or units_of(model, precision):
        return None
    why = _QUANTIZED if precision is Precision.INT8 and model.quantized else _WHY.get(precision, _ELSE)
    return f"the emulator has nothing to round for {precision}: {why}"
