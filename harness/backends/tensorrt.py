"""TensorRT engines as a candidate: a client of the worker in an environment.

A plan becomes one engine or several. Marked tensors are split so that they fit a budget of memory, and again
where a build fails because of them; a prefix is the engine of the graph cut at one tensor. Where typing is
strong, the precision and its islands are written into the graph before it is handed over.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from typing import Any
from weakref import WeakSet

import numpy as np

from harness.backends.engines import BuildRefused, EngineStore, Tensors
from harness.backends.evaluating import Evaluating, MarkSplitter
from harness.backends.plan import Candidate, Evaluation, Marks, Observation, Plan, Timing
from harness.backends.requests import EngineRequest, Requests
from harness.backends.session import check_feeds, chunks, tensor_sizes
from harness.case import BuildOptions
from harness.environments import TF32_VARIABLE, Environment, Supervisor, shared_supervisor
from harness.errors import HarnessError
from harness.model import LOW_DTYPE, Model
from harness.tensors import Precision, available_memory, hash_feeds
from harness.text import names
from harness.worker.protocol import (
    TENSORRT_RTX,
    TF32_STAYS,
    BuildRequest,
    EngineFacts,
    Fingerprint,
    ProbeReply,
    Profile,
    TacticOrders,
)

#: Marked tensors lie on the GPU and in the scratch folder at once: a quarter of what is free there.
_SHARE = 4
#: What must be free for a second builder, as a multiple of the weights in FP32 and beside them: one of 1.6 took 1.6
#: times as much memory (of 24 products of 2048 × 2048, in FP16), and 0.15 GB.
_ROOM, _LIBRARY = 4, 1 << 30
#: How a release says that no engine runs without TF32: 1.4 of TensorRT for RTX makes no execution context, or starts no
#: inference in it.
_RUNS_NOT = frozenset({"no_context", "not_started", "cuda_error", "crashed"})
#: Workers without TF32 in which no engine with matrix products has run: others with such kernels are not tried there.
_NO_PRODUCTS: WeakSet[Supervisor] = WeakSet()


class TensorRTCandidate(Candidate):
    """The engines of `model` in `environment`.

    Args:
        environment: where they are built and run.
        model: the model.
        supervisor: the environment's worker; by default the one that all candidates of this process share.
        profiles: by input, (minimum, optimum, maximum) shape; an input with dynamic axes that is not named
            here gets the shape of what it is fed.
        calibration: samples for INT8 without Q/DQ nodes; by default what is fed first.
        timing: how engines are timed; by default they are not.
        mark_budget: bytes that the marked tensors of one engine may take; by default a quarter of what is free.
        plain_marks: mark tensors as polygraphy and trtexec do, without the dtype under test. With weak typing
            this can cure the fault that is looked for, and it is here to show that.
        capacity: how many engines to keep at a time.
    """

    def __init__(
        self,
        environment: Environment,
        model: Model,
        *,
        supervisor: Supervisor | None = None,
        profiles: Mapping[str, Profile] | None = None,
        calibration: Sequence[Tensors] = (),
        timing: Timing | None = None,
        mark_budget: int | None = None,
        plain_marks: bool = False,
        capacity: int = 8,
    ) -> None:
        self.name = environment.name
        self.model = model
        self.supervisor = supervisor or shared_supervisor(environment)
        self.store = EngineStore(self.supervisor, capacity=capacity)
        self.requests = Requests(
            environment,
            model,
            self.store,
            profiles=profiles or {},
            calibration=calibration,
            plain_marks=plain_marks,
        )
        self._timing = timing or Timing()
        self._without_tf32: TensorRTCandidate | None = None
        self._runs_without_tf32: bool | None = None  # None: nobody tried yet
        self._profiles = profiles
        self._mark_budget = mark_budget
        self._groups: dict[tuple[Plan, str], tuple[tuple[Marks, ...], Mapping[str, str]]] = {}

    def start_ahead(self) -> None:
        """Start the worker in the background."""
        self.supervisor.start_ahead()

    def build_ahead(self, plan: Plan, feeds: Tensors, *, certain: bool = False) -> bool:
        """See Candidate.build_ahead. One engine: of TensorRT, of which a build can take minutes, if it is `certain`.

        It gives debug tensors, too; marks are not split ahead.
        """
        with suppress(HarnessError):
            if (
                plan.observation in (Observation.NONE, Observation.DEBUG)
                and (certain or self.probe().product == TENSORRT_RTX)
                and not self._takes_variable(plan)
            ):
                wanted = self.requests.unobserved(plan, feeds)
                return self.store.begin(
                    wanted.model, wanted.request, partial(self._learn, plan, wanted.request)
                )
        return False

    def start_second(self) -> None:
        """See Candidate.start_second. For TensorRT for RTX, where the machine has room for a second builder."""
        with suppress(HarnessError):
            pays = self.supervisor.environment.limits.second and self.probe().product == TENSORRT_RTX
            if pays and available_memory() > self._room():
                self.store.start_second()

    def prebuild(self, plan: Plan, feeds: Tensors) -> None:
        """See Candidate.prebuild."""
        with suppress(HarnessError, OSError):
            plain = plan.observation is Observation.NONE and plan.tactics is None
            if not plain or self._takes_variable(plan) or not self.supervisor.running:
                return
            if shutil.disk_usage(self.supervisor.worker().folder).free > self._room():
                wanted = self.requests.unobserved(plan, feeds)
                self.store.prebuild(wanted.model, wanted.request)

    def _room(self) -> int:
        """Bytes that must be free, of memory and of disk, for a second builder to take nothing from anybody."""
        return _LIBRARY + _ROOM * sum(tensor.nbytes for tensor in self.model.weights.values())

    def _learn(self, plan: Plan, request: BuildRequest, facts: EngineFacts) -> None:
        """Let the emulator know the kernels of an engine that is built as a compiler is asked for them."""
        from harness.compiler import learn_kernels

        environment = self.supervisor.environment
        plain = not (plan.fp32_sums or plan.casts or plan.tactics)
        same = self.build_options(plan) == environment.build and not self.requests.kept_under(plan)
        if plain and same and facts.kernels is not None:
            learn_kernels(
                self.model,
                plan.precision,
                environment,
                facts.kernels,
                islands=plan.islands,
                profiles=request.profiles,
                supervisor=self.supervisor,
            )

    def probe(self) -> ProbeReply:
        """What the environment is and can do.

        Raises:
            CandidateError: the worker does not start.
        """
        return self.supervisor.probe()

    def build_options(self, plan: Plan) -> BuildOptions:
        """The environment's build options, overridden by what the plan sets."""
        return self.requests.options(plan)

    @property
    def engine_for(self) -> Callable[[Model], Candidate]:
        """Makes engines of other models in the same environment."""
        environment, supervisor = self.supervisor.environment, self.supervisor
        return lambda model: TensorRTCandidate(environment, model, supervisor=supervisor)

    def fingerprint(self) -> Fingerprint:
        """What the numbers of this candidate are made with.

        Raises:
            CandidateError: the worker does not start.
        """
        probe = self.probe()
        return Fingerprint(
            environment=self.name,
            tensorrt=probe.tensorrt,
            product=probe.product,
            cuda=probe.cuda,
            driver=probe.driver,
            gpu=probe.gpu,
            compute_capability=probe.compute_capability,
        )

    def key(self, plan: Plan, feeds: Tensors) -> str:
        """The name of an evaluation in verdict caches and journals.

        SHA-256 over all that it depends on: the model, the plan with the build options that come to apply, the
        shapes, the values of `feeds`, and the fingerprint but for the environment's name. So a search goes on
        after a restart, also under another name, and begins anew with another TensorRT, driver or GPU.
        """
        fingerprint = {key: value for key, value in vars(self.fingerprint()).items() if key != "environment"}
        parts = {
            "model": self.model.sha256,
            "precision": plan.precision,
            "islands": sorted(plan.islands),
            "observation": plan.observation,
            "marks": sorted(plan.marks),
            **({"casts": True} if plan.casts else {}),
            **({"fp32_sums": sorted(plan.fp32_sums)} if plan.fp32_sums else {}),
            "plain_marks": self.requests.plain_marks,
            "build": self.requests.options(plan).model_dump(mode="json", exclude={"pins"}),
            "tactics": _without_paths(plan.tactics),
            "profiles": self.requests.shapes(self.model, feeds),
            "feeds": hash_feeds(feeds),
            "calibration": [hash_feeds(sample) for sample in self.requests.calibration],
            "fingerprint": fingerprint,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def evaluate(self, plan: Plan, feeds: Tensors, *, timing: Timing | None = None) -> Evaluation:
        """Build what `plan` needs, or take it from before, and run it on `feeds`.

        Tensors have the dtype that the engine gave them: what is observed at FP16 is float16.

        Raises:
            InputDataError: `feeds` do not fit the model.
            NothingSelectedError: an island or a mark is not in the model.
            CandidateError: a build, an inference or the worker failed.
        """
        check_feeds(self.model, feeds)
        self.model.check_nodes(sorted(plan.islands))
        evaluate = self._evaluate_without_tf32 if self._takes_variable(plan) else self._evaluate
        while True:
            try:
                return self._as_realised(plan, evaluate(plan, feeds, timing or self._timing))
            except BuildRefused as refusal:
                if not self.requests.keep(plan, refusal.nodes):
                    raise refusal.error from refusal

    def close(self) -> None:
        """Free the engines. The worker stays: other models use it. Calling it twice is allowed."""
        self.store.close()
        self.requests.forget()
        if self._without_tf32 is not None:
            self._without_tf32.close()

    def _evaluate(
        self, plan: Plan, feeds: Tensors, timing: Timing, *, unobserved: bool = False
    ) -> Evaluation:
        """Carry out `plan`; `unobserved` builds that engine first, in any case."""
        run = Evaluating(self.model, self.store, feeds, timing)
        if unobserved:
            run.build(self.requests.unobserved(plan, feeds))
        self._carry_out(plan, feeds, run)
        options = self.build_options(plan).model_dump(exclude_unset=True, exclude={"pins"})
        return run.result(self.fingerprint(), options, self.requests.shapes(self.model, feeds))

    def _as_realised(self, plan: Plan, evaluation: Evaluation) -> Evaluation:
        """Say what is not as it was asked for: a file of another precision, and nodes that the parser refuses in it."""
        kept = tuple(node.name for node in self.model.nodes if node.name in self.requests.kept_under(plan))
        facts, own = evaluation.facts, self.requests.own_precision(plan)
        if isinstance(facts, EngineFacts) and own is not None:
            return replace(evaluation, facts=replace(facts, realised=replace(facts.realised, own=own.value)))
        if not kept or not isinstance(facts, EngineFacts):
            return evaluation
        probe = self.probe()
        parser = f"the parser of {probe.product} {probe.tensorrt}"
        warning = f"{parser} refuses {names(kept)} at {plan.precision}: kept in FP32"
        realised = replace(facts.realised, kept=kept)
        return replace(
            evaluation, facts=replace(facts, realised=realised, warnings=(*facts.warnings, warning))
        )

    def _takes_variable(self, plan: Plan) -> bool:
        """Whether TF32 is to be off, and only a variable of the process turns it off.

        FP32 products in the islands of a lower precision run as the product runs them, unless the options say else.
        """
        tf32 = self.build_options(plan).tf32
        off = plan.precision is Precision.FP32 if tf32 is None else not tf32
        given = dict(self.supervisor.environment.variables)
        is_chosen = TF32_VARIABLE in given or os.environ.get(TF32_VARIABLE) == "0"
        return off and not is_chosen and self.probe().product == TENSORRT_RTX

    def _evaluate_without_tf32(self, plan: Plan, feeds: Tensors, timing: Timing) -> Evaluation:
        """Carry out `plan` in a worker without TF32; where no engine runs in it, in this one, which is noted."""
        if self._without_tf32 is None:
            self._without_tf32 = self._make_without_tf32()
        variant = self._without_tf32.supervisor
        if self._runs_without_tf32 is None and variant in _NO_PRODUCTS:
            with_tf32 = self._evaluate(plan, feeds, timing)  # which is needed, and tells the kernels
            self._runs_without_tf32 = False if _has_products(with_tf32) else None
        if self._runs_without_tf32 is not False:
            try:
                untried = self._runs_without_tf32 is None
                found = self._without_tf32._evaluate(plan, feeds, timing, unobserved=untried)
            except BuildRefused as refusal:
                if self._runs_without_tf32 or refusal.kind not in _RUNS_NOT:
                    raise
            else:
                self._runs_without_tf32 = True
                return found
        found = self._evaluate(plan, feeds, timing)
        self._runs_without_tf32 = False
        if _has_products(found):
            _NO_PRODUCTS.add(variant)
        assert isinstance(found.facts, EngineFacts)
        realised = replace(found.facts.realised, tf32=TF32_STAYS)
        return replace(found, facts=replace(found.facts, realised=realised))

    def _make_without_tf32(self) -> TensorRTCandidate:
        supervisor = self.supervisor.with_variables(**{TF32_VARIABLE: "0"})
        made = TensorRTCandidate(
            supervisor.environment,
            self.model,
            supervisor=supervisor,
            profiles=self._profiles,
            calibration=self.requests.calibration,
            timing=self._timing,
            mark_budget=self._mark_budget,
            plain_marks=self.requests.plain_marks,
        )
        made.requests.kept = self.requests.kept
        return made

    def _carry_out(self, plan: Plan, feeds: Tensors, run: Evaluating) -> None:
        unobserved = self.requests.unobserved(plan, feeds)
        if plan.observation is Observation.DEBUG:
            debug = self.requests.debug(plan, feeds)
            run.read(run.build(debug), debug)
            return
        marks = () if plan.observation is Observation.NONE else self.requests.marks(plan)
        if plan.observation is Observation.PREFIX or not marks:
            run.read(run.build(unobserved), unobserved)
        if not marks:
            return

        def ask(group: Marks) -> EngineRequest:
            if plan.observation is Observation.PREFIX:
                return self.requests.prefix(plan, feeds, group[0])
            return self.requests.marked(plan, feeds, group)

        # A sample of the same shapes starts from the groups that the last one ended with.
        key = (plan, json.dumps({name: np.shape(feeds[name]) for name in sorted(feeds)}))
        groups, skipped = self._groups.get(key) or (self._first_groups(plan, feeds, marks), {})
        self.store.reserve(len(groups) + 1)
        splitter = MarkSplitter(lambda group: run.build(ask(group)), lambda: run.build(unobserved))
        made = []
        for group, engine in splitter.run(groups):
            run.read(engine, ask(group))
            made.append(group)
        if not made and plan.observation is Observation.TYPED:
            run.read(run.build(unobserved), unobserved)
        run.skipped.update({**skipped, **splitter.skipped})
        self.store.reserve(len(made) + 1)
        self._groups[key] = (tuple(made), dict(run.skipped))

    def _first_groups(self, plan: Plan, feeds: Tensors, marks: Marks) -> tuple[Marks, ...]:
        """One mark an engine for prefixes; else as many as fit the budget of memory."""
        if plan.observation is Observation.PREFIX:
            return tuple((name,) for name in marks)
        sizes = tensor_sizes(self.model, feeds)
        if plan.precision in LOW_DTYPE and not self.requests.plain_marks:
            sizes = {name: size // 2 for name, size in sizes.items()}
        budget = self._mark_budget
        if budget is None:
            on_gpu = self.supervisor.probe().free_bytes
            in_scratch = shutil.disk_usage(self.supervisor.worker().folder).free
            budget = min(in_scratch, in_scratch if on_gpu is None else on_gpu) // _SHARE
        return tuple(chunks(marks, sizes, budget))


def _has_products(evaluation: Evaluation) -> bool:
    """Whether kernels of the engine compute matrix products, which a worker without TF32 may not run.

    Seen on an H200 with TensorRT for RTX 1.4: products of two rows and more do not run, convolutions do.
    """
    kernels = None if evaluation.engine is None else evaluation.engine.kernels
    return kernels is not None and any(kernel.work.multiplies_matrices for kernel in kernels.kernels)


def _without_paths(orders: TacticOrders | None) -> dict[str, Any] | None:
    """What decides: a timing cache holds what the orders force, wherever it lies."""
    return None if orders is None else asdict(replace(orders, cache_path=None, save_cache_path=None))
