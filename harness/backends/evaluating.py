"""One evaluation under way: engines are run, their tensors sorted, and what is known of them put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from harness.backends.engines import Engine, EngineStore, Tensors
from harness.backends.marking import Marks
from harness.backends.plan import Evaluation, ObservedEngine, Timing
from harness.backends.requests import Asked
from harness.backends.shapes import Profile
from harness.model import Model
from harness.tensors import dtype_of, is_integer
from harness.worker.protocol import BuildOption, BuiltEngine, Fingerprint


class Evaluating:
    """Collects what the engines of one evaluation compute.

    Args:
        model: the whole model.
        store: where engines come from.
        feeds: what they are fed.
        timing: how they are timed.
    """

    def __init__(self, model: Model, store: EngineStore, feeds: Tensors, timing: Timing) -> None:
        self.skipped: dict[str, str] = {}
        """Why a tensor was not observed."""
        self._store = store
        self._feeds = feeds
        self._timing = timing
        self._outputs = {info.name: info for info in model.outputs}
        self._known = frozenset(model.dtypes) | frozenset(self._outputs)
        self._tensors: dict[str, np.ndarray] = {}
        self._observed: list[ObservedEngine] = []
        self._engines: list[tuple[Engine, Marks]] = []
        self._warnings: dict[str, None] = {}
        self._internal: set[str] = set()
        self._builds_before = store.builds

    def build(self, asked: Asked) -> Engine:
        """The engine for `asked`.

        Raises:
            BuildRefused: there is none.
        """
        return self._store.get(asked.model, asked.request)

    def read(self, engine: Engine, asked: Asked) -> None:
        """Run `engine` and keep its tensors; of the model's outputs, those of the first engine.

        Raises:
            CandidateError: it does not run.
        """
        marks = asked.request.marks
        feeds = {info.name: self._feeds[info.name] for info in asked.model.inputs}
        tensors, warnings = self._store.run(engine, feeds, self._timing)
        outputs = {name: self._as_declared(name, tensors[name]) for name in self._outputs if name in tensors}
        for name, value in tensors.items():
            if name in self._known:
                self._tensors.setdefault(name, outputs.get(name, value))
            else:
                self._internal.add(name)
        if asked.request.observation != "none":
            self._observed.append(ObservedEngine(frozenset(marks), outputs))
        self._engines.append((engine, marks))
        self.skipped.update(engine.facts.skipped_marks)
        self._warnings.update(dict.fromkeys((*engine.facts.warnings, *warnings)))

    def result(
        self, fingerprint: Fingerprint, build: Mapping[str, BuildOption], profiles: Mapping[str, Profile]
    ) -> Evaluation:
        """What came of it.

        Args:
            fingerprint: what the engines were built and run with.
            build: the build options that came to apply.
            profiles: the shapes that they were built for.
        """
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
            internal_tensors=len(self._internal),
            warnings=(*self._store.supervisor.take_warnings(), *self._warnings),
        )
        return Evaluation(self._tensors, facts, tuple(self._observed))

    def _as_declared(self, name: str, value: np.ndarray) -> np.ndarray:
        """TensorRT 8 and 9 compute INT64 in INT32, and give it back as that."""
        declared = dtype_of(self._outputs[name].dtype)
        both_integers = is_integer(value.dtype) and is_integer(declared)
        return value.astype(declared) if both_integers and value.dtype != declared else value
