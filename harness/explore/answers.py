"""What commands answer: plain data, before anything is shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.diagnosis import JudgedEvaluation, TensorRange
from harness.explore.commands import Order
from harness.judge import LayerResult
from harness.model import NodeInfo
from harness.search import Outcome, SearchVerdict


@dataclass(frozen=True)
class TryResult:
    """One configuration, evaluated.

    Args:
        candidate: `emulator`, or the environment of the engine.
        kept: the nodes that were in FP32, in topological order.
        nodes: how many nodes the precision lowers.
        evaluation: its outcome and outputs.
    """

    candidate: str
    kept: tuple[str, ...]
    nodes: int
    evaluation: JudgedEvaluation

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return self.evaluation.passed


@dataclass(frozen=True)
class LayerRow:
    """A row of the table of layers.

    Args:
        result: the errors.
        range: the values of the tensor in FP32.
        kept: the node is in FP32.
    """

    result: LayerResult
    range: TensorRange
    kept: bool


@dataclass(frozen=True)
class LayerTable:
    """Layers, with the nodes that are kept now in FP32.

    Args:
        rows: in the order asked for.
        matching: how many layers match, those that were cut off included.
        order: what they are sorted by; None is the order of the graph.
        around: the node around which the rows were cut out; None if they were not.
    """

    rows: tuple[LayerRow, ...]
    matching: int
    order: Order | None
    around: str | None = None


@dataclass(frozen=True)
class TensorRow:
    """A tensor beside the node that is explained.

    Args:
        range: its values in FP32.
        neighbours: the nodes that read it, or the one that writes it; empty for inputs and constants.
        share: its largest magnitude over the largest number of the precision.
    """

    range: TensorRange
    neighbours: tuple[NodeInfo, ...]
    share: float


@dataclass(frozen=True)
class Explanation:
    """What happens at one node.

    Args:
        node: the node.
        nodes: how many nodes the model has.
        lowered: the precision lowers such nodes.
        kept: it is in FP32 now.
        reason: what happens there, in physical terms.
        layer: its errors with what is kept now, of its worst output; None where nothing was measured.
        usual: the median of the errors that nodes introduce; 0 if unknown.
        alone: what lowering only this node does to the outputs, as a multiple of the limit; None if it is not lowered.
        reads: its float inputs.
        writes: its float outputs.
    """

    node: NodeInfo
    nodes: int
    lowered: bool
    kept: bool
    reason: str
    layer: LayerResult | None = None
    usual: float = 0.0
    alone: float | None = None
    reads: tuple[TensorRow, ...] = ()
    writes: tuple[TensorRow, ...] = ()


@dataclass(frozen=True)
class KeptNodes:
    """What is kept in FP32 now, and what a command changed about it.

    Args:
        kept: all of them, in topological order.
        nodes: how many nodes the precision lowers.
        changed: the command was `keep`, `lower` or `undo`, not a question.
        added: nodes that were not in FP32 before.
        removed: nodes that were.
        outcome: that of this configuration, if it was evaluated before.
    """

    kept: tuple[str, ...]
    nodes: int
    changed: bool = False
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    outcome: Outcome | None = None


@dataclass(frozen=True)
class BisectResult:
    """What a search found.

    Args:
        verdict: how it ended.
        among: among how many nodes it searched.
        found: the fewest nodes that pass, with `fixed`.
        fixed: how many others were kept all the while.
        minimal: each of them was left out once, alone, and it failed.
        evaluations: evaluations of the emulator.
        seconds: wall time.
        result: what is kept now, evaluated; None if nothing was found.
    """

    verdict: SearchVerdict
    among: int
    found: tuple[str, ...]
    fixed: int
    minimal: bool
    evaluations: int
    seconds: float
    result: TryResult | None = None

    @property
    def answered(self) -> bool:
        """Whether nodes were found, or shown not to be needed."""
        return self.verdict in (SearchVerdict.FOUND, SearchVerdict.NONE)


@dataclass(frozen=True)
class ExportedFiles:
    """What was written.

    Args:
        folder: where.
        files: names of the files.
        commands: by tool, ready to paste.
        evidence: how the files fared when they were tried.
        result: the configuration on the emulator; if it fails, the recipes cure nothing.
    """

    folder: Path
    files: tuple[str, ...]
    commands: tuple[tuple[str, str], ...]
    evidence: tuple[str, ...]
    result: TryResult


@dataclass(frozen=True)
class JournalSummary:
    """What a journal holds from before.

    Args:
        candidate: `emulator`, or the environment.
        evaluations: how many there are.
        best: the smallest set of nodes that passes, in topological order; None if none does.
    """

    candidate: str
    evaluations: int
    best: tuple[str, ...] | None


@dataclass(frozen=True)
class Results:
    """What was tried: before this session, and in it."""

    earlier: tuple[JournalSummary, ...]
    tried: tuple[TryResult | BisectResult, ...]


@dataclass(frozen=True)
class Welcome:
    """The first screen.

    Args:
        case: name of the case.
        precision: the precision under test.
        samples: how many inputs are judged.
        start: everything lowered, on the emulator.
        origins: the layers where the error starts.
        reason: what happens at the first of them; empty if there is none.
        diverged: how many of the layers fail their gates.
        layers: how many layers there are.
        suggested: a pattern around the first origin that is worth keeping.
        environment: where `try --engine` builds; None if nowhere.
        earlier: what the journals hold.
        note: what happened to an earlier journal, if something did.
    """

    case: str
    precision: str
    samples: int
    start: TryResult
    origins: tuple[LayerResult, ...]
    reason: str
    diverged: int
    layers: int
    suggested: str
    environment: str | None
    earlier: tuple[JournalSummary, ...]
    note: str = ""


Answer = (  # a Path is a picture that was drawn
    Welcome | LayerTable | Explanation | KeptNodes | TryResult | BisectResult | Path | ExportedFiles | Results
)
