"""What a matrix is to build: its options, and the runs of the cases; checked before anything is built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from harness.case import Case, RunSpec
from harness.errors import HarnessError, UsageError
from harness.history.matrix.emulated import EmulatedRelease, is_emulated
from harness.history.types import CacheUse, Floors, LayerBuilds
from harness.judge import nothing_at
from harness.model import load_model_of
from harness.tensors import Precision
from harness.text import suggestion


@dataclass(frozen=True)
class Build:
    """One build that is to be judged: its number, and whether it may use the timing cache (None: no matter)."""

    number: int
    timing_cache: bool | None = None


@dataclass(frozen=True)
class DriftOptions:
    """How the matrix is run and judged.

    Args:
        repeats: builds of each engine.
        layers: in which of them layers are observed.
        timing_cache: which of them use the timing cache; `both` is the first with, the others without it: with the
            cache a rebuild repeats the tactics of the one before, and shows little of the noise.
        floors: what counts as a difference.
        memory_budget: bytes that intermediate tensors of one evaluation may take at a time.
        structure: compile models once and do not run them: kernels are compared, and no GPU is needed.
        run_limit: seconds for one case at one precision on one release. Once they are over no further build
            starts; and a single build that takes longer is stopped, as an error.

    Raises:
        UsageError: `repeats` is less than 1, or `run_limit` is not more than 0.
    """

    repeats: int = 3
    layers: LayerBuilds = LayerBuilds.AUTO
    timing_cache: CacheUse = CacheUse.BOTH
    floors: Floors = field(default_factory=Floors)
    memory_budget: int = 1 << 30
    run_limit: float | None = None
    structure: bool = False

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise UsageError(f"an engine is built at least once, not {self.repeats} times")
        if self.run_limit is not None and not self.run_limit > 0:
            raise UsageError(f"a time limit is more than 0 seconds, not {self.run_limit:g}")

    def builds(self, release: str) -> Iterator[Build]:
        """The builds of one engine of `release`."""
        for number in range(self.repeats):
            if is_emulated(release):
                yield Build(number)
            elif self.timing_cache is CacheUse.BOTH:
                yield Build(number, timing_cache=number == 0)
            else:
                yield Build(number, timing_cache=self.timing_cache is CacheUse.WITH)

    def observes(self, release: str, build: Build) -> bool:
        """Whether the layers of `build` are observed."""
        if self.layers is LayerBuilds.AUTO and is_emulated(release):
            return True
        first = self.layers in (LayerBuilds.FIRST, LayerBuilds.AUTO) and build.number == 0
        return first or self.layers is LayerBuilds.ALL


def select_specs(
    cases: Sequence[Case], releases: Sequence[str], precisions: Sequence[Precision]
) -> list[tuple[Case, RunSpec]]:
    """The runs of the cases.

    By default those of each case. Where all releases are emulated ones that round at a precision of their own, it
    is the first one's precision alone: they would do the same at every precision.

    Raises:
        NothingSelectedError: no case runs at any of `precisions`.
    """
    if not precisions and all(map(is_emulated, releases)):
        own = [EmulatedRelease.parse(name).precision for name in releases]
        if all(own):
            first = own[0]
            assert first is not None
            return [(case, (*case.select_runs([first]), RunSpec(precision=first))[0]) for case in cases]
    specs = [(case, spec) for case in cases for spec in case.select_runs(precisions)]
    if not specs:
        raise nothing_at(precisions, cases)
    return specs


def check_releases(releases: Sequence[str], *, structure: bool = False) -> None:
    """Raise UsageError if a release is named twice: its builds could not be distinguished.

    With `structure`, also if it is an emulated one, or alone.
    """
    if structure and (emulated := [name for name in releases if is_emulated(name)]):
        raise UsageError(
            f"{emulated[0]} compiles nothing", where="--env", hint="name environments: harness env list"
        )
    if structure and len(releases) < 2:
        raise UsageError(
            "kernels of one release have nothing to be compared with", hint="--env OLD --env NEW"
        )
    for name in releases:
        if releases.count(name) > 1:
            hint = "give the two different seeds" if is_emulated(name) else "name another environment"
            raise UsageError(f"{name} is named twice", where="--env", hint=hint)


def check_planted(releases: Sequence[str], cases: Sequence[Case]) -> None:
    """Check that one of `cases` has the node that each `plant=` names; only then are models loaded.

    A case whose model cannot be had is left to its run, which says why.

    Raises:
        UsageError: no case has the node of a `plant=`, or the name of a release is not well-formed.
    """
    emulated = [EmulatedRelease.parse(name) for name in releases if is_emulated(name)]
    planted = [release for release in emulated if release.planted is not None]
    nodes = _float_nodes(cases) if planted else {}
    for release in planted:
        if nodes and release.planted not in nodes:
            raise UsageError(
                f"no selected case has a node {release.planted!r} that computes floats",
                where=f"--env {release.name}",
                hint=suggestion(str(release.planted), nodes) or f"such as {', '.join([*nodes][:5])}",
            )


def _float_nodes(cases: Sequence[Case]) -> dict[str, None]:
    """The nodes of all cases whose results can be rounded."""
    found: dict[str, None] = {}
    for case in cases:
        try:
            model = load_model_of(case)
        except HarnessError:
            continue
        for node in model.nodes:
            if any(model.dtypes.get(name) == "float32" for name in node.outputs):
                found[node.name] = None
    return found
