"""What a night ran on: nights on another GPU say nothing of tonight, and other changes are listed beside the drift."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.history.judgement import Fact, FactChange
from harness.history.matrix import is_emulated
from harness.history.store import MADE_WITH, RunInfo, fingerprint_in, read_runs
from harness.tensors import HostFingerprint
from harness.worker.protocol import Fingerprint


@dataclass(frozen=True)
class Machine:
    """What one release was computed on in one night."""

    host: HostFingerprint
    engine: Fingerprint

    @property
    def facts(self) -> dict[Fact, str | None]:
        """What is known; empty or None if it is not."""
        host, engine = self.host, self.engine
        return {
            Fact.GPU: engine.gpu,
            Fact.COMPUTE_CAPABILITY: engine.compute_capability,
            Fact.DRIVER: engine.driver,
            Fact.CUDA: engine.cuda,
            Fact.PRODUCT: engine.product,
            Fact.TENSORRT: engine.tensorrt,
            Fact.ONNXRUNTIME: host.onnxruntime,
            Fact.HARNESS: host.harness,
            Fact.PROCESSOR: host.cpu,
        }

    def changes_to(self, now: Machine) -> Iterator[FactChange]:
        """What differs now, of what is known of both."""
        facts = now.facts
        for fact, old in self.facts.items():
            if old and (new := facts[fact]) and old != new:
                yield FactChange(fact, old, new)

    def may_have_gpu_of(self, other: Machine) -> bool:
        """Whether both have GPUs of one kind, as far as both are known."""
        return {Fact.GPU, Fact.COMPUTE_CAPABILITY}.isdisjoint(
            change.what for change in self.changes_to(other)
        )


def machine_of(info: RunInfo, release: str) -> Machine:
    """What `release` was computed on: from the footer of a run, or from its rows where the footer does not have it.

    Nothing is known where no engine could be built.
    """
    found = info.fingerprint
    if release not in found.environments and not is_emulated(release):
        rows = read_runs([info], ("release", *MADE_WITH), skip_damaged=True).to_pandas()
        found = fingerprint_in(rows[rows["release"] == release])
    return Machine(found, found.environments.get(release, Fingerprint(release)))
