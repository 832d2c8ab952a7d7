"""How long the kernels of an engine take on a GPU, by the engine's own profiler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.backends import Plan, TensorRTCandidate, Timing
from harness.case import BuildOptions
from harness.environments import Environment, shared_supervisor
from harness.errors import CandidateError
from harness.model import Model
from harness.tensors import Precision
from harness.worker.protocol import TENSORRT_RTX, KernelList, Profile

_TIMING = Timing(repeats=20, layers=True)


@dataclass(frozen=True)
class KernelTimes:
    """What an inference takes on a GPU, and each kernel in it. Milliseconds, medians, without copies.

    Args:
        gpu: its name.
        inference_ms: a whole inference; None if it was not measured.
        kernel_ms: by kernel, in the order of the list, measured one by one in another context; None where the profiler
            names no such kernel. Kernels of one name get an equal share.
        other_ms: what the profiler measured under names that no kernel has.
    """

    gpu: str
    inference_ms: float | None
    kernel_ms: tuple[float | None, ...]
    other_ms: float = 0.0

    @property
    def all_kernels_ms(self) -> float:
        """The sum over the kernels that were measured."""
        return sum(each for each in self.kernel_ms if each is not None)


@dataclass(frozen=True)
class TimedEngine:
    """An engine that was run: its kernels, which may be others than those of an earlier build, and their times.

    Args:
        kernels: None where the inspector does not name them.
        times: None where it could not be run.
        why_not: why; empty if it was.
    """

    kernels: KernelList | None = None
    times: KernelTimes | None = None
    why_not: str = ""


def time_kernels(
    model: Model,
    precision: Precision,
    environment: Environment,
    feeds: Mapping[str, np.ndarray],
    profiles: Mapping[str, Profile],
) -> TimedEngine:
    """Build an engine of `model`, run it on `feeds`, and time its kernels.

    Args:
        model: the model.
        precision: as in `compile_model`.
        environment: where.
        feeds: the inputs by name; kernels are timed at their shapes.
        profiles: (minimum, optimum, maximum) shape of each input with a dynamic axis.

    Raises:
        CandidateError: the worker does not start.
    """
    probe = shared_supervisor(environment).probe()
    if probe.gpu is None:
        return TimedEngine(why_not="there is no GPU")
    if probe.cannot_run is not None:
        return TimedEngine(why_not=probe.cannot_run)
    if "profiler" not in probe.capabilities:
        return TimedEngine(why_not=f"{probe.product} {probe.tensorrt} has no profiler")
    # TensorRT for RTX obeys a variable of the process alone: what is timed is what is deployed, with TF32.
    options = BuildOptions(tf32=True) if probe.product == TENSORRT_RTX else BuildOptions()
    candidate = TensorRTCandidate(environment, model, profiles=profiles, calibration=[feeds], timing=_TIMING)
    try:
        facts = candidate.evaluate(Plan(precision, build=options), feeds).engine
    except CandidateError as error:
        return TimedEngine(why_not=error.message)
    finally:
        candidate.close()
    assert facts is not None
    if facts.kernels is None:
        return TimedEngine(why_not="the inspector does not name the kernels")
    median = None if facts.latency is None else facts.latency.median_ms
    return TimedEngine(facts.kernels, timed(facts.kernels, facts.layer_ms, probe.gpu, median))


def timed(
    listed: KernelList, layer_ms: Mapping[str, float], gpu: str, inference_ms: float | None
) -> KernelTimes:
    """The times of the kernels of a list, from those by name."""
    counts = Counter(kernel.name for kernel in listed.kernels)
    return KernelTimes(
        gpu,
        inference_ms,
        tuple(
            layer_ms[kernel.name] / counts[kernel.name] if kernel.name in layer_ms else None
            for kernel in listed.kernels
        ),
        sum(ms for name, ms in layer_ms.items() if name not in counts),
    )
