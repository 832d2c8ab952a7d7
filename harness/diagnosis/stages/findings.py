"""What the stages on one kind of candidate come to, before it is put into words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.diagnosis.results import Evidence, Origin, Price, Separation, Verdict
from harness.diagnosis.stages.cure import Cure
from harness.diagnosis.stages.prediction import Prognosis
from harness.judge import LayerResult
from harness.tactics import TacticRecord


@dataclass(frozen=True)
class Findings:
    """What was found.

    Args:
        verdict: what kind of fault it is.
        evidence: what was shown, in the order of the stages.
        culprits: the nodes at fault, in topological order.
        island: the nodes that are kept in FP32 to cure it; the culprits, but for faults that FP32 does not cure.
        confirmed: the unobserved candidate was seen to pass with the island, or the separations, or in FP32.
        minimal_on: on what each culprit was seen to be needed.
        origins: where the error starts.
        separations: the tensors that must not be fused away.
        faithful: whether observing the engine left it as it was.
        layers: the layers of the failing engine, as far as they were observed.
        prognosis: what the emulator says; None where nobody asked.
        price: what the island costs in latency.
        suspects: for an unresolved fault: the smallest set that is known to cure, or what is suspected most.
        cure: the search behind the island; None if there was none.
        casts: the island cures where Casts hold it in the graph: build from the typed model.
        own_types: the model's own float16 or bfloat16 is to blame, for an unsound reference.
        pins: the tactics of a build that passes, for a fault of a tactic.
        engine_layers: by ONNX node, the layers of the failing engine that compute it.
    """

    verdict: Verdict
    evidence: tuple[Evidence, ...] = ()
    culprits: tuple[str, ...] = ()
    island: tuple[str, ...] = ()
    confirmed: bool = False
    minimal_on: str | None = None
    origins: tuple[Origin, ...] = ()
    separations: tuple[Separation, ...] = ()
    faithful: bool | None = None
    layers: tuple[LayerResult, ...] = ()
    prognosis: Prognosis | None = None
    price: Price | None = None
    suspects: tuple[str, ...] = ()
    cure: Cure | None = None
    casts: bool = False
    own_types: bool = False
    pins: TacticRecord | None = None
    engine_layers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
