"""One evaluation under way: engines are run, their tensors sorted, and what is known of them put together.

Many tensors are observed with few builds, although some of them break a build. Marking can exhaust memory or make a
build fail, with an error that may or may not name the tensor. A group that fails is split, at the tensors that the
error names or in half, until what is left of it builds; a tensor that fails alone is skipped, with its reason. Each
halving finds one breaking tensor among n in about 2·log2(n) builds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

import numpy as np

from harness.backends.engines import BuildRefused, Engine, EngineStore, Tensors
from harness.backends.joining import as_shaped, joins_axes, onnx_names
from harness.backends.plan import Evaluation, Marks, Observation, ObservedEngine, Timing
from harness.backends.requests import EngineRequest
from harness.backends.session import tensor_shapes
from harness.errors import CandidateError
from harness.model import Model
from harness.tensors import dtype_of, is_integer
from harness.worker.protocol import BuildOption, BuiltEngine, Fingerprint, Profile

Made = TypeVar("Made")

#: What a smaller group of marks may cure. The rest (a mistake in the request, a release that cannot) stays.
_CURABLE = frozenset(
    {"marks_failed", "build_failed", "no_context", "out_of_memory", "disk_full", "crashed", "timed_out"}
)
#: These cost a worker, and with it a cold build, each.
_COSTLY = frozenset({"crashed", "timed_out", "cuda_error"})


class MarkSplitter(Generic[Made]):
    """Makes something for each group of marks, splitting groups where that fails.

    Args:
        make: makes it; raises BuildRefused.
        prove_unmarked: called once before the first split; raises if it fails without any marks, too.
        failures: how many failed builds to afford; what is left then is skipped.
        costly_failures: how many of them may end the worker.
    """

    def __init__(
        self,
        make: Callable[[Marks], Made],
        prove_unmarked: Callable[[], object],
        *,
        failures: int = 40,
        costly_failures: int = 4,
    ) -> None:
        self.skipped: dict[str, str] = {}
        """Why a tensor was not observed."""
        self._make = make
        self._prove_unmarked = prove_unmarked
        self._proved = False
        self._failures, self._costly_failures = failures, costly_failures

    def run(self, groups: Iterable[Marks]) -> Iterator[tuple[Marks, Made]]:
        """Each group that could be made, with what was made for it.

        Raises:
            BuildRefused: the parser refuses nodes.
            CandidateError: it fails without marks, or in a way that fewer marks do not cure.
        """
        waiting = deque(tuple(group) for group in groups)
        while waiting:
            marks = waiting.popleft()
            try:
                made = self._make(marks)
            except BuildRefused as refusal:
                waiting.extendleft(reversed(self._split(marks, refusal)))
                continue
            yield marks, made

    def _split(self, marks: Marks, refusal: BuildRefused) -> list[Marks]:
        if refusal.nodes:
            raise refusal  # the graph is to blame, whatever is marked
        if refusal.kind not in _CURABLE | _COSTLY:
            raise refusal.error
        self._failures -= 1
        self._costly_failures -= refusal.kind in _COSTLY
        if not self._proved:
            try:
                self._prove_unmarked()
            except BuildRefused as unmarked:
                raise unmarked.error from refusal.error
            self._proved = True
        if min(self._failures, self._costly_failures) < 0 or len(marks) == 1:
            self.skipped.update(dict.fromkeys(marks, _reason(refusal.error)))
            return []
        blamed = tuple(name for name in marks if name in refusal.marks)
        if blamed and len(blamed) < len(marks):
            return [tuple(name for name in marks if name not in refusal.marks), blamed]
        middle = len(marks) // 2
        return [marks[:middle], marks[middle:]]


def _reason(error: CandidateError) -> str:
    return f"the build fails with it: {error.message}"


class Evaluating:
    """Collects what the engines of one evaluation compute."""

    def __init__(self, model: Model, store: EngineStore, feeds: Tensors, timing: Timing) -> None:
        self.skipped: dict[str, str] = {}
        """Why a tensor was not observed."""
        self._store = store
        self._feeds = feeds
        self._timing = timing
        self._model = model
        self._outputs = {info.name: info for info in model.outputs}
        self._shapes: Mapping[str, tuple[int | str | None, ...]] | None = None
        self._known = frozenset(model.dtypes) | frozenset(self._outputs)
        self._tensors: dict[str, np.ndarray] = {}
        self._joined: dict[str, tuple[int, ...]] = {}
        self._observed: list[ObservedEngine] = []
        self._engines: list[tuple[Engine, Marks]] = []
        self._warnings: dict[str, None] = {}
        self._internal: set[str] = set()
        self._builds_before = store.builds

    def build(self, wanted: EngineRequest) -> Engine:
        """The engine for `wanted`.

        Raises:
            BuildRefused: there is none.
        """
        return self._store.get(wanted.model, wanted.request)

    def read(self, engine: Engine, wanted: EngineRequest) -> None:
        """Run `engine` and keep its tensors; of the model's outputs, those of the first engine.

        Raises:
            CandidateError: it does not run.
        """
        marks = wanted.request.marks
        debug = wanted.observation is Observation.DEBUG
        names = onnx_names(engine.facts.kernels, self._model, self._known_shapes()) if debug else {}
        feeds = {info.name: self._feeds[info.name] for info in wanted.model.inputs}
        tensors, warnings = self._store.run(engine, feeds, self._timing, debug=debug)
        outputs = {name: self._as_declared(name, tensors[name]) for name in self._outputs if name in tensors}
        for name, value in tensors.items():
            if name in self._known:
                self._tensors.setdefault(name, outputs.get(name, value))
            elif not self._take(names.get(name, ()), value):
                self._internal.add(name)
        if wanted.observation is not Observation.NONE:
            self._observed.append(ObservedEngine(frozenset(marks), outputs))
        self._engines.append((engine, marks))
        self.skipped.update(engine.facts.skipped_marks)
        self._warnings.update(dict.fromkeys((*engine.facts.warnings, *warnings)))

    def result(
        self, fingerprint: Fingerprint, build: Mapping[str, BuildOption], profiles: Mapping[str, Profile]
    ) -> Evaluation:
        """What came of it, with the fingerprint, the build options and the shapes of the engines."""
        engines = [
            BuiltEngine(len(marks), engine.facts.build_seconds or 0.0, engine.facts.engine_bytes or 0)
            for engine, marks in self._engines
        ]
        facts = replace(
            self._engines[0][0].facts,
            fingerprint=fingerprint,
            build=dict(build),
            profiles=dict(profiles),
            builds=self._store.builds - self._builds_before,
            build_seconds=sum(engine.build_seconds for engine in engines),
            engines=tuple(engines),
            skipped_marks=dict(self.skipped),
            internal_names=tuple(sorted(self._internal)),
            warnings=(*self._store.supervisor.take_warnings(), *self._warnings),
        )
        return Evaluation(self._tensors, facts, tuple(self._observed), joined=self._joined)

    def _take(self, tensors: Sequence[str], value: np.ndarray) -> bool:
        """Keep `value` as the first of `tensors`, and, in other shapes, as those that are the same; False if it is not.

        An engine may give the output of the model that way, too: then it is there already.
        """
        shapes = self._known_shapes()
        shaped = as_shaped(value, shapes.get(tensors[0])) if tensors else None
        if shaped is None:
            return False
        for name in tensors:
            sizes = [size for size in shapes.get(name, ()) if isinstance(size, int)]
            if name not in self._outputs and math.prod(sizes) == shaped.size:
                if name not in self._tensors and joins_axes(value.shape, sizes):
                    self._joined[name] = value.shape
                self._tensors.setdefault(name, shaped.reshape(sizes))
        return True

    def _known_shapes(self) -> Mapping[str, tuple[int | str | None, ...]]:
        if self._shapes is None:
            self._shapes = tensor_shapes(self._model, self._feeds)
        return self._shapes

    def _as_declared(self, name: str, value: np.ndarray) -> np.ndarray:
        """TensorRT 8 and 9 compute INT64 in INT32, and give it back as that."""
        declared = dtype_of(self._outputs[name].dtype)
        both_integers = is_integer(value.dtype) and is_integer(declared)
        return value.astype(declared) if both_integers and value.dtype != declared else value
