"""The golden references on disk, and the policy of rewriting them.

    golden/<case>/reference.json          provenance, and hash and statistics of each output: the part to review
    golden/<case>/reference.safetensors   the values that are kept

They depend on ONNX Runtime alone, so one set serves every GPU. Only `update` and `prune` write, and neither where
`CI` is set: there a golden reference is a fact.
"""

from __future__ import annotations

import datetime
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import GoldenError, InputDataError
from harness.golden.outputs import Difference, GoldenState, GoldenStatus, KeptOutput, difference, keep
from harness.tensors import hash_feeds, host_fingerprint, load_tensors, save_tensors, write_text

Samples = Sequence[Mapping[str, np.ndarray]]

FORMAT: Literal["harness.golden/1"] = "harness.golden/1"
DESCRIPTION = "reference.json"
VALUES = "reference.safetensors"


@dataclass(frozen=True)
class Provenance:
    """What a reference was computed from, and with.

    Args:
        model_sha256: hash of the model.
        inputs_sha256: hash of the inputs of all samples.
        onnxruntime: release of ONNX Runtime.
        cpu: the processor, on which the order of summation depends.
        harness: release of harness.
    """

    model_sha256: str
    inputs_sha256: str
    onnxruntime: str
    cpu: str
    harness: str

    @classmethod
    def here(cls, model_sha256: str, feeds: Samples) -> Self:
        """Of a reference that is computed on this machine.

        Args:
            model_sha256: hash of the model.
            feeds: the inputs, sample by sample.
        """
        host = host_fingerprint()
        named = {f"{sample}/{name}": value for sample, name, value in _listed(feeds)}
        return cls(model_sha256, hash_feeds(named), host.onnxruntime, host.cpu, host.harness)


class _Document(BaseModel):
    """reference.json."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())

    format: Literal["harness.golden/1"]
    case: str
    model_sha256: str
    inputs_sha256: str
    onnxruntime: str
    cpu: str
    harness: str
    date: str
    outputs: list[KeptOutput]


class GoldenStore:
    """The golden references under one folder.

    Args:
        root: the folder; it need not exist.
    """

    def __init__(self, root: str | Path = "golden") -> None:
        self.root = Path(root)

    def cases(self) -> list[str]:
        """The names of the cases that have a golden reference."""
        return sorted(path.parent.name for path in self.root.glob(f"*/{DESCRIPTION}"))

    def check(self, case: str, provenance: Provenance, outputs: Samples) -> GoldenStatus:
        """Compare fresh reference outputs with the golden ones. Nothing is written.

        Args:
            case: name of the case.
            provenance: where the fresh outputs come from.
            outputs: the reference's outputs by name, sample by sample.

        Raises:
            GoldenError: the golden reference is damaged.
        """
        if not self._description(case).exists():
            return GoldenStatus(case, GoldenState.MISSING)
        document, values = self._load(case)
        found = _differences(document, values, outputs)
        state = GoldenState.SAME
        if found:
            only_rounding = all(output.rounding for output in found)
            state = GoldenState.ROUNDING if only_rounding else GoldenState.CHANGED
        return GoldenStatus(case, state, causes=_causes(document, provenance), outputs=found)

    def update(self, case: str, provenance: Provenance, outputs: Samples) -> GoldenStatus:
        """Write the golden reference if it is missing, damaged or another answer.

        One that agrees up to rounding stays as it is: who updates on another machine leaves no noise behind. It takes
        what `check` takes.

        Returns:
            What `check` said before; unless `ok`, the reference has been rewritten.

        Raises:
            GoldenError: `CI` is set, or the case's name cannot be a folder's.
            InputDataError: an output holds something other than numbers or bools.
        """
        refuse_in_ci("rewritten")
        try:
            status = self.check(case, provenance, outputs)
        except GoldenError:
            if not self._description(case).exists():
                raise
            status = GoldenStatus(case, GoldenState.CHANGED)
        if not status.ok:
            self._save(case, provenance, outputs)
        return status

    def prune(self, cases: Collection[str]) -> list[str]:
        """Remove the folders of all cases but `cases`, everything in them included; returns their names.

        A folder that holds no golden reference is left alone, whatever its name.

        Raises:
            GoldenError: `CI` is set.
        """
        refuse_in_ci("removed")
        orphans = [case for case in self.cases() if case not in cases]
        for case in orphans:
            shutil.rmtree(self.root / case)
        return orphans

    def _description(self, case: str) -> Path:
        return folder_of(self.root, case) / DESCRIPTION

    def _load(self, case: str) -> tuple[_Document, dict[str, np.ndarray]]:
        path = self._description(case)
        try:
            document = _Document.model_validate_json(path.read_bytes())
            values = load_tensors(path.with_name(VALUES))
        except (OSError, ValidationError, InputDataError) as error:
            raise damaged(path.parent, str(error).splitlines()[0]) from error
        for output in document.outputs:
            stored = values.get(output.key)
            if stored is None or not output.describes(stored):
                raise damaged(path.parent, f"the values of {output.key!r} are not those described")
        return document, values

    def _save(self, case: str, provenance: Provenance, outputs: Samples) -> None:
        kept = [keep(*output) for output in _listed(outputs)]
        document = _Document(
            format=FORMAT,
            case=case,
            **asdict(provenance),
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            outputs=[output for output, _ in kept],
        )
        folder = folder_of(self.root, case)
        # The values first: a description without its values would be a damaged reference.
        save_tensors(folder / VALUES, {output.key: values for output, values in kept})
        write_text(folder / DESCRIPTION, document.model_dump_json(indent=2) + "\n")


def folder_of(root: Path, case: str) -> Path:
    """The folder of a case under `root`.

    Raises:
        GoldenError: the name of the case cannot be that of a folder.
    """
    if not case or case.startswith(".") or set(case) & set("/\\\0"):
        raise GoldenError(f"{case!r} cannot be the name of a folder", where=root, hint="rename the case")
    return root / case


def refuse_in_ci(done: str) -> None:
    """Raise GoldenError if `CI` is set: what rewrites golden references is for people who look at the changes."""
    if os.environ.get("CI"):
        raise GoldenError(
            f"golden references are not {done} where CI is set",
            hint="do it on your own machine, look at the changes, and commit them",
        )


def damaged(
    where: Path, why: str, *, what: str = "golden reference", flag: str = "--golden-update"
) -> GoldenError:
    """The error that says that what is kept cannot be read; `flag` is the option that writes it anew."""
    return GoldenError(
        f"the {what} is damaged: {why}",
        where=where,
        hint=f"restore it from version control, or rewrite it with {flag}",
    )


def _listed(samples: Samples) -> Iterator[tuple[int, str, np.ndarray]]:
    """Number of the sample, name and values of each tensor."""
    for sample, tensors in enumerate(samples):
        for name, value in tensors.items():
            yield sample, name, np.asarray(value)


def _differences(
    document: _Document, values: Mapping[str, np.ndarray], outputs: Samples
) -> tuple[Difference, ...]:
    """The outputs that are not the same bits: those kept first, then new ones."""
    fresh = {(sample, name): value for sample, name, value in _listed(outputs)}
    found: list[Difference | None] = []
    for golden in document.outputs:
        now = fresh.pop((golden.sample, golden.tensor), None)
        gone = golden.difference("is gone")
        found.append(gone if now is None else difference(golden, values[golden.key], now))
    found += [Difference(f"output {name!r} of sample {sample}", "is new") for sample, name in fresh]
    return tuple(output for output in found if output is not None)


def _causes(document: _Document, now: Provenance) -> tuple[Difference, ...]:
    """What the reference depends on and is not what it was."""
    names = {
        "model_sha256": "model",
        "inputs_sha256": "inputs",
        "onnxruntime": "ONNX Runtime",
        "cpu": "processor",
    }
    return tuple(
        Difference(name, f"{_short(before)} → {_short(after)}")
        for field, name in names.items()
        if (before := getattr(document, field)) != (after := getattr(now, field))
    )


def _short(text: str) -> str:
    """The start of a hash, and other texts as they are."""
    return text[:12] if re.fullmatch(r"[0-9a-f]{64}", text) else text
