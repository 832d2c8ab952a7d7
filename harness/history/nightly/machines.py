"""What a night ran on: nights of another GPU say nothing of tonight's, and other changes are told beside the drift."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.history.matrix import is_emulated
from harness.history.store import RunInfo, read_runs

Facts = Mapping[str, str]
"""What is known of a night, by the columns of the history."""

#: How facts are called, in the order in which changes are told.
WORDS = {
    "gpu": "GPU",
    "compute_capability": "compute capability",
    "driver": "driver",
    "cuda": "CUDA",
    "tensorrt": "TensorRT",
    "onnxruntime": "ONNX Runtime",
    "harness": "harness",
    "host_cpu": "processor",
}
_GPU = ("gpu", "compute_capability")
_IN_FOOTER = {"onnxruntime": "onnxruntime", "harness": "harness", "host_cpu": "cpu"}


@dataclass(frozen=True)
class FactChange:
    """Something that a night ran on and that the night before did not.

    Args:
        what: such as `driver`.
        before: its version or name in the night before.
        now: that of the night.
    """

    what: str
    before: str
    now: str


def facts_of(info: RunInfo, release: str) -> Facts:
    """What a run had `release` computed on: from its footer, or from its rows where that does not tell.

    Facts that are not known are left out, as where no engine could be built.
    """
    engine = info.fingerprint.get("environments", {}).get(release)
    if engine is None and not is_emulated(release):
        return _facts_in_rows(info, release)
    host = {name: info.fingerprint.get(key) for name, key in _IN_FOOTER.items()}
    facts = {**host, **(engine or {})}
    return {name: str(facts[name]) for name in WORDS if facts.get(name) is not None}


def _facts_in_rows(info: RunInfo, release: str) -> Facts:
    import pyarrow.compute as pc

    table = read_runs([info], ("release", *WORDS), skip_damaged=True)
    table = table.filter(pc.equal(table["release"], release))
    known = {name: table[name].drop_null() for name in WORDS}
    return {name: str(values[0].as_py()) for name, values in known.items() if len(values)}


def on_same_gpu(one: Facts, other: Facts) -> bool:
    """Whether two nights ran on GPUs of one kind; a night that does not tell may have."""
    return all(one[name] == other[name] for name in _GPU if name in one and name in other)


def changes_between(before: Facts, now: Facts) -> tuple[FactChange, ...]:
    """What differs, of what is known of both nights."""
    return tuple(
        FactChange(word, before[name], now[name])
        for name, word in WORDS.items()
        if name in before and name in now and before[name] != now[name]
    )
