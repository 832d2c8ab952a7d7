"""What a night ran on: nights on another GPU say nothing of tonight, and other changes are listed beside the drift."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.history.judgement import Fact, FactChange
from harness.history.matrix import is_emulated
from harness.history.store import RunInfo, environments_in, read_runs

_COLUMNS = {
    Fact.GPU: "gpu",
    Fact.COMPUTE_CAPABILITY: "compute_capability",
    Fact.DRIVER: "driver",
    Fact.CUDA: "cuda",
    Fact.PRODUCT: "product",
    Fact.TENSORRT: "tensorrt",
    Fact.ONNXRUNTIME: "onnxruntime",
    Fact.HARNESS: "harness",
    Fact.PROCESSOR: "host_cpu",
}
_IN_FINGERPRINT = {"onnxruntime": "onnxruntime", "harness": "harness", "host_cpu": "cpu"}


@dataclass(frozen=True)
class Machine:
    """What one release was computed on in one night, by the columns of the history. None: not known."""

    gpu: str | None = None
    compute_capability: str | None = None
    driver: str | None = None
    cuda: str | None = None
    product: str | None = None
    tensorrt: str | None = None
    onnxruntime: str | None = None
    harness: str | None = None
    host_cpu: str | None = None

    def may_have_gpu_of(self, other: Machine) -> bool:
        """Whether both have GPUs of one kind, as far as both are known."""
        kinds = ((self.gpu, other.gpu), (self.compute_capability, other.compute_capability))
        return all(None in pair or pair[0] == pair[1] for pair in kinds)

    def changes_to(self, now: Machine) -> Iterator[FactChange]:
        """What differs now, of what is known of both."""
        for fact, column in _COLUMNS.items():
            old, new = getattr(self, column), getattr(now, column)
            if old is not None and new is not None and old != new:
                yield FactChange(fact, old, new)


def machine_of(info: RunInfo, release: str) -> Machine:
    """What `release` was computed on: from the footer of a run, or from its rows where the footer does not have it.

    Nothing is known where no engine could be built.
    """
    engine = environments_in(info.fingerprint).get(release)
    if engine is None and not is_emulated(release):
        return _machine_in_rows(info, release)
    host = {name: info.fingerprint.get(key) for name, key in _IN_FINGERPRINT.items()}
    known = {**host, **(engine or {})}
    return Machine(**{name: str(known[name]) for name in _COLUMNS.values() if known.get(name) is not None})


def _machine_in_rows(info: RunInfo, release: str) -> Machine:
    import pyarrow.compute as pc

    table = read_runs([info], ("release", *_COLUMNS.values()), skip_damaged=True)
    table = table.filter(pc.equal(table["release"], release))
    known = {name: table[name].drop_null() for name in _COLUMNS.values()}
    return Machine(**{name: str(values[0].as_py()) for name, values in known.items() if len(values)})
