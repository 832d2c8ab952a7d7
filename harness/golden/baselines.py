"""Metric baselines: how far a release was from the reference when somebody last agreed with it.

    golden/<case>/<sm>/<precision>.json         such as golden/lstm/sm90/fp16.json

They belong to a case, a GPU architecture and a precision; the release is in the file, because the next one is
compared with it. Each holds, for every output and layer, the errors of the builds, and where all this comes from:
versions, date, command, and what was there before. Only `write` writes, and not where `CI` is set: there a
baseline is a fact.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, PlainSerializer, ValidationError, model_validator

from harness.golden.store import damaged, folder_of, refuse_in_ci
from harness.tensors import write_text

FORMAT: Literal["harness.baseline/1"] = "harness.baseline/1"
EMULATOR = "emulator"
_MOST_CHANGES = 50  # of a baseline's past that are kept


def _spell(value: float) -> float | str:
    """Seven digits, which is what the history has; numbers that JSON lacks as text."""
    return float(f"{value:.7g}") if abs(value) < float("inf") else str(value)


Number = Annotated[float, PlainSerializer(_spell)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class BaselineTensor(_Frozen):
    """One output of one sample, or one layer: its error (nrmse), gates and bits, build by build."""

    kind: Literal["output", "layer"]
    tensor: str
    sample: int
    index: int
    node: str | None
    op: str | None
    errors: tuple[Number, ...]
    passed: tuple[bool, ...]
    hashes: tuple[str, ...]

    @model_validator(mode="after")
    def _same_builds(self) -> Self:
        if not len(self.errors) == len(self.passed) == len(self.hashes):
            raise ValueError("errors, passed and hashes are not of the same builds")
        return self


class BaselineEngine(_Frozen):
    """The engine, build by build; empty where it was not measured."""

    latency_ms: tuple[Number, ...] = ()
    engine_bytes: tuple[int, ...] = ()
    build_seconds: tuple[Number, ...] = ()


class BaselineProvenance(_Frozen):
    """What a baseline was measured with, when, and by which command."""

    date: str
    command: str
    run: str
    release: str
    tensorrt: str | None
    cuda: str | None
    driver: str | None
    gpu: str | None
    onnxruntime: str | None
    harness: str | None
    product: str | None = None


class BaselineChange(_Frozen):
    """An earlier state of the baseline: what it was measured with, and why it was replaced."""

    replaced: BaselineProvenance
    because: str


class Baseline(_Frozen):
    """The baseline of one case on one GPU architecture at one precision."""

    format: Literal["harness.baseline/1"] = FORMAT
    case: str
    precision: str
    sm: str
    case_sha256: str
    model_sha256: str
    provenance: BaselineProvenance
    changes: tuple[BaselineChange, ...] = ()
    engine: BaselineEngine = BaselineEngine()
    tensors: tuple[BaselineTensor, ...]

    def replacing(self, old: Baseline | None, because: str) -> Baseline:
        """This baseline with the past of `old`, which it takes the place of."""
        if old is None:
            return self
        past = (*old.changes, BaselineChange(replaced=old.provenance, because=because))
        return self.model_copy(update={"changes": past[-_MOST_CHANGES:]})


class BaselineStore:
    """The baselines under one folder.

    Args:
        root: the folder of golden references; it need not exist.
    """

    def __init__(self, root: str | Path = "golden") -> None:
        self.root = Path(root)

    def path(self, case: str, sm: str, precision: str) -> Path:
        """Where a baseline lies.

        Raises:
            GoldenError: the name of the case cannot be that of a folder.
        """
        return folder_of(self.root, case) / sm / f"{precision}.json"

    def load(self, case: str, sm: str, precision: str) -> Baseline | None:
        """A baseline; None if there is none.

        Raises:
            GoldenError: it is damaged.
        """
        path = self.path(case, sm, precision)
        try:
            return Baseline.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            why = str(error).splitlines()[0]
            raise damaged(path, why, what="baseline", flag="--baseline-update") from error

    def write(self, baseline: Baseline) -> Path:
        """Write a baseline, and return its file.

        Raises:
            GoldenError: `CI` is set.
        """
        refuse_in_ci("rewritten")
        path = self.path(baseline.case, baseline.sm, baseline.precision)
        write_text(path, _document(baseline))
        return path


def sm_of(compute_capability: str | None) -> str:
    """`sm90` for `9.0`; `emulator` where there is no GPU."""
    if compute_capability is None:
        return EMULATOR
    return "sm" + re.sub(r"\D", "", compute_capability)


def _document(baseline: Baseline) -> str:
    """JSON with a line for each tensor, so that a change of it is a change of one line."""
    document: dict[str, Any] = baseline.model_dump(mode="json")
    tensors = document.pop("tensors")
    head = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    lines = ",\n".join("  " + json.dumps(tensor, ensure_ascii=False, allow_nan=False) for tensor in tensors)
    return f'{head[:-2]},\n "tensors": [\n{lines}\n ]\n}}\n'
