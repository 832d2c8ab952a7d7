"""What is asked for, and what must be said of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import onnx

from benchmarks.faults.families import Family


class Group(StrEnum):
    """What is hard about a fault."""

    MIXED_SCALE = "mixed-scale"
    """It sits in the small numbers of an output that holds large ones, too."""
    HIDDEN = "hidden-overflow"
    """The outputs do not show it."""
    NEAR_TIE = "near-tie"
    """Numbers that are nearly equal change places, which is no fault, or seems to be."""
    TWO_FAULTS = "two-faults-one-island"
    """Two faults of different kinds stand one behind the other."""
    RUINED = "ruined-file"
    """The file rounds by itself, and that is at fault."""


@dataclass(frozen=True)
class Spec:
    """A model of the benchmark.

    Args:
        group: what is hard about it.
        variant: which fault, and how it is written.
        family: what surrounds it.
        planted: False for the clean twin.
        seed: of the weights.
    """

    group: Group
    variant: str
    family: Family
    planted: bool = True
    seed: int = 0

    @property
    def name(self) -> str:
        """`group-variant-family-seed`, with `clean` for a twin."""
        end = "" if self.planted else "-clean"
        return f"{self.group}-{self.variant}-{self.family}-{self.seed}{end}"


@dataclass(frozen=True)
class Subject:
    """A model, and what must be said of it at fp16.

    Args:
        spec: what it was made to.
        model: the model.
        run: the verdict of a run: `pass`, `fail`, or `file` for a failure of the file itself.
        diagnosis: the verdict of a diagnosis.
        starts: for each fault that shows, nodes of which one must be named as an origin.
        hidden: for each fault behind outputs that pass, nodes of which one must be listed.
        chooses: nodes whose choice must be called one among near ties.
        says: words that the reason of a run must have: the part of an output, for one.
    """

    spec: Spec
    model: onnx.ModelProto
    run: str = "pass"
    diagnosis: str = "none"
    starts: tuple[frozenset[str], ...] = ()
    hidden: tuple[frozenset[str], ...] = ()
    chooses: frozenset[str] = field(default_factory=frozenset)
    says: str = ""

    @property
    def reasons(self) -> int:
        """How many reasons there are to name."""
        return len(self.starts) + len(self.hidden) + len(self.chooses)
