"""Quantising and diagnosing what a command line or a call names: files and cases, with their inputs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from harness.backends import Reference
from harness.case import Case, make_feeds
from harness.cluster import CaseUnit, OnStage, open_cluster
from harness.compiler import kernels_of
from harness.environments import close_shared, select
from harness.errors import UsageError
from harness.judge import Given, select_cases
from harness.model import Model, load_model, load_model_of
from harness.quantization.diagnosing import QuantizationDiagnosis, diagnose_pairs
from harness.quantization.engines import QuantizedKernels, measure_on_engine, read_kernels, with_fewer_kernels
from harness.quantization.outputs import Samples
from harness.quantization.quantizing import Quantization, kept_apart, quantize
from harness.tensors import Precision
from harness.text import names

SAMPLES = 4
"""Sets of inputs where neither a case nor a file says how many: half to search on, half to confirm."""


@dataclass(frozen=True)
class QuantizationSubject:
    """What is quantised or diagnosed.

    Args:
        case: with everything that was said of it.
        model: its model.
        reference: the other ONNX file that it is compared with; None if there is none.
    """

    case: Case
    model: Model
    reference: Model | None

    @property
    def drawn(self) -> bool:
        """Whether nobody said what the inputs are like, so that they are drawn at random."""
        return self.case.path is None and not self.case.data

    def samples(self) -> list[dict[str, np.ndarray]]:
        """Its inputs; four sets where nothing says how many."""
        case = self.case
        if case.samples is None and not case.data:
            case = case.model_copy(update={"samples": SAMPLES})
        return make_feeds(case, self.model.inputs)


def find_subject(
    target: Case | Path | str,
    *,
    given: Given | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
) -> QuantizationSubject:
    """The one case that `target` is, and its models.

    Raises:
        UsageError: it is none, or several.
        ModelError: a model cannot be loaded.
    """
    cases = select_cases(target, inputs=inputs, given=given)
    if len(cases) != 1:
        listed = names((case.name for case in cases), 4)
        raise UsageError(f"there are {len(cases)} cases", where=str(target), hint=f"name one of {listed}")
    case = cases[0]
    model = load_model_of(case)
    other = None if case.reference is None else case.reference.path
    return QuantizationSubject(
        case, model, None if other is None else load_model(case.resolve(other), operators=model.operators)
    )


def find_quantized(
    target: Case | Path | str,
    *,
    given: Given | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
    precision: Precision | None = None,
) -> QuantizationSubject | None:
    """The subject that `target` is, if its Q/DQ pairs are asked about; else None.

    They are if it has some and is compared with another ONNX file, or if the precision is INT8: then it is compared
    with itself, its pairs left out.

    Raises:
        HarnessError: see `find_subject`.
    """
    cases = select_cases(target, inputs=inputs, given=given)
    if len(cases) != 1:
        return None
    reference = cases[0].reference
    if reference.path is None if reference is not None else precision is not Precision.INT8:
        return None
    subject = find_subject(cases[0])
    return subject if subject.model.quantized else None


def diagnose_quantized(
    subject: QuantizationSubject, *, limit: float | None = None, environment: str | None = None
) -> QuantizationDiagnosis:
    """Find which Q/DQ pairs of a model hurt; see `diagnose_pairs`.

    Args:
        subject: the quantised model.
        limit: nrmse that its worst output may have.
        environment: where to confirm the answer on an engine, too.

    Raises:
        HarnessError: see `diagnose_pairs`; no environment has this name.
    """
    engine = None if environment is None else select(environment)
    samples = subject.samples()
    found = diagnose_pairs(subject.model, samples, reference=subject.reference, limit=limit)
    case = subject.case
    if case.reference is not None and case.reference.path is not None:
        found = replace(found, float_file=_shown(case.reference.path))
    found = replace(found, file=_shown(case.path or case.model.path or found.file), data_files=case.data)
    if engine is None:
        return found
    reference = Reference(subject.reference or subject.model, own=subject.reference is not None)
    models = {"before": subject.model, "repaired": found.repaired_model, "without": found.reduced_model}
    unseen = samples[-found.unseen :] if found.unseen else samples
    expected = [reference.run(feeds) for feeds in unseen]
    built = {name: model for name, model in models.items() if model is not None}
    return replace(found, engine=measure_on_engine(built, engine, unseen, expected))


def _shown(path: Path | str) -> str:
    """A path as it is typed in the working directory."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@dataclass(frozen=True)
class QuantizeUnit(CaseUnit["NoDesk", "tuple[Quantization, QuantizedKernels | None]"]):
    """A model to quantise, and a compiler to ask about what came of it.

    Args:
        case: with the model and its inputs.
        quantizer: `quantize`, with its options.
        environment: whose compiler is asked; None: nobody.
    """

    case: Case
    quantizer: Callable[[Model, Samples], Quantization] = quantize
    environment: str | None = None

    @property
    def title(self) -> str:
        """See Unit."""
        return self.case.name

    @property
    def environments(self) -> tuple[str, ...]:
        """See Unit."""
        return () if self.environment is None else (self.environment,)

    @property
    def desk(self) -> Hashable:
        """See Unit."""
        return None

    def open(self) -> NoDesk:
        """See Unit."""
        return NoDesk()

    def carry_out(self, desk: NoDesk, stage: OnStage) -> tuple[Quantization, QuantizedKernels | None]:
        """See Unit."""
        subject = find_subject(self.case)
        found = self.quantizer(subject.model, subject.samples())
        if self.environment is None:
            return found, None
        return fit_to_compiler(found, subject, self.environment)


class NoDesk:
    """Nothing is kept from one model to the next but workers of environments."""

    def close(self) -> None:
        """End them."""
        close_shared()


def quantize_on(scheduler: str | None, unit: QuantizeUnit) -> tuple[Quantization, QuantizedKernels | None]:
    """What comes of `unit`, in this process or on a worker of a dask scheduler.

    Raises:
        SchedulerError: it does not answer, or its workers cannot do it.
        UnitLostError: two of its workers died of it.
        HarnessError: see `quantize`.
    """
    if scheduler is None:
        return unit.carry_out(unit.open(), lambda stage: None)
    with open_cluster(scheduler, environments=unit.environments, files=unit.files) as cluster:
        return cluster.submit(unit).result()


def fit_to_compiler(
    found: Quantization, subject: QuantizationSubject, environment: str
) -> tuple[Quantization, QuantizedKernels]:
    """What the compiler of an environment makes of a quantised model, with a pair more where that saves a kernel.

    No GPU is needed where the release needs none.

    Args:
        found: what came of quantising `subject`.
        subject: the float model, with the samples that it was quantised with.
        environment: whose compiler is asked, with FP16 for what is not quantised.

    Raises:
        CandidateError: it cannot be built.
    """
    samples = subject.samples()
    ask = partial(kernels_of, precision=Precision.FP16, environment=select(environment))
    found, listed = with_fewer_kernels(found, subject.model, *kept_apart(samples), ask)
    return found, read_kernels(found.quantized, listed, samples[0])
