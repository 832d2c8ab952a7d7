"""What candidates choose among near ties, on the samples of one case; kept for whoever asks again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property

import numpy as np

from harness.backends import ChoosingFile, Computed, Emulator, OtherFile, Reference, Tensors
from harness.judge.reference import Bench
from harness.judge.selections.choosers import Chooser, choosers
from harness.judge.selections.guesses import guess_choices
from harness.judge.selections.near_ties import Choosing, Chosen, follow_choices
from harness.model import with_given
from harness.tensors import Precision


class Choices:
    """What is chosen otherwise than by the reference for near ties.

    Args:
        bench: the case.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._made: dict[tuple[str, Precision, int, frozenset[str] | None], Chosen | None] = {}
        self._told: dict[tuple[str, ...], Choosing] = {}

    def of_emulator(
        self,
        precision: Precision,
        sample: int,
        lowered: Collection[str] | None = None,
        emulator: Emulator | None = None,
    ) -> Chosen | None:
        """What an emulator chooses, or None if it chooses as the reference does.

        Args:
            precision: the precision that is emulated.
            sample: position of the sample.
            lowered: names of the nodes that are lowered; by default all.
            emulator: who chooses; by default that of the case.
        """
        who = emulator or self._bench.emulator
        key = (who.name, precision, sample, None if lowered is None else frozenset(lowered))
        if key not in self._made:
            found = None
            if self._choosers and self._are_compared:
                feeds = self._bench.feeds[sample]
                tensors = [name for each in self._choosers for name in (each.tensor, *each.scores)]
                wanted = list(dict.fromkeys(name for name in tensors if name not in feeds))
                computed = who.attempt(feeds, precision, lowered=lowered, tensors=wanted)
                computed = Computed({**feeds, **computed.tensors}, computed.failures)
                found = self._follow(precision, feeds, computed)
            self._made[key] = found
        return self._made[key]

    def known(self, precision: Precision, sample: int, lowered: Collection[str]) -> Chosen | None:
        """What `of_emulator` has found before for that of the case; None where it was not asked."""
        return self._made.get((self._bench.emulator.name, precision, sample, frozenset(lowered)))

    def of_engine(
        self, precision: Precision, sample: int, outputs: Mapping[str, np.ndarray]
    ) -> Chosen | None:
        """What an engine with these outputs may have chosen: a guess, which proves nothing. None where there is none.

        Args:
            precision: whose gates hold for the scores.
            sample: position of the sample.
            outputs: of the engine.
        """
        feeds = self._bench.feeds[sample]
        guess = guess_choices(self._bench.model, self._bench.reference, precision, feeds, outputs, self._tell)
        if not guess or not self._are_compared:
            return None
        scores = [name for each in self._choosers for name in each.scores if name not in feeds]
        emulated = self._bench.emulator.attempt(feeds, precision, tensors=list(dict.fromkeys(scores)))
        computed = Computed({**feeds, **emulated.tensors, **guess}, emulated.failures)
        return self._follow(precision, feeds, computed)

    def _follow(self, precision: Precision, feeds: Tensors, computed: Computed) -> Chosen | None:
        bench = self._bench
        return follow_choices(bench.model, bench.reference, precision, feeds, computed, self._tell)

    def _tell(self, tensors: tuple[str, ...]) -> Choosing:
        """The reference, told what these tensors hold; each is computed by it."""
        if tensors not in self._told:
            answers = self._bench.answers
            self._told[tensors] = (
                ChoosingFile(answers, tensors)
                if isinstance(answers, OtherFile)
                else Reference(with_given(self._bench.model, tensors))
            )
        return self._told[tensors]

    @cached_property
    def _choosers(self) -> tuple[Chooser, ...]:
        return choosers(self._bench.model)

    @cached_property
    def _are_compared(self) -> bool:
        """Whether all that is chosen, and by what, is computed by the model that candidates are compared with."""
        answers = self._bench.answers
        if answers is None:
            return True
        tensors = (name for each in self._choosers for name in (each.tensor, *each.scores))
        return isinstance(answers, OtherFile) and all(name in answers.tensors for name in tensors)
