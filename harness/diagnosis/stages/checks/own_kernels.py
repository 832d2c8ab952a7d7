"""The last word on an emulated island: with the kernels that the compiler makes of the model with it.

A search assumes one list of kernels, so that one session serves every island. But Casts around an island part what was
fused: logits that fused attention never holds in FP16 overflow once its Softmax is in FP32. So the list is asked for
again with the island that was found; where it fails with that, what lost its kernel joins the island, once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.backends import Emulator
from harness.diagnosis.context import Context, Seen, Subject, emulate
from harness.diagnosis.results import Evidence, EvidenceKind, Stage
from harness.errors import CandidateError
from harness.model import Arithmetic
from harness.text import names


@dataclass(frozen=True)
class OwnKernels:
    """What became of an island with its own kernels.

    Args:
        island: the nodes, in topological order: with those that joined it.
        joined: those that joined it.
        changed: whether the kernels are others than those that were assumed.
        passed: whether the emulator passes with them; None if the compiler cannot build the model with the island.
        reason: why it cannot; empty if it can.
    """

    island: tuple[str, ...]
    joined: tuple[str, ...] = ()
    changed: bool = False
    passed: bool | None = None
    reason: str = ""


def ask_for_kernels(seen: Seen, context: Context) -> Seen:
    """Judge the island with the kernels that the compiler makes of the model with it."""
    assert seen.cure is not None
    context.report(Stage.CURE, "ask for the kernels with the island", suspected=seen.cure.island)
    found = with_own_kernels(context.subject, seen.cure.island)
    if found is None or not found.changed:
        return seen
    compiler = context.subject.bench.assumed.kernels
    if found.passed is None:
        text = f"{compiler} lists no kernels with the island: {found.reason}"
    else:
        outcome = "passes" if found.passed else "fails"
        text = f"with the kernels that {compiler} makes of the island the emulator {outcome}"
    if found.joined:
        text += f" once what they are not fused with any more is in FP32, too: {names(found.joined)}"
    cure = seen.cure
    if found.passed is False:
        cure = replace(cure, island=(), confirmed_on=None, minimal_on=None)
    elif found.joined:
        cure = replace(cure, island=found.island, minimal_on=None)
    shown = Evidence.of(EvidenceKind.ISLAND, text, joined=list(found.joined), passed=found.passed)
    return replace(seen, cure=cure).adding(shown)


def with_own_kernels(subject: Subject, island: tuple[str, ...]) -> OwnKernels | None:
    """Judge an island of the emulator with the kernels that are made of it; None where no kernels are assumed."""
    if subject.bench.assumed.compiler is None:
        return None
    feeds, precision = subject.bench.feeds[0], subject.precision
    before = subject.bench.emulator.arithmetic(precision, feeds)
    try:
        after = _asked(subject, island).arithmetic(precision, feeds)
        if before == after:
            return OwnKernels(island, passed=True)
        found = OwnKernels(island, changed=True, passed=_passes(subject, island))
        joined = subject.ordered(_lost(subject, before, after).difference(island))
        if found.passed or not joined:
            return found
        wider = subject.ordered({*joined, *island})
        return OwnKernels(wider, joined, changed=True, passed=_passes(subject, wider))
    except CandidateError as error:
        return OwnKernels(island, changed=True, reason=error.message)


def _asked(subject: Subject, island: tuple[str, ...]) -> Emulator:
    bench = subject.bench
    return bench.emulator_with(replace(bench.assumed, islands=frozenset(island)))


def _passes(subject: Subject, island: tuple[str, ...]) -> bool:
    return emulate(subject, subject.plan(island), _asked(subject, island)).passed


def _lost(subject: Subject, before: Arithmetic, after: Arithmetic) -> set[str]:
    """The nodes that write or read what is rounded now, or add up in FP16 now, and did not before."""
    rounded = before.unrounded - after.unrounded
    found = {node.name for node in subject.model.nodes if rounded.intersection((*node.outputs, *node.inputs))}
    return found | (after.sums.keys() - before.sums.keys())
