"""Whether the FP32 reference can be held against: its own rounding must be small beside what the gates let pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.backends import DoubleReference
from harness.diagnosis.context import DECIDED_ANYWAY, Subject, Undecided, badness
from harness.errors import ModelError, NodeFailedError
from harness.judge import OutputResult

SHARE = 0.5
"""An FP32 reference whose own error takes more than this share of a gate cannot decide that gate."""

SEED = 20


@dataclass(frozen=True)
class Stability:
    """How far another evaluation of the same model in higher or other precision is from the reference.

    Args:
        method: what it was evaluated with.
        share: the reference's error as a share of the tightest gate; None if nothing could be said.
        outputs: the outputs of that evaluation, held against the run's gates.
    """

    method: str
    share: float | None
    outputs: tuple[OutputResult, ...] = ()

    @property
    def stable(self) -> bool:
        """Whether the reference can be held against; true where nothing could be said."""
        return self.share is None or self.share <= SHARE

    def undecided(self, failing: Sequence[OutputResult]) -> dict[str, Undecided]:
        """The outputs that the reference cannot decide, by name.

        Args:
            failing: the outputs of the candidate that fail. Where one is not finite, not of the right shape or not
                computed, and the reference is finite and the same in both evaluations, that much is decided.
        """
        found: dict[str, Undecided] = {}
        for name in dict.fromkeys(output.tensor for output in self.outputs):
            others = [output for output in self.outputs if output.tensor == name]
            share = badness(others)
            if share <= SHARE:
                continue
            sound = all(_passes_anyway(output) for output in others)
            wrong = any(output.tensor == name and not _passes_anyway(output) for output in failing)
            found[name] = Undecided(share, finite=sound and wrong)
        return found


def _passes_anyway(output: OutputResult) -> bool:
    return all(gate.passed for gate in output.gates if gate.metric in DECIDED_ANYWAY)


def check_stability(subject: Subject) -> Stability:
    """Evaluate the model in FP64, or, where ONNX Runtime cannot, with inputs moved by half an FP32 step."""
    try:
        double = DoubleReference(subject.model)
        others = [dict(double.run(feeds).tensors) for feeds in subject.bench.feeds]
        kept = ", ".join(double.fp32_ops)
        method = f"FP64 ({kept} in FP32, channels reversed where they add)" if kept else "FP64"
    except ModelError as error:
        try:
            moved = _moved(subject)
        except NodeFailedError as failed:
            text = f"nothing: no FP64 ({error.message}), and with inputs moved a little {failed.failure}"
            return Stability(text, None)
        if moved is None:
            return Stability(f"nothing: no FP64 ({error.message}), and no float input to move", None)
        others = moved
        method = "inputs moved by up to half an FP32 step, for want of FP64"
    outputs = tuple(
        output for sample, tensors in enumerate(others) for output in _held(subject, tensors, sample)
    )
    return Stability(method, badness(outputs), outputs)


def _moved(subject: Subject) -> list[dict[str, np.ndarray]] | None:
    rng = np.random.default_rng(SEED)
    if not any(array.dtype == np.float32 for array in subject.bench.feeds[0].values()):
        return None
    half = np.float64(2.0**-24)
    return [
        subject.bench.reference.run(
            {
                name: (array * (1 + half * rng.uniform(-1, 1, array.shape))).astype(np.float32)
                if array.dtype == np.float32
                else array
                for name, array in feeds.items()
            }
        )
        for feeds in subject.bench.feeds
    ]


def _held(subject: Subject, tensors: Mapping[str, np.ndarray], sample: int) -> list[OutputResult]:
    """The other evaluation as if it were the candidate, against the gates of the run."""
    narrowed = {
        name: value.astype(np.float32) if value.dtype == np.float64 else value
        for name, value in tensors.items()
    }
    return list(subject.judge(narrowed, sample, subject.plan()))
