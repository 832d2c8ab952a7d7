"""From a plan to what a worker is asked to build: graph, typing, options, shapes, marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.backends.engines import EngineStore, Tensors
from harness.backends.plan import Marks, Observation, Plan
from harness.case import BuildOptions
from harness.compiler import builder_options, node_hints
from harness.environments import Environment
from harness.errors import ModelError, NothingSelectedError, UnsupportedByReleaseError
from harness.model import LOW_DTYPE, Model, extract, kept_for, units_of, with_islands
from harness.tensors import Precision, hash_feeds
from harness.worker.protocol import TENSORRT_RTX, BuildRequest, NodeHint, Profile


def shape_ranges(
    model: Model, feeds: Mapping[str, np.ndarray], profiles: Mapping[str, Profile]
) -> dict[str, Profile]:
    """The (minimum, optimum, maximum) shape of each input with a dynamic axis: the given one, or what it is fed.

    Args:
        model: the model.
        feeds: its inputs.
        profiles: what is given, by input.
    """
    shapes = {}
    for info in model.inputs:
        if info.shape is None or not all(isinstance(size, int) for size in info.shape):
            fed = tuple(np.shape(feeds[info.name]))
            shapes[info.name] = profiles.get(info.name, (fed, fed, fed))
    return shapes


_KEPT_TYPED_MODELS = 8
_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True)
class EngineRequest:
    """A graph, what to build from it, and what is read of it; the path of the graph's file is filled in later."""

    model: Model
    request: BuildRequest
    observation: Observation


class Requests:
    """Makes the requests for one model in one environment.

    Args:
        environment: its build options hold where a plan says nothing.
        model: the model.
        store: writes calibration data, and knows the worker.
        profiles: by input, (minimum, optimum, maximum) shape.
        calibration: samples for INT8 without Q/DQ nodes.
        plain_marks: whether marks are left without the dtype under test.
    """

    def __init__(
        self,
        environment: Environment,
        model: Model,
        store: EngineStore,
        *,
        profiles: Mapping[str, Profile],
        calibration: Sequence[Tensors],
        plain_marks: bool,
    ) -> None:
        self.model = model
        self.plain_marks = plain_marks
        self.calibration = tuple(calibration)
        self._environment = environment
        self._store = store
        self._profiles = profiles
        self._typed: dict[tuple[Precision, frozenset[str], frozenset[str]], Model] = {}
        self._prefixes: dict[tuple[str, str], Model] = {}
        self._hints: dict[str, tuple[NodeHint, ...]] = {}
        self.kept: dict[Precision, frozenset[str]] = {}
        """By precision, the nodes that stay in FP32 because the parser refuses them otherwise."""

    def keep(self, plan: Plan, refused: Sequence[str]) -> bool:
        """Keep in FP32 what the parser refuses; False if that changes nothing."""
        if not self._is_typed(plan):
            return False
        before = self.kept.get(plan.precision, frozenset())
        self.kept[plan.precision] = before | kept_for(self.model, refused)
        return self.kept[plan.precision] != before

    def kept_under(self, plan: Plan) -> frozenset[str]:
        """The nodes that stay in FP32 under `plan`, though it does not ask for it."""
        return (
            self.kept.get(plan.precision, frozenset()) - plan.islands if self._is_typed(plan) else frozenset()
        )

    def own_precision(self, plan: Plan) -> Precision | None:
        """The precision of a file that has nothing in FP32 for `plan` to compute in another one; None if it has."""
        if not self._is_typed(plan) or units_of(self.model, plan.precision):
            return None
        present = {self.model.dtypes.get(name) for name in self.model.own_tensors}
        own = next((each for each, dtype in LOW_DTYPE.items() if dtype.numpy().name in present), None)
        return None if own is plan.precision else own

    def unobserved(self, plan: Plan, feeds: Tensors) -> EngineRequest:
        """The engine that a user would deploy; where debug tensors cost nothing it has them, and gives none."""
        return self._ask(plan, feeds, Observation.NONE, ())

    def marked(self, plan: Plan, feeds: Tensors, marks: Marks) -> EngineRequest:
        """The engine that gives `marks` beside its outputs."""
        return self._ask(plan, feeds, Observation.TYPED, marks)

    def debug(self, plan: Plan, feeds: Tensors) -> EngineRequest:
        """The engine that gives debug tensors: those of the plan, or all there are."""
        marks = self.marks(plan) if plan.marks else ()
        return self._ask(plan, feeds, Observation.DEBUG, marks)

    def prefix(self, plan: Plan, feeds: Tensors, tensor: str) -> EngineRequest:
        """The engine of the graph cut at `tensor`."""
        return self._ask(plan, feeds, Observation.PREFIX, (tensor,))

    def marks(self, plan: Plan) -> Marks:
        """The tensors that `plan` observes, in topological order, the model's own outputs left out.

        Raises:
            NothingSelectedError: no node writes one of them.
        """
        written = [name for node in self.model.nodes for name in node.outputs if name]
        if unknown := sorted(plan.marks - set(written)):
            raise NothingSelectedError(f"no node writes a tensor {unknown[0]!r}", where=self.model.name)
        outputs = {info.name for info in self.model.outputs}
        wanted = plan.marks or frozenset(self.model.float_tensors)
        return tuple(name for name in written if name in wanted and name not in outputs)

    def options(self, plan: Plan) -> BuildOptions:
        """The environment's build options, overridden by what the plan sets."""
        options = self._environment.build.model_copy(update=plan.build.model_dump(exclude_unset=True))
        return options.model_copy(update={"pin_precision": False}) if plan.casts else options

    def shapes(self, model: Model, feeds: Tensors) -> dict[str, Profile]:
        """See `shape_ranges`."""
        return shape_ranges(model, feeds, self._profiles)

    def forget(self) -> None:
        """Free the graphs that were made."""
        self._typed.clear()
        self._prefixes.clear()
        self._hints.clear()

    def _ask(self, plan: Plan, feeds: Tensors, observation: Observation, marks: Marks) -> EngineRequest:
        options = self.options(plan)
        typing = self._typing(plan.precision, options)
        model, own = self.model, self.own_precision(plan)
        if self._is_typed(plan) and own is None:
            model = self._typed_model(plan.precision, plan.islands | self.kept_under(plan), plan.fp32_sums)
        elif plan.fp32_sums:
            raise UnsupportedByReleaseError(
                "Casts around a product do not make an engine add up in FP32 where flags say the precision",
                environment=self._environment.name,
            )
        if observation is Observation.PREFIX:  # cut after typing: the tensor keeps the dtype under test
            model = self._prefix(model, marks[0])
        islands = plan.islands & {node.name for node in model.nodes}
        takes_dtype = bool(marks) and observation is not Observation.DEBUG and not self.plain_marks
        request = BuildRequest(
            model_path="",
            precision=(own or plan.precision).value,
            typing=typing,
            islands=tuple(sorted(islands)),
            observation=self._built_for(observation).value,
            marks=marks,
            mark_dtype=plan.precision.storage_dtype if takes_dtype else None,
            profiles=self.shapes(model, feeds),
            options=builder_options(options),
            calibration=self._calibration_files(plan.precision, typing, feeds),
            nodes=self._hints_of(model),
            tactics=plan.tactics,
        )
        return EngineRequest(model, request, observation)

    def _built_for(self, observation: Observation) -> Observation:
        """What an engine is built for that is read so: one of TensorRT for RTX serves both, outputs and debug tensors.

        With and without them it is the same but for one byte, on 1.4, 1.6 and 1.7; an inference gives them if asked.
        """
        probe = self._store.supervisor.probe()
        if probe.product != TENSORRT_RTX or "unfused_debug_tensors" not in probe.capabilities:
            return observation
        return Observation.DEBUG if observation is Observation.NONE else observation

    def _typing(self, precision: Precision, options: BuildOptions) -> str:
        """`weak`, `strong`, or `auto` where the graph is the same for both."""
        if options.typing is not None:
            return options.typing
        if precision not in LOW_DTYPE:
            return "auto"
        return "weak" if "weak" in self._store.supervisor.probe().capabilities else "strong"

    def _is_typed(self, plan: Plan) -> bool:
        """Whether the graph says the precision."""
        strong = self._typing(plan.precision, self.options(plan)) == "strong"
        return (strong or plan.casts) and plan.precision in LOW_DTYPE

    def _typed_model(self, precision: Precision, islands: frozenset[str], fp32_sums: frozenset[str]) -> Model:
        key = (precision, islands, fp32_sums)
        if key not in self._typed:
            if len(self._typed) >= _KEPT_TYPED_MODELS:  # a search tries hundreds of islands
                del self._typed[next(iter(self._typed))]
            try:
                self._typed[key] = with_islands(self.model, precision, islands, fp32_sums)
            except ModelError as error:  # no mistake of the case: other candidates judge it at this precision
                raise UnsupportedByReleaseError(
                    f"there is no typed graph of {self.model.name} at {precision}: {error.message}",
                    environment=self._environment.name,
                    hint=error.hint,
                ) from error
        return self._typed[key]

    def _prefix(self, model: Model, tensor: str) -> Model:
        key = (model.sha256, tensor)
        if key not in self._prefixes:
            self._prefixes[key] = extract(model, self.model.feed_names(), [tensor])
        return self._prefixes[key]

    def _calibration_files(self, precision: Precision, typing: str, feeds: Tensors) -> tuple[str, ...]:
        if precision is not Precision.INT8 or typing == "strong":
            return ()
        if any(node.op in _QUANTIZERS for node in self.model.nodes):
            return ()
        if not self.calibration:
            self.calibration = (dict(feeds),)  # for later feeds too, or each would be another engine
        return tuple(
            str(self._store.write_tensors(f"calibration-{hash_feeds(sample)[:16]}", sample))
            for sample in self.calibration
        )

    def _hints_of(self, model: Model) -> tuple[NodeHint, ...]:
        if model.sha256 not in self._hints:
            self._hints[model.sha256] = node_hints(model)
        return self._hints[model.sha256]
