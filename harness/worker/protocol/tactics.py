"""Tactics in messages: what a builder chose for each layer, and what it is ordered to choose or to avoid.

A tactic is known by its place and its variant. The place is the layer with the shapes of its tensors, for unnamed
layers repeat; with the editable timing cache it is the cache's key of the operator. The variant is the
implementation, its tactic, and the formats that it reads and writes. Identifiers are hexadecimal text: they have 64
bits, and many readers of JSON keep 53.
"""

from dataclasses import dataclass
from typing import Any, Optional, Tuple

#: How choices are read and made: `IAlgorithmSelector` (8.5 to 10.16), or the editable timing cache (from 10.8 on).
SELECTOR, CACHE = "selector", "cache"
MECHANISMS = ("auto", SELECTOR, CACHE)


@dataclass(frozen=True)
class TensorForm:
    """How an implementation reads or writes one tensor.

    Args:
        dtype: `float16`, …
        strides: by axis, in elements or vectors of elements.
        vectorized_dim: the axis that is stored in vectors, -1 if none is; None on releases that do not report it (8.5).
        components: elements of a vector; None likewise.
        layout: TensorRT's name of the format (`LINEAR`, `CHW32`); None where it is not reported (10 and later).
    """

    dtype: str
    strides: Tuple[int, ...] = ()
    vectorized_dim: Optional[int] = None
    components: Optional[int] = None
    layout: Optional[str] = None


@dataclass(frozen=True)
class Choice:
    """One implementation of one layer.

    Args:
        layer: TensorRT's name of the layer; of a fused one, `conv1 + relu1`.
        tactic: hexadecimal id of the tactic, or the tactic's hash in the editable timing cache.
        implementation: hexadecimal id of the implementation; None with the editable timing cache.
        key: the timing cache's key of the operator; None with an algorithm selector.
        shapes: of the inputs, then of the outputs, at the optimum of the profile; empty if unknown.
        inputs: the form of each input; empty with the editable timing cache.
        outputs: likewise.
        kernel: name of the kernel, where it is known.
        milliseconds: what the builder measured; None where it did not, or does not say.
        members: the network layers that were fused into the layer.
        onnx_nodes: names of the ONNX nodes that it computes.
    """

    layer: str
    tactic: str
    implementation: Optional[str] = None
    key: Optional[str] = None
    shapes: Tuple[Tuple[int, ...], ...] = ()
    inputs: Tuple[TensorForm, ...] = ()
    outputs: Tuple[TensorForm, ...] = ()
    kernel: Optional[str] = None
    milliseconds: Optional[float] = None
    members: Tuple[str, ...] = ()
    onnx_nodes: Tuple[str, ...] = ()

    @property
    def place(self) -> Tuple[Any, ...]:
        """Where the choice is made."""
        return (self.key,) if self.key is not None else (self.layer, self.shapes)

    @property
    def variant(self) -> Tuple[Any, ...]:
        """What is chosen there."""
        return (self.implementation, self.tactic, self.inputs, self.outputs)


@dataclass(frozen=True)
class TacticOrders:
    """What a build does about tactics, beside reporting them.

    Args:
        force: choices to make.
        forbid: choices to avoid.
        mechanism: `selector`, `cache`, or `auto`: the cache where the release can edit it.
        alternatives: how many of the choices that were offered and not taken to report for each layer.
        number: makes builds that are alike in everything else different, so that each is built anew.
        cache_path: a timing cache to start from, with the mechanism `cache`; None starts from an empty one.
        save_cache_path: where to write the timing cache after the build; None writes none.
        strict: with the mechanism `cache`, an operator that is not in the cache is an error of the build.
    """

    force: Tuple[Choice, ...] = ()
    forbid: Tuple[Choice, ...] = ()
    mechanism: str = "auto"
    alternatives: int = 0
    number: int = 0
    cache_path: Optional[str] = None
    save_cache_path: Optional[str] = None
    strict: bool = False


#: Why an order was not carried out: no layer of that place was tuned (TensorRT fused otherwise); it was, and the
#: choice was not offered; it was offered alone, and TensorRT took another; what is forbidden was all there is.
NOT_ASKED, NOT_OFFERED, NOT_TAKEN, NOTHING_ELSE = "not asked", "not offered", "not taken", "nothing else"


@dataclass(frozen=True)
class Miss:
    """An order that was not carried out.

    Args:
        order: `force` or `forbid`.
        choice: what was ordered.
        why: one of the constants of this module.
        taken: what was chosen in its place; None if nothing was.
    """

    order: str
    choice: Choice
    why: str
    taken: Optional[Choice] = None


@dataclass(frozen=True)
class LayerType:
    """What a network layer was set to compute in, in TensorRT's words (`HALF`).

    Args:
        index: position in the network.
        layer: its name.
        precision: None if it was set to none.
        outputs: of each output, None if it was set to none.
    """

    index: int
    layer: str
    precision: Optional[str] = None
    outputs: Tuple[Optional[str], ...] = ()


@dataclass(frozen=True)
class TacticReport:
    """What a build chose.

    Args:
        mechanism: `selector` or `cache`.
        choices: one a tuned layer, in TensorRT's order.
        alternatives: what was offered and not taken, as many for each layer as were asked for.
        offered: how many implementations were offered, over all layers.
        misses: the orders that were not carried out.
        confirmed: how many choices the engine inspector confirms.
        contradicted: layers for which the inspector reports another tactic.
        builds: how often the network was built for this: more than once where the timing cache had no entry for a
            forced choice, or a forbidden one came up first.
        problems: what went wrong while tactics were recorded.
        flags: names of the builder flags that were set; those of the timing cache left out.
        layer_types: the layers whose precision or output types were set.
    """

    mechanism: str
    choices: Tuple[Choice, ...] = ()
    alternatives: Tuple[Choice, ...] = ()
    offered: int = 0
    misses: Tuple[Miss, ...] = ()
    confirmed: int = 0
    contradicted: Tuple[str, ...] = ()
    builds: int = 1
    problems: Tuple[str, ...] = ()
    flags: Tuple[str, ...] = ()
    layer_types: Tuple[LayerType, ...] = ()


def hexadecimal(value: int) -> str:
    """`0x` and 16 digits of a 64-bit number, signed or not."""
    return "0x{:016x}".format(int(value) & 0xFFFFFFFFFFFFFFFF)
