"""The error of every observed tensor, accumulated and introduced, in chunks under the memory budget."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from harness.backends import (
    FILE,
    Candidate,
    Computed,
    Emulator,
    Observation,
    ObservedEngine,
    Plan,
    Timing,
    arrange,
)
from harness.case import Tolerance
from harness.comparison import Accumulator, RelativeError, RelativeErrorSum
from harness.judge.outputs import TensorGates
from harness.judge.regions import mark_origins
from harness.judge.results import LayerResult
from harness.judge.workbench import Workbench
from harness.tensors import Precision
from harness.text import names

COPIES = (
    6  # reference, candidate, emulator, and the introduced error's pair of each tensor, with their inputs
)
MOST_NAMED = 5
LARGE = 1 << 16
"""From so many elements on, comparing two tensors is worth a thread of its own."""
THREADS = 4
_Pair = tuple[Accumulator | RelativeErrorSum, np.ndarray, np.ndarray]


@dataclass
class LayerSums:
    """Accumulators by tensor: of the candidate, of the emulator beside it, and of the introduced error.

    Args:
        alone: whether there is one sample.
        emulated: whether the candidate is the emulator: there is nothing beside it.
        known: by tensor, what the introduced error is known to be; None: it is to be measured.
        brief: whether only gates are asked for.
    """

    alone: bool
    emulated: bool
    candidate: dict[str, Accumulator] = field(default_factory=dict)
    beside: dict[str, RelativeErrorSum] = field(default_factory=dict)
    introduced: dict[str, RelativeErrorSum] = field(default_factory=dict)
    known: Mapping[str, RelativeError] | None = None
    brief: bool = False

    def of(self, name: str, rules: TensorGates) -> Accumulator:
        """The accumulator of a tensor of the candidate."""
        if name not in self.candidate:
            options = rules.options(name, is_output=False, brief=self.brief)
            dtype = rules.precision.storage_dtype
            self.candidate[name] = Accumulator(dtype=dtype, options=options, alone=self.alone)
        return self.candidate[name]


def measure_layers(
    bench: Workbench,
    candidate: Candidate,
    plan: Plan,
    tolerances: tuple[Tolerance, ...],
    *,
    samples: Sequence[int] | None = None,
    judged_as: Precision | None = None,
    idle: Callable[[], None] = lambda: None,
    known: Sequence[Computed] = (),
    keep: bool = False,
    introduced: Mapping[str, RelativeError] | None = None,
    brief: bool = False,
) -> tuple[tuple[LayerResult, ...], list[tuple[ObservedEngine, ...]]]:
    """Observe `candidate` under `plan` and compare every float tensor that it gives with the FP32 reference.

    Args:
        bench: the case.
        candidate: what is observed.
        plan: how.
        tolerances: the case's rules.
        samples: positions of the samples to measure; None: all.
        judged_as: the precision that the emulator beside it has, and whose gates hold; by default that of `plan`.
        idle: called when the last sample has been observed.
        known: what the emulator that is the candidate has computed already, sample by sample.
        keep: keep what the emulator computes, beside what the reference does, for whoever asks again.
        introduced: the introduced errors that are known, and all that are wanted; None measures them.
        brief: measure what the gates ask for, and no other metric: where the error starts is all that is wanted.

    Returns:
        The layers in topological order, and for each sample the engines that were observed.
    """
    precision = judged_as or plan.precision
    emulated = isinstance(candidate, Emulator)
    beside = candidate if isinstance(candidate, Emulator) else bench.beside_engine(precision)
    samples = range(len(bench.feeds)) if samples is None else samples
    sums, rules = (
        LayerSums(len(samples) == 1, emulated, known=introduced, brief=brief),
        TensorGates(bench.model, tolerances, precision),
    )
    engines: list[tuple[ObservedEngine, ...]] = []
    for sample in samples:
        feeds, chosen = bench.feeds[sample], None
        observed: dict[str, np.ndarray] = {}
        failures: Mapping[str, str] = {}
        joined: Mapping[str, tuple[int, ...]] = {}
        wanted = bench.layers_of(candidate)
        if not emulated:
            evaluation = candidate.evaluate(plan, feeds, timing=Timing())  # nobody asks how fast it is
            observed, failures = dict(evaluation.tensors), evaluation.failures
            joined = evaluation.joined
            engines.append(evaluation.observed)
            if sample == samples[-1]:
                idle()
            wanted = tuple(name for name in wanted if name in observed or name in failures)
        elif candidate is bench.emulator or candidate.name == FILE:
            lowered = [name for name in beside.units(precision) if name not in plan.islands]
            chosen = bench.choices.of_emulator(precision, sample, lowered, beside)
        own = chosen is None and bench.reference is bench.itself
        for chunk in bench.memory.chunks(wanted, copies=COPIES):
            computed = Computed(observed, failures)
            reference = (
                bench.reference_tensors(sample, chunk, copies=COPIES)
                if chosen is None
                else chosen.run(feeds, chunk)
            )
            _arrange(observed, reference, joined)
            before = known[sample] if known else None
            if before is None and not plan.islands and (beside.units(precision) or not own):
                most = 2 * bench.memory_budget // COPIES if keep else 0
                before = bench.emulated_tensors(beside, precision, sample, tuple(reference), keep=most)
            _measure_chunk(
                beside, plan.islands, feeds, reference, computed, sums, rules, own=own, known=before
            )
            for name in chunk:
                observed.pop(name, None)
    return _results(rules, sums, {} if bench.answers is None else bench.answers.counterparts), engines


def _arrange(
    observed: dict[str, np.ndarray],
    reference: Mapping[str, np.ndarray],
    joined: Mapping[str, tuple[int, ...]],
) -> None:
    """Put what an engine gave with axes joined into the order of the reference; what has no known order is left out."""
    for name in reference.keys() & joined.keys():
        value = arrange(observed.pop(name), reference[name], joined[name])
        if value is not None:
            observed[name] = value


def _measure_chunk(
    beside: Emulator,
    islands: frozenset[str],
    feeds: Mapping[str, np.ndarray],
    reference: Mapping[str, np.ndarray],
    observed: Computed,
    sums: LayerSums,
    rules: TensorGates,
    *,
    own: bool,
    known: Computed | None,
) -> None:
    """Add what one chunk shows to `sums`; `own`: whether the reference is the model itself; `known`: what `beside` has
    computed already."""
    precision, chunk = rules.precision, tuple(reference)
    lowered = [name for name in beside.units(precision) if name not in islands]
    emulated = Computed(reference)
    if known is not None and all(name in known.tensors or name in known.failures for name in chunk):
        emulated = known
    elif lowered or not own:
        emulated = beside.attempt(feeds, precision, lowered=lowered, tensors=chunk)

    compared: list[_Pair] = []
    judged = emulated if sums.emulated else observed
    for name in chunk:
        if name in judged.failures:
            sums.of(name, rules).fail(reference[name], judged.failures[name])
        elif name in judged.tensors:
            compared.append((sums.of(name, rules), np.asarray(judged.tensors[name]), reference[name]))
        if sums.emulated:
            continue
        beside_it = sums.beside.setdefault(name, RelativeErrorSum())
        if name in emulated.failures:
            beside_it.fail(reference[name])
        elif name in emulated.tensors:
            compared.append((beside_it, np.asarray(emulated.tensors[name]), reference[name]))
    _compare(compared)
    del emulated, compared
    if sums.known is not None:
        return
    introduced = _introduced(beside, precision, feeds, chunk, reference if own else None)
    alone = sums.introduced
    _compare([(alone.setdefault(name, RelativeErrorSum()), *pair) for name, pair in introduced.items()])


def _compare(pairs: Sequence[_Pair]) -> None:
    """Add each candidate and its reference to its sums: large ones in threads, as NumPy lets go of Python."""
    large = [pair for pair in pairs if pair[1].size >= LARGE]
    small = [pair for pair in pairs if pair[1].size < LARGE]
    with ThreadPoolExecutor(min(THREADS, len(os.sched_getaffinity(0)))) as pool:
        futures = [pool.submit(total.update, *pair) for total, *pair in large]
        for total, *pair in small:
            total.update(*pair)
        for future in futures:
            future.result()


def relative_errors(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, RelativeError]:
    """The relative error of each tensor over its reference, large ones in threads."""
    sums = {name: RelativeErrorSum() for name in pairs}
    _compare([(sums[name], *pair) for name, pair in pairs.items()])
    return {name: each.result() for name, each in sums.items()}


def _introduced(
    emulator: Emulator,
    precision: Precision,
    feeds: Mapping[str, np.ndarray],
    chunk: tuple[str, ...],
    reference: Mapping[str, np.ndarray] | None,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    units = set(emulator.units(precision))
    producers = [emulator.model.producer(name) for name in chunk]
    nodes = list(dict.fromkeys(node.name for node in producers if node is not None and node.name in units))
    if not nodes:
        return {}
    exact, low = emulator.introduced(feeds, precision, nodes, reference)
    return {name: (low[name], exact[name]) for name in chunk if name in low}


def _results(rules: TensorGates, sums: LayerSums, counterparts: Mapping[str, str]) -> tuple[LayerResult, ...]:
    """The layers with their gates; an engine is compared with the emulator at the same precision."""
    layers = []
    for name, measured in sums.candidate.items():
        node = rules.model.producer(name)
        assert node is not None
        metrics = measured.result()
        baseline = None if sums.emulated else sums.beside[name].rmse
        alone = sums.introduced.get(name)
        known = None if sums.known is None else sums.known.get(name)
        layers.append(
            LayerResult(
                index=node.index,
                node=node.name,
                op=node.op,
                tensor=name,
                metrics=metrics,
                introduced=known if alone is None else alone.result(),
                gates=rules.check(name, metrics, baseline, is_output=False),
                origin=False,
                counterpart=counterparts.get(name),
            )
        )
    return mark_origins(layers, rules.model)


def beyond_own_limits(
    layers: Sequence[LayerResult], tolerances: Sequence[Tolerance], precision: Precision
) -> str | None:
    """A warning where layers fail limits that the case gives to layers by name, for a run whose outputs pass."""
    rules = [rule for rule in tolerances if rule.layer]
    beyond = [
        layer.tensor
        for layer in layers
        if layer.diverged
        and any(
            rule.matches(precision, tensor=layer.tensor, node=layer.node, is_output=False) for rule in rules
        )
    ]
    if not beyond:
        return None
    subject = f"{names(beyond, MOST_NAMED)} {'is' if len(beyond) == 1 else 'are'}"
    return f"{subject} beyond the limits that the case gives these layers, although every output passes"


def observation_for(candidate: Candidate, wanted: Observation | None) -> Observation:
    """How to look at the layers: as wanted; else by debug tensors where the release has those between its kernels.

    They move no output. Without them, and for the emulator, it is typed.

    Raises:
        CandidateError: the worker does not start.
    """
    if isinstance(candidate, Emulator):
        return Observation.TYPED
    if wanted is not None:
        return wanted
    probe = candidate.probe()
    between_kernels = probe is not None and "unfused_debug_tensors" in probe.capabilities
    return Observation.DEBUG if between_kernels else Observation.TYPED


SAME_FAULT = (
    0.5  # an observed error vector this near the unobserved one, relative to its length, is the same fault
)


def is_faithful(
    observed: Mapping[str, np.ndarray],
    unobserved: Mapping[str, np.ndarray],
    reference: Mapping[str, np.ndarray],
    limits: Mapping[str, float],
) -> bool:
    """Whether the observed engine's real outputs equal the unobserved engine's within the noise.

    Two builds of a sound engine differ by rounding, so a difference below what the gates let pass is noise. Beyond
    it both must show the same fault: non-finite values in mostly the same places, and elsewhere error vectors that
    differ by less than half of the unobserved error.

    Args:
        observed: outputs of the engine whose intermediate tensors were read.
        unobserved: outputs of the engine that a user would deploy.
        reference: outputs in FP32.
        limits: for each output, the root mean square error that its gates let pass.
    """
    return all(
        _same(
            np.asarray(observed[name], dtype=np.float64),
            np.asarray(unobserved[name], dtype=np.float64),
            np.asarray(reference[name], dtype=np.float64),
            limits.get(name, 0.0),
        )
        for name in unobserved
        if name in observed
    )


def _same(observed: np.ndarray, unobserved: np.ndarray, reference: np.ndarray, limit: float) -> bool:
    if observed.shape != unobserved.shape:
        return False
    if unobserved.shape != reference.shape:
        return True  # the fault is the shape, and it is the same
    broken, observed_broken = _broken(unobserved, reference), _broken(observed, reference)
    if (broken & observed_broken).sum() < SAME_FAULT * (broken | observed_broken).sum():
        return False
    finite = np.isfinite(unobserved) & np.isfinite(observed) & np.isfinite(reference)
    if broken.any() or not finite.any():
        return True  # what is left beside infinities and NaN says little of the fault
    difference = _rms(observed[finite] - unobserved[finite])
    error = _rms(unobserved[finite] - reference[finite])
    return difference <= max(limit, SAME_FAULT * error)


def _broken(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Where one is not finite and the other not the same: an infinity of the reference is no fault."""
    broken: np.ndarray = ~(np.isfinite(values) & np.isfinite(reference)) & (values != reference)
    return broken


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values * values)))
