"""Another reference than the model itself: another ONNX file, saved outputs, or the PyTorch module it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from harness.backends.plan import Candidate, EmulatorFacts, Evaluation, Plan, Timing
from harness.backends.reference import Reference
from harness.errors import InputDataError
from harness.model import Model, PairedBy, Pairing, pair_tensors, with_given
from harness.tensors import dtype_of
from harness.text import names as listed

Feeds = Mapping[str, np.ndarray]

SAVED = "saved"
"""What reports call saved tensors that are judged."""


class Answers(Protocol):
    """Where tensors come from that a model's are compared with; `tensors` says how each was paired."""

    @property
    def tensors(self) -> Mapping[str, PairedBy]: ...  # noqa: D102

    @property
    def counterparts(self) -> Mapping[str, str]:
        """By tensor: what it is called there, where that is another name."""
        return {}

    def run(self, feeds: Feeds, wanted: Sequence[str]) -> dict[str, np.ndarray]:
        """`wanted`, some of `tensors`, by the names of the model; nothing where these inputs are not known."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        return


class OtherReference(Reference):
    """A reference whose tensors come from elsewhere, as far as they have a counterpart there.

    What has none is computed by the model itself in FP32, as ever.

    Args:
        model: the model whose tensors are asked for.
        answers: where they come from.
    """

    def __init__(self, model: Model, answers: Answers) -> None:
        super().__init__(model)
        self.answers = answers

    def run(self, feeds: Feeds, tensors: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """See Reference.run."""
        wanted = tuple(info.name for info in self.model.outputs) if tensors is None else tuple(tensors)
        there = tuple(name for name in wanted if name in self.answers.tensors)
        found = self.answers.run(feeds, there) if there else {}
        missing = tuple(name for name in wanted if name not in found)
        if missing:
            found |= super().run(feeds, missing)
        return {name: found[name] for name in wanted}

    def close(self) -> None:
        """Free the sessions."""
        super().close()
        self.answers.close()


class OtherFile(Answers):
    """The tensors of another ONNX file, in FP32, paired with those of the model.

    Args:
        model: the model.
        reference: the other file.

    Raises:
        UsageError: their inputs or outputs do not fit each other.
    """

    def __init__(self, model: Model, reference: Model) -> None:
        self.pairing: Pairing = pair_tensors(model, reference)
        self.model = reference
        self._reference = Reference(reference)

    @property
    def tensors(self) -> Mapping[str, PairedBy]:
        """See Answers."""
        return {name: how for name, (_, how) in self.pairing.tensors.items()}

    @property
    def counterparts(self) -> Mapping[str, str]:
        """See Answers."""
        return {name: other for name, (other, _) in self.pairing.tensors.items() if other != name}

    def feeds(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """The inputs as the other file takes them."""
        return {
            info.name: feeds[self.pairing.inputs[info.name]].astype(dtype_of(info.dtype), copy=False)
            for info in self.model.inputs
        }

    def run(self, feeds: Feeds, wanted: Sequence[str]) -> dict[str, np.ndarray]:
        """See Answers."""
        theirs = {name: self.pairing.tensors[name][0] for name in wanted}
        found = self._reference.run(self.feeds(feeds), tuple(dict.fromkeys(theirs.values())))
        return {name: found[other] for name, other in theirs.items()}

    def close(self) -> None:
        """See Answers."""
        self._reference.close()


class ChoosingFile:
    """Another ONNX file that is told what nodes choose, in place of what they compute.

    Args:
        other: the file.
        tensors: those tensors, by the names of the model; each has a counterpart in the file.
    """

    def __init__(self, other: OtherFile, tensors: Sequence[str]) -> None:
        self._other, self._given = other, {name: other.pairing.tensors[name][0] for name in tensors}
        self._reference = Reference(with_given(other.model, tuple(self._given.values())))

    def run(self, feeds: Feeds, tensors: Sequence[str]) -> dict[str, np.ndarray]:
        """Tensors that have a counterpart, by the names of the model; `feeds` holds what is chosen, too."""
        theirs = {name: self._other.pairing.tensors[name][0] for name in tensors}
        fed = self._other.feeds(feeds) | {its: feeds[name] for name, its in self._given.items()}
        found = self._reference.run(fed, tuple(dict.fromkeys(theirs.values())))
        return {name: found[its] for name, its in theirs.items()}


class SavedTensors(Answers):
    """Tensors that were saved, for the inputs of the case only.

    Args:
        model: the model.
        feeds: the inputs, sample by sample.
        saved: what was saved, sample by sample.
        where: the file that it was read from.

    Raises:
        InputDataError: there are fewer samples, or no output of the model is among them.
    """

    def __init__(
        self, model: Model, feeds: Sequence[Feeds], saved: Sequence[Feeds], where: str | None
    ) -> None:
        if len(saved) < len(feeds):
            raise InputDataError(
                f"the outputs of {len(saved)} samples were saved, and there are {len(feeds)} samples of inputs",
                where=where,
                hint="give the inputs that the outputs were computed from with --data",
            )
        self.outputs = outputs = [info.name for info in model.outputs]
        if not set(outputs) & set(saved[0]):
            raise InputDataError(
                f"holds none of the outputs {listed(outputs)}, but {listed(saved[0]) or 'nothing'}",
                where=where,
            )
        self._saved = {id(mine): its for mine, its in zip(feeds, saved, strict=False)}
        self._feeds = feeds  # so that no other feeds get their ids
        written = {*outputs, *(name for node in model.nodes for name in node.outputs)}
        self._tensors = dict.fromkeys(sorted(written & set(saved[0])), PairedBy.NAME)

    @property
    def tensors(self) -> Mapping[str, PairedBy]:
        """See Answers."""
        return self._tensors

    def run(self, feeds: Feeds, wanted: Sequence[str]) -> dict[str, np.ndarray]:
        """See Answers."""
        saved = self._saved.get(id(feeds), {})
        return {name: saved[name] for name in wanted if name in saved}


class SavedCandidate(Candidate):
    """Saved tensors as a candidate: what another program computed from the inputs of the case.

    Args:
        saved: the tensors.
    """

    name = SAVED

    def __init__(self, saved: SavedTensors) -> None:
        self.saved = saved

    def evaluate(self, plan: Plan, feeds: Feeds, *, timing: Timing | None = None) -> Evaluation:
        """See Candidate.evaluate."""
        tensors = self.saved.run(feeds, tuple(self.saved.tensors))
        missing = dict.fromkeys(
            (name for name in self.saved.outputs if name not in tensors), "it was not saved"
        )
        return Evaluation(tensors, EmulatorFacts(0), failures=missing)

    def close(self) -> None:
        """See Candidate.close."""
        return
