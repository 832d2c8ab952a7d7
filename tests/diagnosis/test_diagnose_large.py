"""Models of thousands of nodes: few runs, and not one for each node."""

from __future__ import annotations

import pytest

from benchmarks.faults.diagnosis import diagnose
from benchmarks.faults.families import Family
from benchmarks.faults.generate import generate
from benchmarks.faults.kinds import Kind
from benchmarks.faults.planted import Spec
from benchmarks.scale import process
from harness.diagnosis.context import effects
from harness.diagnosis.stages.cures import emulator
from harness.tensors import Precision


def test_an_error_that_adds_up_in_a_large_model_takes_few_emulations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proved node by node the same model takes 236."""
    for module in (effects, emulator):
        monkeypatch.setattr(module, "LARGE", 300)
    monkeypatch.setattr(emulator, "MOST_SUSPECTS", 30)
    case = generate(Spec(Family.MLP, Kind.ACCUMULATED, 1, 500))
    answer = diagnose(case.model, [case.feeds], Precision.FP16)
    assert answer.verdict == "precision"
    assert answer.evaluations <= 60
    places = frozenset().union(*case.places)
    assert len(answer.culprits & places) > 0.8 * len(answer.culprits)
    assert len(answer.culprits) < 45  # 28 where each is proved to be needed


@pytest.mark.slow
@pytest.mark.parametrize(("word", "most"), [("run", 2.5), ("diagnose", 3.3)])
def test_large_weights_are_held_a_few_times(word: str, most: float) -> None:
    """The model as a protobuf, its bytes and the weights of each side would take 3.6 times them in a diagnosis."""
    assert process("weights", 150, word)["mb_over_weights"] < most
