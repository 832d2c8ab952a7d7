"""What a build chose, as data: one type for every release and every mechanism."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.backends import Evaluation, Plan
from harness.errors import UsageError
from harness.tensors import Precision, from_json, to_json, write_text
from harness.worker.protocol import BuildOption, Choice, Fingerprint, Profile, TacticReport, from_plain

TACTICS_SCHEMA = "harness.tactics/1"
ChoicePlace = tuple[Any, ...]


@dataclass(frozen=True)
class TacticRecord:
    """What one build chose, and what it was made with.

    Args:
        report: the choices, as the builder reports them.
        precision: the precision under test.
        model: SHA-256 of the model.
        typing: `weak` or `strong`.
        build: the build options that were set.
        fingerprint: TensorRT's release, the GPU and what else the numbers were made with.
        profiles: for each input with dynamic axes its minimum, optimum and maximum shape.
    """

    report: TacticReport
    precision: Precision
    model: str = ""
    typing: str = "weak"
    build: Mapping[str, BuildOption] = field(default_factory=dict)
    fingerprint: Fingerprint | None = None
    profiles: Mapping[str, Profile] = field(default_factory=dict)

    @property
    def choices(self) -> tuple[Choice, ...]:
        """One for each layer that was tuned, in TensorRT's order."""
        return self.report.choices

    @property
    def alternatives(self) -> tuple[Choice, ...]:
        """What was offered and not taken, as far as the build recorded it."""
        return self.report.alternatives

    @cached_property
    def by_place(self) -> Mapping[ChoicePlace, tuple[Choice, ...]]:
        """The choices by where they were made; more than one where unnamed layers repeat."""
        found: dict[ChoicePlace, list[Choice]] = defaultdict(list)
        for choice in self.choices:
            found[choice.place].append(choice)
        return {place: tuple(choices) for place, choices in found.items()}

    def takes(self, choice: Choice) -> bool:
        """Whether the build chose this."""
        return any(each.variant == choice.variant for each in self.by_place.get(choice.place, ()))

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of schema `harness.tactics/1`: the fields, those of the report among them."""
        own = to_json(self)
        report = own.pop("report")
        return {"schema": TACTICS_SCHEMA, **own, **report}

    @classmethod
    def from_dict(cls, document: object, *, where: str | Path | None = None) -> TacticRecord:
        """The record that `to_dict` wrote.

        Raises:
            UsageError: it is not such a document; `where` is the file that it comes from.
        """
        rest = dict(document) if isinstance(document, Mapping) else {}
        if rest.pop("schema", None) != TACTICS_SCHEMA:
            raise UsageError(f"is not a record of tactics: its schema is not {TACTICS_SCHEMA!r}", where=where)
        try:
            own = {item.name: rest.pop(item.name) for item in fields(cls) if item.name != "report"}
            return from_json(cls, {**own, "report": from_plain(TacticReport, rest)})
        except (KeyError, ValueError) as error:
            raise UsageError(f"is not a record of tactics: {error}", where=where) from error

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically."""
        write_text(path, json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n")


def load_record(path: Path | str) -> TacticRecord:
    """Read what `TacticRecord.save` wrote.

    Raises:
        UsageError: the file cannot be read, or holds no record.
    """
    try:
        document = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot be read: {error}", where=path) from error
    return TacticRecord.from_dict(document, where=path)


def record_of(evaluation: Evaluation, plan: Plan, model: str) -> TacticRecord | None:
    """What the engine of an evaluation of `plan` was built with; None if the plan did not ask for a record. `model` is
    the SHA-256 of the model."""
    engine = evaluation.engine
    if engine is None or engine.tactics is None:
        return None
    return TacticRecord(
        report=engine.tactics,
        precision=plan.precision,
        model=model,
        typing=engine.typing or "weak",
        build=engine.build,
        fingerprint=engine.fingerprint,
        profiles=engine.profiles,
    )


@dataclass(frozen=True)
class Difference:
    """A place where two builds chose differently.

    Args:
        layer: name of the layer.
        first: what the first build chose there; empty if it has no such layer.
        second: what the second build chose there.
    """

    layer: str
    first: tuple[Choice, ...]
    second: tuple[Choice, ...]

    @property
    def structural(self) -> bool:
        """Whether only one of the builds has this layer: they were fused otherwise, or reformat elsewhere."""
        return not (self.first and self.second)


def differences(first: TacticRecord, second: TacticRecord) -> tuple[Difference, ...]:
    """Where two builds of one network chose differently, in the order of the first, then of the second."""
    ours, theirs = first.by_place, second.by_place
    found = []
    for place in dict.fromkeys([*ours, *theirs]):
        here, there = ours.get(place, ()), theirs.get(place, ())
        if variants(here) != variants(there):
            found.append(Difference((here or there)[0].layer, here, there))
    return tuple(found)


def variants(choices: Iterable[Choice]) -> tuple[Any, ...]:
    """What was chosen at a place, whatever the order of layers that repeat."""
    found = tuple(choice.variant for choice in choices)
    return found if len(found) < 2 else tuple(sorted(found, key=repr))
