"""What came of each build of a run: whether it fails its gates, its error, and the precisions that it computes in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from harness.history.judgement.outcome import Explained
from harness.history.judgement.structure import precisions_by_node
from harness.history.store import BuiltLayer, EngineRow
from harness.history.types import FailsOn
from harness.judge import RunReason, Verdict
from harness.tensors import NEVER

#: The share of nodes that must be computed in another precision for two builds to differ: a few always do.
MIN_DIFFERING = 0.25
_FAILING = (Verdict.FAIL.value, Verdict.XFAIL.value)


@dataclass(frozen=True)
class BuildOutcome(Explained):
    """What came of one build.

    Args:
        number: number of the build in its run of the matrix, from 0.
        failed: whether it fails: a gate of an output, or what else `harness run` fails it for.
        expected: whether its case expects that, or a waiver does; None where that is not known.
        why: why it fails, as far as that is known. In JSON `cause` and `reason`.
        error: nrmse of the output that the numbers of the run are of; None where it has none.
        layers: how many layers it computes in each precision, as far as the engine says.
    """

    number: int
    failed: bool
    expected: bool | None = None
    why: RunReason = field(default=RunReason(), metadata=NEVER)
    error: float | None = None
    layers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Builds:
    """The builds of one run that could be judged, on the older and on the newer release.

    Args:
        old: those of the older release.
        new: those of the newer release.
        old_differing: the share of nodes whose precision is not the same in all builds of the older release.
        new_differing: likewise of the newer release.
        nights: whether the older ones are those of earlier nights.
    """

    old: tuple[BuildOutcome, ...] = ()
    new: tuple[BuildOutcome, ...] = ()
    old_differing: float = 0.0
    new_differing: float = 0.0
    nights: bool = False

    @property
    def fails_on(self) -> FailsOn:
        """Where at least one build fails; of earlier nights, where most do: a bad one does not excuse the next."""
        failed, new = (sum(build.failed for build in side) for side in (self.old, self.new))
        old = 2 * failed > len(self.old) if self.nights else failed > 0
        if old and new:
            return FailsOn.BOTH
        return FailsOn.NEWER if new else FailsOn.OLDER if old else FailsOn.NONE

    @property
    def expected(self) -> bool:
        """Whether every build that fails does so as its case expects."""
        known = {build.expected for build in (*self.old, *self.new) if build.failed} - {None}
        return known == {True}

    @property
    def differ(self) -> bool:
        """Whether the builds of one release compute much of the network in different precisions."""
        return max(self.old_differing, self.new_differing) >= MIN_DIFFERING

    @property
    def reason(self) -> str:
        """Why it fails: of the newer release if that is known, else of the older one."""
        return next((build.reason for build in (*self.new, *self.old) if build.failed and build.reason), "")


class OutputRow(NamedTuple):
    """What the history has of one output and sample of one build."""

    run: str
    build: int
    tensor: str
    sample: int
    passed: bool | None
    error: float


def builds_of(
    before: Sequence[EngineRow],
    after: Sequence[EngineRow],
    old: Sequence[OutputRow],
    new: Sequence[OutputRow],
    worst: tuple[str, int] | None,
    *,
    nights: bool = False,
) -> Builds:
    """The builds of one run.

    Args:
        before: the builds of the older release that could be judged.
        after: likewise of the newer release.
        old: outputs of the older release.
        new: outputs of the newer release.
        worst: tensor and sample of the output whose numbers stand for the run.
        nights: whether the older ones are those of earlier nights.
    """
    return Builds(
        _outcomes(before, old, worst),
        _outcomes(after, new, worst),
        differing_share(before),
        differing_share(after),
        nights,
    )


def differing_share(engines: Sequence[EngineRow]) -> float:
    """The share of nodes whose precision is not the same in all builds; of the nodes that all builds name."""
    known = [precisions_by_node(row.layers) for row in engines if row.layers is not None]
    known = [precisions for precisions in known if precisions]
    if len(known) < 2:
        return 0.0
    common = set.intersection(*(set(precisions) for precisions in known))
    differing = [node for node in common if len({precisions[node] for precisions in known}) > 1]
    return len(differing) / len(common) if common else 0.0


def _outcomes(
    engines: Sequence[EngineRow], outputs: Sequence[OutputRow], worst: tuple[str, int] | None
) -> tuple[BuildOutcome, ...]:
    failed = {(out.run, out.build) for out in outputs if out.passed is not None and not out.passed}
    errors = {
        (output.run, output.build): float(output.error)
        for output in outputs
        if (output.tensor, output.sample) == worst
    }
    found = []
    for row in engines:
        known = row.verdict in _FAILING
        found.append(
            BuildOutcome(
                number=row.build,
                failed=known or (row.run, row.build) in failed,
                expected=row.verdict == Verdict.XFAIL.value if known else None,
                why=row.why if known else RunReason(),
                error=errors.get((row.run, row.build)),
                layers=_precisions(row.layers or ()),
            )
        )
    return tuple(found)


def _precisions(layers: Sequence[BuiltLayer]) -> dict[str, int]:
    """How many layers compute in each precision, the most frequent first."""
    return dict(Counter(layer.precision for layer in layers if layer.precision).most_common())
