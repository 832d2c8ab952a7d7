"""What the numbers of a run were made with, compared with, and what the emulator assumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from harness.tensors import UNLESS_DEFAULT, Accumulate, HostFingerprint, host_fingerprint
from harness.text import names, number, plural
from harness.worker.protocol import EngineFacts, Fingerprint, accumulates_in

MOST_WEIGHTS = 4


@dataclass(frozen=True)
class MadeWith(HostFingerprint):
    """What numbers were made with: the host that computed the reference, and by name the environments of engines."""

    environments: Mapping[str, Fingerprint] = field(default_factory=dict, metadata=UNLESS_DEFAULT)

    @classmethod
    def here(cls, engines: Iterable[Fingerprint | None]) -> MadeWith:
        """On this host, with the environments of `engines`; None is the emulator, which has none."""
        known = {engine.environment: engine for engine in engines if engine is not None}
        return cls(**vars(host_fingerprint()), environments=known)


@dataclass(frozen=True)
class Emulation:
    """What the emulator assumed of engines, as the candidate or beside one.

    Args:
        kernels: the environment whose kernels it assumed, or `none`.
        accumulate: what products of FP16 were added up in.
        rules: the release whose rules were taken, as the one at hand was not measured; None where it was.
    """

    kernels: str = "none"
    accumulate: Accumulate = Accumulate.FP32
    rules: str | None = field(default=None, metadata=UNLESS_DEFAULT)

    def __str__(self) -> str:
        """`kernels of rtx-1.7, FP16 sums as on 1.6`; empty where nothing is assumed."""
        kernels = "" if self.kernels == "none" else f"kernels of {self.kernels}"
        assumed = ", ".join(
            filter(None, (kernels, "FP16 sums" if self.accumulate is Accumulate.FP16 else ""))
        )
        return " ".join(filter(None, (assumed, self.as_measured)))

    @property
    def as_measured(self) -> str:
        """`as on 1.6`, where the release at hand was not measured; else empty."""
        return f"as on {self.rules}" if self.rules else ""


@dataclass(frozen=True)
class Accumulators:
    """What the tactics of an engine add up products of FP16 in, of those whose names tell.

    Args:
        fp16: how many layers add up in FP16.
        fp32: how many add up in FP32.
    """

    fp16: int
    fp32: int

    @classmethod
    def of(cls, engine: EngineFacts) -> Accumulators | None:
        """Those of the layers of `engine`; None if no name tells."""
        found = Counter(accumulates_in(each.tactic or "") for each in engine.layers)
        return cls(found["fp16"], found["fp32"]) if found["fp16"] or found["fp32"] else None

    def __str__(self) -> str:
        """`tactics add up in FP16`, `tactics add up in FP32 in 3 of 12`."""
        if not (self.fp16 and self.fp32):
            return f"tactics add up in {'FP16' if self.fp16 else 'FP32'}"
        return f"tactics add up in FP32 in {self.fp32} of {self.fp16 + self.fp32}"


@dataclass(frozen=True)
class ComparedWith:
    """What candidates were compared with in place of their own model in FP32.

    Args:
        reference: the file, or the function that returns a PyTorch module.
        by_name: how many of the compared tensors have a counterpart of the same name.
        by_position: how many have one at the same place in the graph, under another name.
        unpaired: the float tensors of the model without a counterpart, in topological order: not compared.
        weights: by name of a weight of both files that differs beyond the bound on nrmse: by how much.
    """

    reference: str
    by_name: int
    by_position: int
    unpaired: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """`float.onnx: 12 tensors paired, 9 by name and 3 by position in the graph; 2 have no counterpart`."""
        counts = ((self.by_name, "name"), (self.by_position, "position in the graph"))
        pairs = " and ".join(f"{count} by {how}" for count, how in counts if count)
        how = f"{plural(self.by_name + self.by_position, 'tensor')} paired, {pairs}"
        verb = "has" if len(self.unpaired) == 1 else "have"
        rest = f"; {len(self.unpaired)} {verb} no counterpart" if self.unpaired else ""
        moved = names(
            (f"{name} (nrmse {number(error)})" for name, error in self.weights.items()), MOST_WEIGHTS
        )
        weights = f"; other values in weight {moved}" if moved else ""
        return f"{self.reference}: {how}{rest}{weights}"
