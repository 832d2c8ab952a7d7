"""A builder in memory: layers with implementations, noisy timing, planted bad choices, and layers that do not obey."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from harness.search import Outcome
from harness.tactics import Sample, TacticRecord, Variation
from harness.tensors import Precision
from harness.worker.protocol import Choice, TacticReport, TensorForm, hexadecimal

LINEAR, VECTORS = TensorForm("float16", (64, 1), -1, 1), TensorForm("float16", (4, 1), 1, 16)


@cache
def choice(layer: int, number: int) -> Choice:
    """The implementation `number` of a layer; every third one writes vectors."""
    form = VECTORS if number % 3 == 2 else LINEAR
    return Choice(
        layer=f"conv{layer}",
        tactic=hexadecimal(1000 * layer + number),
        implementation=hexadecimal(7),
        shapes=((1, 64), (1, 64)),
        inputs=(form,),
        outputs=(form,),
        members=(f"conv{layer}",),
        onnx_nodes=(f"node{layer}",),
    )


@cache
def copy(layer: int, number: int) -> Choice:
    """The copy that reformats the input of a layer."""
    return Choice(
        layer=f"Reformatting CopyNode for Input Tensor 0 to conv{layer}",
        tactic=hexadecimal(number),
        implementation=hexadecimal(1002),
        shapes=((1, 64), (1, 64)),
    )


@dataclass
class SimulatedBuilder:
    """Chooses for each layer the fastest implementation under noise, unless it is told otherwise.

    Args:
        layers: how many.
        implementations: how many each layer has; all but equally fast.
        seed: of times and noise.
        fails: whether an engine with these implementations is wrong; by layer, the number of the implementation.
        deaf: layers that take what is fastest, whatever they are told.
        tied: pairs of layers that are one group: what is forced at one of them alone is ignored.
        copies: whether layers of different formats get a copy between them.
        flips: the chance that an outcome is the opposite.
    """

    layers: int
    implementations: int = 3
    seed: int = 0
    fails: Callable[[dict[int, int]], bool] = lambda chosen: False
    deaf: frozenset[int] = frozenset()
    tied: tuple[tuple[int, int], ...] = ()
    copies: bool = False
    flips: float = 0.0
    built: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def __call__(self, variation: Variation) -> Sample:
        """Build and judge."""
        self.built += 1
        natural = {layer: self.random.randrange(self.implementations) for layer in range(self.layers)}
        forced = self._forced(variation)
        for pair in self.tied:
            if len({layer in forced for layer in pair}) == 2 or not self._together(pair, forced):
                forced = {layer: number for layer, number in forced.items() if layer not in pair}
                natural[pair[1]] = natural[pair[0]]
        chosen = {
            layer: forced.get(layer, number) if layer not in self.deaf else number
            for layer, number in natural.items()
        }
        wrong = self.fails(chosen) != (self.random.random() < self.flips)
        forbidden = {(order.place, order.variant) for order in variation.orders.forbid}
        reported = self._reported(chosen, {order.place: order for order in variation.orders.force}, forbidden)
        record = TacticRecord(TacticReport("selector", tuple(reported)), Precision.FP16)
        outcome = Outcome.FAIL if wrong else Outcome.PASS
        return Sample(variation.name, variation.axis, outcome, record, badness=2.0 if wrong else 0.5)

    def _forced(self, variation: Variation) -> dict[int, int]:
        numbers = {}
        for order in variation.orders.force:
            if order.layer.startswith("conv"):
                layer = int(order.layer[4:])
                numbers[layer] = int(order.tactic, 16) - 1000 * layer
        return numbers

    def _together(self, pair: tuple[int, int], forced: dict[int, int]) -> bool:
        return forced.get(pair[0]) == forced.get(pair[1])

    def _reported(
        self, chosen: dict[int, int], forced: dict[Any, Choice], forbidden: set[Any]
    ) -> list[Choice]:
        reported: list[Choice] = []
        before = LINEAR
        for layer, number in chosen.items():
            one = choice(layer, number)
            if self.copies and one.inputs[0] != before:
                copies = [copy(layer, other) for other in range(3)]
                natural = self.random.choice(
                    [each for each in copies if (each.place, each.variant) not in forbidden]
                )
                reported.append(forced.get(natural.place, natural))
            reported.append(one)
            before = one.outputs[0]
        return reported
