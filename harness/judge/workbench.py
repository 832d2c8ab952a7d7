"""Everything about one case that does not depend on the candidate: model, inputs, reference, emulator."""

from __future__ import annotations

import contextlib
import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

import numpy as np

from harness.backends import (
    Answers,
    Assumed,
    Candidate,
    Computed,
    Emulator,
    FileAsItIs,
    OtherFile,
    OtherReference,
    Reference,
    SavedCandidate,
    SavedTensors,
    check_feeds,
    tensor_sizes,
)
from harness.case import Case, FileFill, ModelSource, call_torch, make_feeds, read_samples
from harness.comparison import DEFAULT_GATES, compare_tensors
from harness.errors import HarnessError
from harness.golden import GoldenStatus, check_golden
from harness.judge.losses import OwnRoundings
from harness.judge.memory import TensorMemory
from harness.judge.own_roundings import find_flips, find_overflows, is_sound_without, look_at_own_roundings
from harness.judge.reference import check_finite, check_not_empty, check_reproducible
from harness.judge.results import ComparedWith
from harness.judge.selections import Choices
from harness.model import Model, PairedBy, Part, guess_fills, load_model, load_model_of, parts_of
from harness.tensors import Precision
from harness.text import number

if TYPE_CHECKING:
    from onnx_ir import TensorProtocol
    from pydantic import JsonValue

FLOATS = ("float32", "float16", "bfloat16")
T = TypeVar("T")


class _Prepared(cached_property[T]):
    """A cached property that is tried once: where making it fails, it raises the same error again."""

    @overload
    def __get__(self, bench: None, owner: type[Any] | None = None) -> Self: ...
    @overload
    def __get__(self, bench: object, owner: type[Any] | None = None) -> T: ...
    def __get__(self, bench: Any, owner: type[Any] | None = None) -> Any:
        if bench is None or self.attrname not in bench.failures:
            try:
                return super().__get__(bench, owner)
            except HarnessError as error:
                bench.failures[self.attrname] = error
                raise
        raise bench.failures[self.attrname].with_traceback(None)


class Workbench:
    """The parts of a case, made when first needed and kept for its other runs.

    Args:
        case: the case.
        memory_budget: bytes that intermediate tensors of one evaluation may take at a time.
        golden_update: whether a golden reference that is missing or differs is rewritten.

    Attributes:
        assumed: what the emulator assumes of engines, from now on.
        given: whether the inputs are arrays that somebody had at hand, and not what the case describes.
        failures: by attribute, why a part of the case cannot be had: no run of it can be judged.
    """

    def __init__(self, case: Case, *, memory_budget: int, golden_update: bool = False) -> None:
        self.case = case
        self.memory_budget = memory_budget
        self.golden_update = golden_update
        self.failures: dict[str, HarnessError] = {}
        self.given = False
        self._parts: dict[int, dict[str, tuple[Part, ...]]] = {}
        self._flips: dict[Precision, tuple[Mapping[str, np.ndarray], ...]] = {}
        self.assumed = Assumed()
        self._emulators: dict[tuple[Assumed, bool], Emulator] = {}
        self._emulated: dict[tuple[Assumed, Precision, int], Computed] = {}

    @property
    def where(self) -> str:
        """The case, for messages."""
        return str(self.case.path or self.case.name)

    @_Prepared
    def model(self) -> Model:
        """The model of the case.

        Raises:
            ModelError: it cannot be had; see `load_model_of`.
        """
        return load_model_of(self.case)

    @_Prepared
    def feeds(self) -> list[dict[str, np.ndarray]]:
        """The inputs, sample by sample.

        Raises:
            InputDataError: they do not fit the model.
        """
        feeds = make_feeds(self.case, self.model.inputs, guess_fills(self.model))
        for sample in feeds:
            check_feeds(self.model, sample)
        return feeds

    def with_feeds(self, feeds: Sequence[Mapping[str, np.ndarray]]) -> Workbench:
        """The same case with other inputs, what is assumed of engines and the sessions of this one."""
        other = Workbench(self.case, memory_budget=self.memory_budget)
        other.model, other.feeds = self.model, [dict(sample) for sample in feeds]
        other.itself, other.reference = self.itself, self.reference
        other.assumed, other._emulators = self.assumed, self._emulators
        return other

    def prepare(self) -> None:
        """Make the model, the inputs and the reference's outputs now; what cannot be had is said when it is needed."""
        with contextlib.suppress(Exception):
            if not self.missing_packages():
                assert self.expected is not None

    @cached_property
    def itself(self) -> Reference:
        """The model in FP32."""
        return Reference(self.model)

    @_Prepared
    def reference(self) -> Reference:
        """What candidates are compared with: the model in FP32, or what the case names in its place.

        Raises:
            ModelError, InputDataError, UsageError: that cannot be had, or does not fit the model.
        """
        source = self.case.reference
        if source is None:
            return self.itself
        if source.path is not None:
            return OtherReference(self.model, OtherFile(self.model, self.other.model))
        if source.torch is not None:
            saved, where = self._eager(source.torch, source.args or {}), None
        else:
            files = [self.case.resolve(path) for path in source.outputs]
            saved, where = [sample for file in files for sample in read_samples(file)], str(files[0])
        return OtherReference(self.model, SavedTensors(self.model, self.feeds, saved, where))

    @property
    def answers(self) -> Answers | None:
        """Where the reference's tensors come from; None for the model itself."""
        return self.reference.answers if isinstance(self.reference, OtherReference) else None

    @_Prepared
    def other(self) -> Workbench:
        """The workbench of the file that the case names as its reference, with the same inputs.

        Raises:
            ModelError: see `model`.
        """
        assert self.case.reference is not None
        assert self.case.reference.path is not None
        path = self.case.resolve(self.case.reference.path)
        bench = Workbench(
            Case(name=path.stem, model=ModelSource(path=str(path))), memory_budget=self.memory_budget
        )
        bench.model = load_model(path, name=path.stem, operators=self.model.operators)
        pairing = OtherFile(self.model, bench.model)
        bench.feeds = [pairing.feeds(feeds) for feeds in self.feeds]
        return bench

    @cached_property
    def file(self) -> FileAsItIs:
        """The file as a candidate, for `harness compare`."""
        return FileAsItIs(self.model)

    @cached_property
    def export_fault(self) -> str | None:
        """How an exported model differs from its PyTorch module; None if it does not, or was not exported."""
        source = self.case.model
        if source.torch is None or self.case.reference is not None:
            return None
        bound = DEFAULT_GATES[Precision.FP32].floor
        for values, eager in zip(self.expected, self._eager(source.torch, source.args or {}), strict=True):
            for name, value in values.items():
                if name not in eager or value.dtype.kind != "f":
                    continue
                metrics = compare_tensors(value, eager[name], dtype="float32")
                if metrics.incomparable or not metrics.error <= bound:
                    how = metrics.incomparable or f"nrmse {number(metrics.error)}"
                    return (
                        f"the export does not compute what the PyTorch module does: output {name!r} has {how}"
                    )
        return None

    def _eager(self, name: str, arguments: Mapping[str, JsonValue]) -> list[dict[str, np.ndarray]]:
        """What the PyTorch module computes by itself, under the names of the model's outputs."""
        order = [info.name for info in self.model.inputs]
        inputs = [[feeds[name] for name in order] for feeds in self.feeds]
        outputs = [info.name for info in self.model.outputs]
        return [
            dict(zip(outputs, values, strict=False))
            for values in call_torch(self.case, name, arguments, inputs)
        ]

    @property
    def emulator(self) -> Emulator:
        """The emulator, shared by all precisions, with what is assumed at the moment."""
        return self.emulator_with(self.assumed)

    def emulator_with(self, assumed: Assumed, *, as_kernels: bool = False) -> Emulator:
        """The emulator that assumes this of engines; kept for whoever asks again."""
        key = (assumed, as_kernels)
        if key not in self._emulators:
            self._emulators[key] = Emulator(
                self.model, as_kernels=as_kernels, assumed=assumed, profiles=profiles_of(self.case)
            )
        return self._emulators[key]

    def emulated(self, precision: Precision, sample: int) -> Computed:
        """The outputs that an engine's are compared with: the emulator's. Kept for whoever asks again."""
        key = (self.assumed, precision, sample)
        if key not in self._emulated:
            emulator = self.beside_engine(precision)
            self._emulated[key] = emulator.attempt(self.feeds[sample], precision)
        return self._emulated[key]

    def beside_engine(self, precision: Precision) -> Emulator:
        """The emulator that an engine is compared with: its TF32 is that of measured kernels."""
        return self.emulator_with(self.assumed, as_kernels=precision is Precision.TF32)

    @_Prepared
    def expected(self) -> list[dict[str, np.ndarray]]:
        """The reference's outputs, sample by sample.

        Raises:
            ReferenceNotFiniteError: an output is not finite, and not by intent; see `check_finite`.
            ReferenceNotReproducibleError: an output depends on random numbers.
            InputDataError: no output has an element.
        """

        def own(tensor: str) -> str | None:
            overflow = next((str(each) for each in find_overflows(self) if each.tensor == tensor), None)
            if overflow is not None or not self.model.own_tensors or not is_sound_without(self):
                return overflow
            return f"{tensor} is finite without the roundings that the file brings itself"

        outputs, answers = [], self.answers
        if isinstance(answers, OtherFile):
            _ = self.other.expected  # is it sound?
        for feeds in self.feeds:
            values = self.reference.run(feeds)
            if answers is None:
                check_reproducible(self, feeds, values)
                check_finite(self, feeds, values, own)
            else:
                values = {name: value for name, value in values.items() if name in answers.tensors}
            outputs.append(values)
        check_not_empty(outputs, self.feeds, self.where)
        return outputs

    @cached_property
    def own_roundings(self) -> OwnRoundings:
        """What the roundings that the model brings itself do to it.

        Raises:
            UnsoundReferenceError: see `expected`.
        """
        return look_at_own_roundings(self)

    def parts(self, sample: int) -> dict[str, tuple[Part, ...]]:
        """By output of a sample, the tensors that were joined in it; outputs that are computed are left out."""
        if sample not in self._parts:
            found = {info.name: self.parts_of(info.name, sample) for info in self.model.outputs}
            self._parts[sample] = {name: parts for name, parts in found.items() if parts}
        return self._parts[sample]

    def parts_of(self, tensor: str, sample: int) -> tuple[Part, ...]:
        """The tensors that were joined in `tensor`; none if it is computed."""
        feeds = self.feeds[sample]

        def read(tensors: Sequence[str]) -> dict[str, np.ndarray]:
            return {**feeds, **self.itself.run(feeds, [name for name in tensors if name not in feeds])}

        return parts_of(self.model, tensor, read)

    @cached_property
    def choices(self) -> Choices:
        """What candidates choose among near ties."""
        return Choices(self)

    @_Prepared
    def golden(self) -> GoldenStatus | None:
        """What the golden reference says of this one before any rewriting; None where no golden references are kept.

        Raises:
            GoldenError: see `check_golden`.
        """
        return check_golden(
            self.case, self.model.sha256, self.feeds, self.expected, update=self.golden_update
        )

    @cached_property
    def own_outputs(self) -> list[dict[str, np.ndarray]]:
        """The outputs of the model itself in FP32, sample by sample."""
        if self.case.reference is None:
            return self.expected
        return [self.itself.run(feeds) for feeds in self.feeds]

    def flips(self, precision: Precision, sample: int) -> Mapping[str, np.ndarray]:
        """By output, what flipped steps may cost a quantised file at a precision; see `find_flips`."""
        if precision not in self._flips:
            self._flips[precision] = find_flips(self, precision)
        return self._flips[precision][sample]

    def _weights(self, precision: Precision) -> dict[str, float]:
        """The weights of one name that differ from those of the reference by more than the precision may."""
        if self.case.reference is None or self.case.reference.path is None:
            return {}
        found, bound = {}, DEFAULT_GATES[precision].bound
        mine, its = (_floats(model) for model in (self.model, self.other.model))
        for name in mine.keys() & its.keys():
            if mine[name].shape == its[name].shape:
                error = compare_tensors(mine[name].numpy(), its[name].numpy(), dtype="float32").error
                if error > bound:
                    found[name] = error
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def compared_with(self, candidate: Candidate, precision: Precision) -> ComparedWith | None:
        """What the layers of `candidate` are compared with, and how they were paired; None for the model itself."""
        source, answers = self.case.reference, self.answers
        if source is None or answers is None:
            return None
        written = {*self._layers(candidate), *(info.name for info in self.model.outputs)}
        how = Counter(answers.tensors[name] for name in written if name in answers.tensors)
        return ComparedWith(
            source.torch or ", ".join(map(_short, [source.path] if source.path else source.outputs)),
            how[PairedBy.NAME],
            how[PairedBy.POSITION],
            tuple(name for name in self._layers(candidate) if name not in answers.tensors),
            self._weights(precision),
        )

    def shows_layers(self, candidate: Candidate) -> bool:
        """Whether more than outputs can be compared: of saved tensors there often are no others."""
        saved = [candidate.saved] if isinstance(candidate, SavedCandidate) else []
        outputs = {info.name for info in self.model.outputs}
        saved += [self.answers] if isinstance(self.answers, SavedTensors) else []
        return all(outputs < set(tensors.tensors) for tensors in saved)

    def other_inputs(self, candidate: Candidate) -> str | None:
        """A warning where saved tensors are compared, and nothing says what inputs they come from."""
        case = self.case
        saved = isinstance(candidate, SavedCandidate) or bool(case.reference and case.reference.outputs)
        if not saved or case.data or any(isinstance(spec.fill, FileFill) for spec in case.inputs.values()):
            return None
        return (
            f"the inputs were drawn with seed {case.seed}: what was saved must come from the same ones; "
            "--data FILE feeds those that it came from"
        )

    def layers_of(self, candidate: Candidate) -> tuple[str, ...]:
        """The tensors to compare layer by layer: those that have a counterpart in the reference."""
        tensors = self._layers(candidate)
        answers = self.answers
        return tensors if answers is None else tuple(name for name in tensors if name in answers.tensors)

    def _layers(self, candidate: Candidate) -> tuple[str, ...]:
        model, tensors = self.model, self.model.float_tensors
        named = self.case.reference is not None and self.case.reference.path is not None
        if candidate is self.file or (named and candidate is self.emulator):
            written = (name for node in model.nodes if node.name in model.data_nodes for name in node.outputs)
            tensors = tuple(name for name in written if model.dtypes.get(name) in FLOATS)
        return tensors

    @cached_property
    def memory(self) -> TensorMemory:
        """Which tensors are in memory."""
        return TensorMemory(tensor_sizes(self.model, self.feeds[0]), self.memory_budget)

    def reference_tensors(
        self, sample: int, tensors: tuple[str, ...], *, copies: int
    ) -> Mapping[str, np.ndarray]:
        """What the reference computes inside; kept for whoever asks again as long as `copies` fit the memory budget."""

        def compute() -> Computed:
            return Computed(self.reference.run(self.feeds[sample], tensors))

        key, most = ("reference", sample), self.memory_budget // copies
        return self.memory.recall(key, tensors, compute, most=most).tensors

    def emulated_tensors(
        self, emulator: Emulator, precision: Precision, sample: int, tensors: tuple[str, ...], *, keep: int
    ) -> Computed:
        """What an emulator computes inside with everything lowered; kept if all that is has at most `keep` bytes."""

        def compute() -> Computed:
            return emulator.attempt(self.feeds[sample], precision, tensors=tensors)

        return self.memory.recall((emulator, precision, sample), tensors, compute, most=keep)

    @property
    def without_kernel(self) -> frozenset[str]:
        """The nodes that NumPy has computed so far, as ONNX Runtime has no kernel for them."""
        emulators = [*self._emulators.values(), *([self.file] if "file" in self.__dict__ else [])]
        return self.itself.without_kernel.union(*(each.without_kernel for each in emulators))

    def missing_packages(self) -> list[str]:
        """Packages that the case requires and that cannot be imported here."""
        return [
            name
            for name in self.case.required_packages
            if importlib.util.find_spec(name.split(".")[0]) is None
        ]

    def close(self) -> None:
        """Free the sessions."""
        for made in ("reference", "itself", "other", "file"):
            if made in self.__dict__:
                getattr(self, made).close()
        for emulator in self._emulators.values():
            emulator.close()
        self._emulators.clear()
        if "memory" in self.__dict__:
            self.memory.clear()


def _floats(model: Model) -> dict[str, TensorProtocol]:
    """The weights of a model that hold floats."""
    values = ((name, value.const_value) for name, value in model.ir.graph.initializers.items())
    return {
        name: tensor
        for name, tensor in values
        if tensor is not None and tensor.dtype.is_floating_point() and tensor.size
    }


def _short(path: str) -> str:
    """`path` seen from the working folder, where it lies below it."""
    found = Path(path)
    return str(found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found)


def profiles_of(case: Case) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """The optimization profile of a case: by input, its (minimum, optimum, maximum) shape where they are given."""
    profiles = {}
    for name, spec in case.inputs.items():
        opt = spec.opt or spec.concrete_shape
        if spec.min is not None and spec.max is not None and opt is not None:
            profiles[name] = (spec.min, opt, spec.max)
    return profiles
