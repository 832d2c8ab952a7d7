"""What commands answer: plain data, before anything is shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.comparison import GateResult
from harness.diagnosis import Held
from harness.explore.commands import Order
from harness.judge import LayerResult, OutputResult
from harness.model import NodeInfo
from harness.search import Outcome, Verdict


@dataclass(frozen=True)
class Attempt:
    """One configuration with its outcome.

    Args:
        candidate: `emulator`, or the environment of the engine.
        kept: the nodes that were in FP32, in topological order.
        nodes: how many nodes the precision lowers.
        outcome: pass or fail; unresolved if there was no engine to judge.
        output: the output that is furthest beyond its gates, or nearest to them; None if there is none.
        gate: its gate that says so.
        outputs: how many outputs the model has.
        badness: how far it is beyond its limit, as a multiple of the limit.
        seconds: wall time, of the build too.
        remembered: it was evaluated by an earlier session or a diagnosis.
        note: why it is unresolved.
        evidence: the last lines of a log, if something failed.
    """

    candidate: str
    kept: tuple[str, ...]
    nodes: int
    outcome: Outcome
    output: OutputResult | None = None
    gate: GateResult | None = None
    outputs: int = 0
    badness: float | None = None
    seconds: float = 0.0
    remembered: bool = False
    note: str = ""
    evidence: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return self.outcome is Outcome.PASS


@dataclass(frozen=True)
class Layer:
    """A row of the table of layers.

    Args:
        result: the errors.
        held: what the tensor holds in FP32.
        kept: the node is in FP32.
    """

    result: LayerResult
    held: Held
    kept: bool


@dataclass(frozen=True)
class LayersShown:
    """Layers with what is kept now.

    Args:
        rows: in the order that was asked for.
        matching: how many layers there are to show, those that were cut off included.
        order: what they are sorted by; None is the order of the graph.
        kept: how many nodes are in FP32.
        around: the node around which they were cut out; None if they were not.
    """

    rows: tuple[Layer, ...]
    matching: int
    order: Order | None
    kept: int
    around: str | None = None


@dataclass(frozen=True)
class TensorShown:
    """A tensor beside the node that is explained.

    Args:
        held: what it holds in FP32.
        others: the nodes that read it, or the one that writes it; empty for inputs and constants.
        share: its largest magnitude over the largest number of the precision.
    """

    held: Held
    others: tuple[NodeInfo, ...]
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
        usual: the median of what the nodes introduce; 0 if unknown.
        alone: what lowering only this node does to the outputs, as a multiple of the limit; None if it is not lowered.
        reads: its float inputs.
        writes: its float outputs.
        largest: the largest number of the precision.
    """

    node: NodeInfo
    nodes: int
    lowered: bool
    kept: bool
    reason: str
    layer: LayerResult | None = None
    usual: float = 0.0
    alone: float | None = None
    reads: tuple[TensorShown, ...] = ()
    writes: tuple[TensorShown, ...] = ()
    largest: float = 0.0


@dataclass(frozen=True)
class Changed:
    """What is kept after `keep`, `lower` or `undo`.

    Args:
        verb: `kept`, `lowered` or `undone`.
        added: nodes that were not in FP32 before.
        removed: nodes that were.
        kept: all of them, in topological order.
        nodes: how many nodes the precision lowers.
        known: what this configuration came to when it was last evaluated, if it was.
    """

    verb: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    nodes: int
    known: Outcome | None = None


@dataclass(frozen=True)
class Kept:
    """What is kept now, in topological order."""

    kept: tuple[str, ...]
    nodes: int


@dataclass(frozen=True)
class Narrowed:
    """What a search came to.

    Args:
        verdict: how it ended.
        asked: among how many nodes it searched.
        found: the fewest nodes that pass, with `fixed`.
        fixed: how many others were kept all the while.
        minimal: each of them was left out once, alone, and it failed.
        evaluations: evaluations of the emulator.
        seconds: wall time.
        attempt: what is kept now, evaluated; None if nothing was found.
    """

    verdict: Verdict
    asked: int
    found: tuple[str, ...]
    fixed: int
    minimal: bool
    evaluations: int
    seconds: float
    attempt: Attempt | None = None

    @property
    def answered(self) -> bool:
        """Whether nodes were found, or shown not to be needed."""
        return self.verdict in (Verdict.FOUND, Verdict.NONE)


@dataclass(frozen=True)
class Plotted:
    """A picture that was drawn."""

    path: Path


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        folder: where.
        files: names of the files.
        commands: by tool, ready to paste.
        evidence: what the files came to when they were tried.
        attempt: the configuration on the emulator; the recipes of one that fails are no cure.
    """

    folder: Path
    files: tuple[str, ...]
    commands: tuple[tuple[str, str], ...]
    evidence: tuple[str, ...]
    attempt: Attempt


@dataclass(frozen=True)
class Earlier:
    """What journals hold from before.

    Args:
        candidate: `emulator`, or the environment.
        evaluations: how many there are.
        best: the smallest set of them that passes, in topological order; None if none does.
    """

    candidate: str
    evaluations: int
    best: tuple[str, ...] | None


@dataclass(frozen=True)
class Past:
    """What was tried: before this session, and in it."""

    earlier: tuple[Earlier, ...]
    tried: tuple[Attempt | Narrowed, ...]


@dataclass(frozen=True)
class Welcome:
    """What a person should know on entry.

    Args:
        case: name of the case.
        precision: the precision under test.
        nodes: how many nodes the precision lowers.
        samples: how many inputs are judged.
        attempt: everything lowered, on the emulator.
        origins: the layers where the error starts.
        reason: what happens at the first of them; empty if there is none.
        diverged: how many of the layers fail their gates.
        layers: how many layers there are.
        suggested: a pattern around the first origin that is worth keeping.
        environment: where `try --engine` builds; None if nowhere.
        journal: folder of the journals.
        earlier: what they hold.
        note: what happened to an earlier journal, if something did.
    """

    case: str
    precision: str
    nodes: int
    samples: int
    attempt: Attempt
    origins: tuple[LayerResult, ...]
    reason: str
    diverged: int
    layers: int
    suggested: str
    environment: str | None
    journal: Path
    earlier: tuple[Earlier, ...]
    note: str = ""


Answer = Welcome | LayersShown | Explanation | Changed | Kept | Attempt | Narrowed | Plotted | Exported | Past
