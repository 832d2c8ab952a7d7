"""The emulator: what a candidate at a precision would compute, on ONNX Runtime's CPU provider, without a GPU; and the
file as a candidate: what it says itself, FP16 tensors and Q/DQ nodes included.

FP32 arithmetic with every lowered tensor rounded to the precision (see `harness.model.lowering`). A model that
carries Q/DQ nodes runs as it is; FP32 and INT8 lower nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial

import numpy as np
import onnxruntime as ort

from harness.backends.assumed import Assumed
from harness.backends.partitioned import left_out
from harness.backends.plan import Candidate, EmulatorFacts, Evaluation, Observation, Plan, Timing
from harness.backends.session import (
    FEW_THREADS,
    MEDIUM,
    SMALL,
    THREADS_LIMIT,
    Computed,
    GraphRunner,
    mean_size,
    run_as_far_as_possible,
    whole_number,
)
from harness.errors import NodeFailedError
from harness.model import (
    EXACT,
    LOWERED,
    Arithmetic,
    Model,
    lower,
    round_array,
    shadow,
    truncated_convolutions,
    units_of,
)
from harness.tensors import Precision
from harness.worker.protocol import Profile

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
Sessions = tuple[Precision, Shapes, tuple[str, ...], frozenset[str]]
"""What sessions are for: inputs of these shapes, these tensors, and products that are added up in FP32."""

FILE = "file"
"""What reports call this candidate."""

_INTEGER = re.compile(r"QLinear|QGemm|QAttention|DynamicQuantize|MatMulNBits|(MatMul|Conv)Integer")

SMALL_ISLAND = 64
"""Islands of up to so many nodes may get a session of their own."""

MOST_SMALL = 2
"""So many of them: a search begins with few suspects, and is wider than those only if they do not explain it."""

MOST_AHEAD = 8
"""So many inferences run side by side."""


class _Ahead:
    """Inferences that were begun before anybody asks for them, a few at a time.

    Args:
        key: of the session.
        feeds: what they are fed.
        begin: by what is lowered, how each is begun.
    """

    def __init__(
        self,
        key: Sessions,
        feeds: Mapping[str, np.ndarray],
        begin: Mapping[frozenset[str], Callable[[], Future[dict[str, np.ndarray]]]],
    ) -> None:
        self._key, self._feeds, self._left = key, feeds, dict(begin)
        self._begun: dict[frozenset[str], Future[dict[str, np.ndarray]]] = {}
        self._fill()

    def take(
        self, key: Sessions, feeds: Mapping[str, np.ndarray], chosen: frozenset[str]
    ) -> dict[str, np.ndarray] | None:
        """What came of one of them; None if it is none of them, after which no other is begun."""
        if key != self._key or feeds is not self._feeds:
            return None
        if chosen not in self._begun:
            self.drop()
            return None
        future = self._begun.pop(chosen)
        self._fill()
        return future.result()

    def drop(self) -> None:
        """Begin no other one, and leave those that nobody waits for."""
        self._left.clear()
        for future in self._begun.values():
            future.cancel()
        self._begun.clear()

    def _fill(self) -> None:
        while self._left and len(self._begun) < MOST_AHEAD:
            chosen = next(iter(self._left))
            self._begun[chosen] = self._left.pop(chosen)()


class Emulator(Candidate):
    """A candidate that needs no GPU. Few sessions serve every island of a precision.

    One lowers everything for good. The first small islands get one each in which only their nodes are switched, which
    is three times cheaper to make and is all that pruning needs; the first other one gets one that switches all.

    Args:
        model: the model.
        as_kernels: round what convolutions read in TF32 as measured kernels do, which is what an engine is compared
            with, and not as TF32 is defined.
        assumed: what is assumed of the engine that it stands for.
        profiles: (minimum, optimum, maximum) shape of the inputs that have one, for the compiler.
    """

    name = "emulator"

    def __init__(
        self,
        model: Model,
        *,
        as_kernels: bool = False,
        assumed: Assumed | None = None,
        profiles: Mapping[str, Profile] | None = None,
    ) -> None:
        self.model = model
        self.assumed = assumed or Assumed()
        self._profiles = profiles or {}
        self._as_kernels = as_kernels
        self._arithmetic: dict[tuple[Precision, Shapes], Arithmetic] = {}
        self._runners: dict[Sessions, dict[frozenset[str], GraphRunner]] = {}
        self._ahead: _Ahead | None = None
        self._shadows: dict[tuple[Precision, Shapes, tuple[str, ...]], GraphRunner | None] = {}
        self._weights: dict[Precision, dict[str, np.ndarray]] = {}
        self.evaluations = 0

    def units(self, precision: Precision) -> tuple[str, ...]:
        """Names of the nodes that `precision` lowers, in topological order."""
        return tuple(node.name for node in units_of(self.model, precision))

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        precision: Precision,
        *,
        lowered: Iterable[str] | None = None,
        tensors: Sequence[str] | None = None,
        fp32_sums: frozenset[str] = frozenset(),
    ) -> dict[str, np.ndarray]:
        """`tensors` (by default the model's outputs) with the nodes `lowered` (by default all) at `precision`.

        The products `fp32_sums` are added up in FP32, whatever is assumed.

        Returns:
            Tensors by name; float tensors are float32 that hold values of `precision`.

        Raises:
            ModelError: ONNX Runtime does not accept the model.
            NodeFailedError: a node failed; `attempt` computes what does not depend on it.
            InputDataError: the feeds do not fit.
        """
        wanted = self._wanted(tensors)
        chosen, fp32_sums = self._chosen(feeds, precision, lowered, fp32_sums)
        self.evaluations += 1
        key = (precision, self._shapes(feeds), wanted, fp32_sums)
        if self._ahead is not None and (found := self._ahead.take(key, feeds, chosen)) is not None:
            return found
        return self._runner(key, feeds, chosen).run(feeds, chosen)

    def run_ahead(
        self, feeds: Mapping[str, np.ndarray], precision: Precision, choices: Iterable[Iterable[str]]
    ) -> None:
        """Begin to run with each of `choices` lowered, in this order, side by side, for `run` to take.

        Nothing is begun where one inference takes several cores by itself; one session serves all in any case, where
        the largest island holds the others.
        """
        chosen = [self._chosen(feeds, precision, lowered, frozenset()) for lowered in choices]
        left = [nodes for nodes, fp32_sums in chosen if not fp32_sums]
        key = (precision, self._shapes(feeds), self._wanted(None), frozenset[str]())
        runners = {nodes: self._runner(key, feeds, nodes) for nodes in sorted(left, key=len)}
        if self._pool is None:
            return
        if self._ahead is not None:
            self._ahead.drop()
        if len(left) < 2:
            self._ahead = None
            return
        begin = {nodes: partial(self._pool.submit, runners[nodes].run, feeds, nodes) for nodes in left}
        whole = all(isinstance(runner.session, ort.InferenceSession) for runner in runners.values())
        self._ahead = _Ahead(key, feeds, begin) if whole else None

    @cached_property
    def _pool(self) -> ThreadPoolExecutor | None:
        """Threads for what is run ahead; None where the threads of one session leave no cores to another."""
        size = mean_size(self.model)
        cores = whole_number(THREADS_LIMIT) or len(os.sched_getaffinity(0))
        if size is None or size >= MEDIUM or self.model.operators is not None:
            return None
        sessions = min(cores // (1 if size < SMALL else FEW_THREADS), MOST_AHEAD)
        return ThreadPoolExecutor(sessions, "emulated ahead") if sessions > 1 else None

    def _chosen(
        self,
        feeds: Mapping[str, np.ndarray],
        precision: Precision,
        lowered: Iterable[str] | None,
        fp32_sums: frozenset[str],
    ) -> tuple[frozenset[str], frozenset[str]]:
        """What is lowered, and which products are added up in FP32, as kernels allow."""
        units = frozenset(self.units(precision))
        chosen = units if lowered is None else frozenset(lowered)
        if EXACT not in chosen and (chosen < units or fp32_sums):
            island, fp32_sums = self.arithmetic(precision, feeds).kept(units - chosen, fp32_sums)
            chosen = units - island
        return chosen, fp32_sums

    def attempt(
        self,
        feeds: Mapping[str, np.ndarray],
        precision: Precision,
        *,
        lowered: Iterable[str] | None = None,
        tensors: Sequence[str] | None = None,
        fp32_sums: frozenset[str] = frozenset(),
    ) -> Computed:
        """As `run`, but where a node fails, which rounding can bring about, the rest is computed all the same.

        Where the reference ran, such a failure is the answer of the precision: an index that is out of range, say.

        Raises:
            ModelError: ONNX Runtime does not accept the model.
            InputDataError: the feeds do not fit.
        """
        return run_as_far_as_possible(
            self.model,
            self._wanted(tensors),
            lambda names: self.run(feeds, precision, lowered=lowered, tensors=names, fp32_sums=fp32_sums),
        )

    def _wanted(self, tensors: Sequence[str] | None) -> tuple[str, ...]:
        return tuple(info.name for info in self.model.outputs) if tensors is None else tuple(tensors)

    def arithmetic(self, precision: Precision, feeds: Mapping[str, np.ndarray]) -> Arithmetic:
        """What is done otherwise than by the plain emulator, for inputs of these shapes.

        Raises:
            CandidateError: the compiler whose kernels are assumed cannot be asked, or cannot build the model.
        """
        key = (precision, self._shapes(feeds))
        if key not in self._arithmetic:
            self._arithmetic[key] = self.assumed.arithmetic(self.model, precision, feeds, self._profiles)
        return self._arithmetic[key]

    def _shapes(self, feeds: Mapping[str, np.ndarray]) -> Shapes:
        """What sessions depend on; nothing where nothing is assumed."""
        if self.assumed == Assumed():
            return ()
        return tuple((name, np.shape(feeds[name])) for name in sorted(feeds))

    def _runner(self, key: Sessions, feeds: Mapping[str, np.ndarray], chosen: frozenset[str]) -> GraphRunner:
        """One that can lower `chosen`; of several, that which switches the fewest nodes."""
        units = frozenset(self.units(key[0]))
        island = units - chosen
        runners = self._runners.setdefault(key, {})
        fitting = [switched for switched in tuple(runners) if island <= switched]
        if fitting:
            return runners[min(fitting, key=len)]
        made = sum(0 < len(switched) < len(units) for switched in tuple(runners))
        small = made < MOST_SMALL and len(island) <= SMALL_ISLAND
        switched = island if small or not island else units
        runners[switched] = self._make(key, feeds, switched)
        return runners[switched]

    def _make(self, key: Sessions, feeds: Mapping[str, np.ndarray], switched: frozenset[str]) -> GraphRunner:
        precision, _, wanted, fp32_sums = key
        kernels = self._as_kernels and precision is Precision.TF32
        truncated = truncated_convolutions(self.model) if kernels else frozenset[str]()
        graph = lower(
            self.model,
            precision,
            wanted,
            switched=switched,
            truncated=truncated,
            arithmetic=self.arithmetic(precision, feeds).with_fp32_sums(fp32_sums),
        )
        return GraphRunner(self.model, graph, precision, self._cache(precision))

    def introduced(
        self,
        feeds: Mapping[str, np.ndarray],
        precision: Precision,
        nodes: Sequence[str],
        reference: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Feed the reference's tensors to each of `nodes`, lowered alone.

        Args:
            feeds: the model's inputs.
            precision: what they are lowered to.
            nodes: their names.
            reference: tensors of the model in FP32 that are known; the others are computed.

        Returns:
            The FP32 reference and the lowered result of each float tensor that a lowered node of `nodes` writes;
            without those of nodes that fail.
        """
        chosen = tuple(nodes)
        plain = reference is not None and not self.model.own_tensors
        given = {
            name: value
            for name, value in (reference.items() if plain and reference is not None else ())
            if self.model.dtypes.get(name) == "float32"
        }
        key = (precision, self._shapes(feeds), (*chosen, "", *given))
        if key not in self._shadows:
            graph = shadow(self.model, precision, chosen, self.arithmetic(precision, feeds), frozenset(given))
            runs = bool(graph.outputs)  # nothing does where all is given, and nodes only hand it on
            self._shadows[key] = (
                GraphRunner(self.model, graph, precision, self._cache(precision)) if runs else None
            )
        runner = self._shadows[key]
        try:
            found = given | (runner.run({**feeds, **given}, chosen) if runner else {})
        except NodeFailedError as error:
            left = [node for node in chosen if node != error.node]
            if len(left) == len(chosen):
                raise
            return self.introduced(feeds, precision, left, reference) if left else ({}, {})
        written = [name for node in map(self.model.node, chosen) for name in node.outputs if name in found]
        raw = {name: found.get(name + LOWERED, found[name]) for name in written}
        if precision is not Precision.TF32:  # which rounds what products read, and nothing that is written
            raw = {name: round_array(value, precision) for name, value in raw.items()}
        return {name: found[name] for name in raw}, raw

    def evaluate(
        self, plan: Plan, feeds: Mapping[str, np.ndarray], *, timing: Timing | None = None
    ) -> Evaluation:
        """See Candidate.evaluate; observing an emulated tensor never changes it."""
        self.model.check_nodes(sorted(plan.islands))
        outputs = [info.name for info in self.model.outputs]
        tensors = list(outputs)
        if plan.observation is not Observation.NONE:
            marks = plan.marks or frozenset(self.model.float_tensors)
            tensors += [name for name in self.model.float_tensors if name in marks and name not in outputs]
        lowered = [name for name in self.units(plan.precision) if name not in plan.islands]
        found = self.attempt(
            feeds, plan.precision, lowered=lowered, tensors=tensors, fp32_sums=plan.fp32_sums
        )
        facts = EmulatorFacts(len(lowered), self.assumed.kernels, self.assumed.accumulate)
        return Evaluation(found.tensors, facts=facts, failures=found.failures)

    @property
    def without_kernel(self) -> frozenset[str]:
        """The nodes that onnx.reference ran, as ONNX Runtime has no kernel for them."""
        return left_out(runner.session for runners in self._runners.values() for runner in runners.values())

    def close(self) -> None:
        """Free the sessions and the rounded weights."""
        if "_pool" in vars(self) and self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            del self._pool
        self._ahead = None
        self._runners.clear()
        self._shadows.clear()
        self._weights.clear()

    def forget_weights(self) -> None:
        """Free the rounded weights, and keep the sessions: the next run rounds them again."""
        for kept in self._weights.values():
            kept.clear()

    def _cache(self, precision: Precision) -> dict[str, np.ndarray]:
        return self._weights.setdefault(precision, {})


class FileAsItIs(Emulator):
    """A candidate that rounds nothing but what the file rounds itself, whatever the precision.

    Args:
        model: the model.
    """

    name = FILE

    def units(self, precision: Precision) -> tuple[str, ...]:
        """None: nothing is lowered."""
        return ()

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        precision: Precision,
        *,
        lowered: Iterable[str] | None = None,
        tensors: Sequence[str] | None = None,
        fp32_sums: frozenset[str] = frozenset(),
    ) -> dict[str, np.ndarray]:
        """See Emulator.run."""
        return super().run(feeds, Precision.FP32, lowered=(), tensors=tensors)


def precision_of(model: Model) -> Precision:
    """The precision that a file was written for, by its types: whose gates it is held to."""
    written = {dtype for node in model.nodes for name in node.outputs if (dtype := model.dtypes.get(name))}
    if any(dtype.startswith("float8") for dtype in written):
        return Precision.FP8
    if model.quantized or any(_INTEGER.match(node.op) for node in model.nodes):
        return Precision.INT8
    if "bfloat16" in written:
        return Precision.BF16
    return Precision.FP16 if "float16" in written else Precision.FP32
