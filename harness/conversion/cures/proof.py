"""The proof of a rewrite: the same answers as the original, on several inputs and shapes, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from harness.backends import Reference
from harness.conversion.cures.cure import Feeds
from harness.conversion.cures.evaluator import Evaluator, first_line
from harness.conversion.cures.samples import LARGE_NUMBERS, batch_of, extreme_inputs, masks_of, sample_inputs
from harness.errors import HarnessError
from harness.model import Model, TensorInfo, extract
from harness.quantization import worst_error
from harness.tensors import is_float

Run = Callable[[Feeds], Mapping[str, np.ndarray]]

#: Normalised root mean square of the difference that is rounding: 2⁻²³, 2⁻¹⁰ and 2⁻⁷ with what sums of them add.
NOISE = {"float64": 1e-5, "float32": 1e-5, "float16": 3e-3, "bfloat16": 2e-2}
#: And the largest difference, over the largest value.
LARGEST = 10.0
_AMPLIFIED = 8.0
CALIBRATED = 3.0
"""So many times as much as scales at run time static ones may err."""
LEAST = 1e-3
"""An error that nobody looks into."""


@dataclass(frozen=True)
class Proof:
    """Whether a rewritten model answers as the original does.

    Args:
        holds: whether it does on everything that was tried, and that was enough.
        samples: how many inputs both ran on.
        shapes: how many different sets of input shapes were among them.
        error: the worst difference of a float output: root mean square over that of the original.
        by: what ran the models: `ONNX Runtime`, or `ONNX's reference evaluator` where that lacks an operator.
        batches: where the original takes one batch only: how many others the new model ran with, each row the same as
            by itself.
        why_not: what stands against it; empty where it holds.
        calibrated: how many samples scales were taken from. Then `error` is that over the same products in float.
        given: whether these were the user's data, and not generated.
        before: the error of the original over the same products in float, which it rounds, too.
        largest: the largest finite magnitude among the float inputs that were tried; None where there are none.
        binary: names of inputs that mask, and were nothing but 0 and 1, though their dtype holds more.
    """

    holds: bool
    samples: int
    shapes: int
    error: float
    by: str
    batches: int = 0
    why_not: str = ""
    calibrated: int = 0
    given: bool = False
    before: float | None = None
    largest: float | None = None
    binary: tuple[str, ...] = ()


RUNTIME, EVALUATOR = "ONNX Runtime", "ONNX's reference evaluator"


def same_interface(original: Model, rewritten: Model) -> bool:
    """Whether names, order, dtypes and shapes of inputs and outputs are the same."""
    return original.inputs == rewritten.inputs and original.outputs == rewritten.outputs


def prove(
    original: Model,
    rewritten: Model,
    feeds: Sequence[Feeds] = (),
    *,
    batch: int | None = None,
    where_finite: bool = False,
    largest: float = LARGE_NUMBERS,
) -> Proof:
    """Run both models on `feeds`, and on drawn inputs of several shapes, and compare what they return.

    Args:
        original: the model as it was.
        rewritten: the model that shall answer the same.
        feeds: inputs to try first, such as those of a case.
        batch: the one that the original is right at: there both must agree, and at others each row of the new model
            must be what it is in a batch of its own.
        where_finite: whether values are left out that are not finite in the original, and masks leave something of
            every row; then nothing infinite is drawn, and masks of 0 and 1 alone.
        largest: magnitude of the largest finite numbers that are drawn.
    """
    if not same_interface(original, rewritten):
        return Proof(False, 0, 0, 0.0, RUNTIME, why_not="its inputs or outputs are not those of the original")
    run, by = _runner(original, feeds, batch)
    if run is None:
        return Proof(False, 0, 0, 0.0, by, why_not=f"the original cannot be run: {by}")
    again: Run = Reference(rewritten).run if by == RUNTIME else Evaluator(rewritten).run
    trial = _Trial(original, run, again, where_finite, binary=set(masks_of(original)))
    for sample in sample_inputs(original, feeds, batch, padded=where_finite):
        if batch is not None and batch_of(original, sample) != batch:
            why_not = _differing_rows(original, again, sample)
            trial.batches.add(batch_of(original, sample))
        else:
            why_not = trial.differs(sample)
        if why_not:
            return trial.proof(by, why_not)
    for sample in extreme_inputs(original, largest, batch, padded=where_finite):
        if why_not := trial.differs(sample, well_posed_only=True):
            return trial.proof(by, why_not)
    return trial.proof(by, "" if trial.samples else f"the original takes none of the inputs: {trial.refusal}")


def prove_calibrated(
    original: Model, rewritten: Model, plain: Model, unseen: Sequence[Feeds], calibrated: int
) -> Proof:
    """Whether static scales err about as little as those that the original takes anew from every input.

    Symmetric steps of one range for all inputs are at most twice as long as asymmetric ones of the same range, and
    inputs differ in theirs.

    Args:
        original: scales at run time.
        rewritten: static scales.
        plain: the same products in float.
        unseen: inputs that the scales were not taken from.
        calibrated: how many they were.
    """
    if not same_interface(original, rewritten):
        return Proof(False, 0, 0, 0.0, RUNTIME, why_not="its inputs or outputs are not those of the original")
    right, *others = ([*map(Reference(each).run, unseen)] for each in (plain, original, rewritten))
    before, error = (worst_error(each, right) for each in others)
    allowed = max(CALIBRATED * before, LEAST)
    why_not = (
        ""
        if error <= allowed
        else f"static scales err by {error:.2g} on inputs that they were not taken from, and those at run time by "
        f"{before:.2g}: ranges differ from input to input"
    )
    shapes = {tuple(array.shape for array in sample.values()) for sample in unseen}
    return Proof(
        not why_not,
        len(unseen),
        len(shapes),
        error,
        RUNTIME,
        0,
        why_not,
        calibrated=calibrated,
        before=before,
    )


@dataclass
class _Trial:
    """Both models on one input after the other."""

    original: Model
    run: Run
    again: Run
    where_finite: bool
    samples: int = 0
    error: float = 0.0
    refusal: str = ""
    shapes: set[tuple[tuple[int, ...], ...]] = field(default_factory=set)
    batches: set[int] = field(default_factory=set)
    largest: float | None = None
    binary: set[str] = field(default_factory=set)

    def differs(self, sample: Feeds, well_posed_only: bool = False) -> str:
        """What is wrong with the new model's answer; empty if nothing is, or the original does not take the input.

        Args:
            sample: what both run on.
            well_posed_only: whether the input is passed over where the original's answer is not finite, or moves by
                more than rounding where the input does by half a unit in the last place.
        """
        try:
            wanted = self.run(sample)
        except HarnessError as reason:  # these values or shapes are none that the model takes
            self.refusal = first_line(reason)
            return ""
        if self._quantizes_what_is_not_finite(sample):
            self.refusal = "it quantizes numbers that are not finite"
            return ""
        if well_posed_only and not self._is_well_posed(sample, wanted):
            return ""
        try:
            got = self.again(sample)
        except HarnessError as reason:
            return f"it cannot be run: {first_line(reason)}"
        self.samples += 1
        self.shapes.add(tuple(array.shape for array in sample.values()))
        self._note(sample)
        for info in self.original.outputs:
            values, others = np.asarray(wanted[info.name]), np.asarray(got[info.name])
            if self.where_finite and values.shape == others.shape and is_float(values.dtype):
                others = np.where(np.isfinite(values.astype(np.float64)), others, values)
            difference, why_not = _compare(info, values, others)
            self.error = max(self.error, difference if np.isfinite(difference) else 0.0)
            allowed = _AMPLIFIED * _sensitivity(self.run, sample, values, info) if why_not else 0.0
            if why_not and not (np.isfinite(difference) and difference <= allowed):
                return why_not
        return ""

    @cached_property
    def _scaled(self) -> set[str]:
        """Names of the tensors that the original takes scales from."""
        return {each.inputs[0] for each in self.original.nodes if each.op == "DynamicQuantizeLinear"}

    @cached_property
    def _before_scales(self) -> tuple[Model, Run] | None:
        """What computes those from the inputs; None where nothing is computed, or not by ONNX Runtime."""
        inputs = [info.name for info in self.original.inputs]
        inner = sorted(self._scaled - set(inputs))
        if not inner:
            return None
        try:
            part = extract(self.original, inputs, inner)
            return part, Reference(part).run
        except HarnessError:
            return None

    def _quantizes_what_is_not_finite(self, sample: Feeds) -> bool:
        """Whether the original takes a scale from numbers that are not finite.

        ONNX does not say what comes of that: a runtime may make finite numbers of it.
        """
        found = [sample[name] for name in self._scaled & set(sample)]
        if self._before_scales is not None:
            part, run = self._before_scales
            found += run({info.name: sample[info.name] for info in part.inputs}).values()
        return not all(np.isfinite(each.astype(np.float64)).all() for each in found)

    def _is_well_posed(self, sample: Feeds, wanted: Mapping[str, np.ndarray]) -> bool:
        every = ((info, np.asarray(wanted[info.name])) for info in self.original.outputs)
        outputs = [(info, values) for info, values in every if is_float(values.dtype)]
        return all(np.isfinite(values.astype(np.float64)).all() for _, values in outputs) and all(
            _sensitivity(self.run, sample, values, info) <= NOISE.get(info.dtype, NOISE["float32"])
            for info, values in outputs
        )

    def _note(self, sample: Feeds) -> None:
        """What the proof was tried on."""
        for name, array in sample.items():
            if is_float(array.dtype):
                wide = np.abs(array.astype(np.float64))
                top = float(np.max(wide, initial=0.0, where=np.isfinite(wide)))
                self.largest = max(self.largest or 0.0, top)
            if name in self.binary and (array.dtype.kind == "b" or not np.all((array == 0) | (array == 1))):
                self.binary.discard(name)

    def proof(self, by: str, why_not: str) -> Proof:
        return Proof(
            not why_not,
            self.samples,
            len(self.shapes),
            self.error,
            by,
            len(self.batches),
            why_not,
            largest=self.largest,
            binary=tuple(sorted(self.binary)) if self.samples else (),
        )


def _differing_rows(original: Model, run: Run, sample: Feeds) -> str:
    """Whether a row is something else in a batch than by itself; empty if none is."""
    batch = batch_of(original, sample)
    free = {info.name for info in original.inputs if info.shape and not isinstance(info.shape[0], int)}
    try:
        together = run(sample)
        first = run({name: array[:1] if name in free else array for name, array in sample.items()})
    except HarnessError as reason:
        return f"it cannot be run with a batch of {batch}: {first_line(reason)}"
    for info in original.outputs:
        declared = list(info.shape or together[info.name].shape)
        if not all(
            size in (found, None) or isinstance(size, str)
            for size, found in zip(declared, together[info.name].shape, strict=True)
        ):
            return f"output {info.name!r} is declared as {declared}, which is right for the original"
        _, why_not = _compare(info, first[info.name], together[info.name][:1])
        if why_not:
            return f"a row depends on the others of its batch: {why_not}"
    return ""


def _runner(original: Model, feeds: Sequence[Feeds], batch: int | None) -> tuple[Run | None, str]:
    """What runs the original, and its name; None and the reason where nothing does."""
    reasons = []
    for make, by in ((Reference, RUNTIME), (Evaluator, EVALUATOR)):
        try:
            run = make(original).run
        except HarnessError as reason:
            reasons.append(first_line(reason))
            continue
        for sample in sample_inputs(original, feeds, batch):
            try:
                run(sample)
            except HarnessError as reason:
                reasons.append(first_line(reason))
                continue
            return run, by
    return None, reasons[0] if reasons else "it has no inputs that can be drawn"


def _compare(info: TensorInfo, wanted: np.ndarray, got: np.ndarray) -> tuple[float, str]:
    """How far they are apart, and what is wrong with that; empty where it is rounding."""
    wanted, got = np.asarray(wanted), np.asarray(got)
    if wanted.shape != got.shape:
        return np.inf, f"output {info.name!r} has shape {list(got.shape)} instead of {list(wanted.shape)}"
    if not is_float(wanted.dtype):
        wrong = int(np.count_nonzero(wanted != got))
        if wrong:
            return np.inf, f"{wrong} of {wanted.size} values of output {info.name!r} differ"
        return 0.0, ""
    a, b = wanted.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(
        a[~finite], b[~finite], equal_nan=True
    ):
        return np.inf, f"output {info.name!r} is not finite in other places"
    if not finite.any():
        return 0.0, ""
    a, b = a[finite], b[finite]
    scale, largest = np.sqrt(np.mean(a * a)), np.max(np.abs(a))
    if scale == 0:
        return (np.inf, f"output {info.name!r} is not 0") if np.any(b) else (0.0, "")
    error, worst = float(np.sqrt(np.mean((a - b) ** 2)) / scale), float(np.max(np.abs(a - b)) / largest)
    noise = NOISE.get(info.dtype, NOISE["float32"])
    too_far = error > noise or worst > LARGEST * noise
    return error, f"output {info.name!r} differs by {error:.2g}, rounding is {noise:g}" if too_far else ""


def _sensitivity(run: Run, sample: Feeds, wanted: np.ndarray, info: TensorInfo) -> float:
    """How far the output moves where every float input moves by half a unit in the last place: 0 if it has none.

    An answer that cancels, or saturates behind large values, moves by more than rounding adds to it in one place.
    """
    nudged, moved = {}, False
    for name, array in sample.items():
        if is_float(array.dtype):
            signs = np.random.default_rng(0).choice([-1.0, 1.0], array.shape)
            unit = np.finfo(array.dtype).eps if np.issubdtype(array.dtype, np.floating) else 2.0**-7
            array, moved = (
                (array.astype(np.float64) * (1 + signs * float(unit) / 2)).astype(array.dtype),
                True,
            )
        nudged[name] = array
    if not moved:
        return 0.0
    try:
        return _compare(info, wanted, run(nudged)[info.name])[0]
    except HarnessError:  # what is moved may be out of an operator's range: then rounding alone is allowed
        return 0.0
