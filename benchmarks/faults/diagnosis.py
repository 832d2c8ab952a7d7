"""The diagnosis under test: what a user gets from `harness.diagnose` on the emulator."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from benchmarks.faults.score import Answer
from harness.diagnosis import Stage, diagnose_model
from harness.model import load_model
from harness.tensors import Precision


def diagnose(
    model: onnx.ModelProto, feeds: Sequence[Mapping[str, np.ndarray]], precision: Precision
) -> Answer:
    """What harness says of `model` at `precision`, and what that cost from the loading of the model on."""
    started = time.perf_counter()
    found = diagnose_model(load_model(model, name=model.graph.name), feeds, precision)
    seconds = time.perf_counter() - started
    cures = [each.facts for each in found.evidence if each.stage is Stage.CURE]
    searches = [facts["evaluations"] for facts in cures if "evaluations" in facts]
    return Answer(
        verdict=found.verdict.value,
        culprits=frozenset(found.culprits),
        evaluations=found.cost.emulations,
        search_evaluations=searches[0] if searches else None,
        seconds=seconds,
    )
