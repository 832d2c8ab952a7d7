"""Tactics by `IAlgorithmSelector` (8.5 to 10.16): every implementation is offered, any may be allowed or refused.

TensorRT asks for each layer that it tunes which of the implementations it offers may be taken, and takes the fastest
of those; when all are chosen it reports them. It answers for what was allowed, not for what was meant: a group of
layers that is fused may be built otherwise, so every order is compared with the report.
"""

from collections import OrderedDict
from typing import Any, Dict, List, Sequence, Set, Tuple

from ...protocol import (
    NOT_ASKED,
    NOT_OFFERED,
    NOT_TAKEN,
    NOTHING_ELSE,
    Choice,
    Miss,
    TacticOrders,
    TensorForm,
    hexadecimal,
)
from .. import dtypes
from ..release import Release

Place = Tuple[Any, ...]
Variant = Tuple[Any, ...]
#: What goes wrong at one layer goes wrong at all of them.
_MOST_PROBLEMS = 20


class Selection:
    """What is allowed, what was offered, and what was taken; knows nothing of TensorRT.

    Args:
        orders: what to force and to forbid, and how many alternatives to remember.
    """

    def __init__(self, orders: TacticOrders) -> None:
        self._orders = orders
        self._forced: Dict[Place, Set[Variant]] = {}
        self._forbidden: Dict[Place, Set[Variant]] = {}
        for table, given in ((self._forced, orders.force), (self._forbidden, orders.forbid)):
            for choice in given:
                table.setdefault(choice.place, set()).add(choice.variant)
        self._offered: "OrderedDict[Place, Dict[Variant, Choice]]" = OrderedDict()
        self._reported: "OrderedDict[Place, List[Choice]]" = OrderedDict()

    def allow(self, offered: Sequence[Choice]) -> List[int]:
        """Which of the implementations that are offered for one layer may be taken, by position."""
        if not offered:
            return []
        place = offered[0].place
        known = self._offered.setdefault(place, {})  # hundreds of a layer, and a layer may come up again
        for choice in offered:
            known.setdefault(choice.variant, choice)
        everything = list(range(len(offered)))
        forced, forbidden = self._forced.get(place, set()), self._forbidden.get(place, set())
        exact = [index for index in everything if offered[index].variant in forced]
        if exact:
            return exact
        # An empty answer would leave the layer to TensorRT's default, or fail the build: let it have what there is.
        return [index for index in everything if offered[index].variant not in forbidden] or everything

    def report(self, chosen: Sequence[Choice]) -> None:
        """What TensorRT chose. A later report, of another profile or attempt, has the last word on its layers."""
        latest: "OrderedDict[Place, List[Choice]]" = OrderedDict()
        for choice in chosen:
            latest.setdefault(choice.place, []).append(choice)
        self._reported.update(latest)

    @property
    def taken(self) -> Tuple[Choice, ...]:
        """What was chosen, in TensorRT's order."""
        return tuple(choice for chosen in self._reported.values() for choice in chosen)

    @property
    def count(self) -> int:
        """How many implementations were offered."""
        return sum(len(offered) for offered in self._offered.values())

    def alternatives(self) -> Tuple[Choice, ...]:
        """What was offered and not taken: of each layer as many as were asked for, spread over what there was.

        Half of them read and write the formats of what was taken, as far as there are such: they leave the layers
        around alone.
        """
        found: List[Choice] = []
        for place, offered in self._offered.items():
            here = self._reported.get(place, [])
            variants = {choice.variant for choice in here}
            forms = {(choice.inputs, choice.outputs) for choice in here}
            rest = [choice for variant, choice in offered.items() if variant not in variants]
            alike = [choice for choice in rest if (choice.inputs, choice.outputs) in forms]
            others = [choice for choice in rest if (choice.inputs, choice.outputs) not in forms]
            most = self._orders.alternatives
            few = _spread(alike, max(most - len(others), (most + 1) // 2))
            found += few + _spread(others, most - len(few))
        return tuple(found)

    def misses(self) -> Tuple[Miss, ...]:
        """The orders that were not carried out."""
        taken: Dict[Place, List[Choice]] = {}
        for choice in self.taken:
            taken.setdefault(choice.place, []).append(choice)
        found: List[Miss] = []
        for choice in self._orders.force:
            here = taken.get(choice.place, [])
            wrong = [other for other in here if other.variant not in self._forced[choice.place]]
            if wrong or not here:
                found.append(
                    Miss("force", choice, self._why(choice), wrong[0] if wrong else None),
                )
        for choice in self._orders.forbid:
            here = [other for other in taken.get(choice.place, []) if other.variant == choice.variant]
            if here:
                alone = self._offered.get(choice.place, {}).keys() <= self._forbidden[choice.place]
                found.append(Miss("forbid", choice, NOTHING_ELSE if alone else NOT_TAKEN, here[0]))
        return tuple(found)

    def _why(self, choice: Choice) -> str:
        if choice.place not in self._offered:
            return NOT_ASKED
        return NOT_TAKEN if choice.variant in self._offered[choice.place] else NOT_OFFERED


def make_selector(trt: Any, release: Release, selection: Selection) -> Any:
    """A `trt.IAlgorithmSelector` that asks `selection`; what goes wrong in it is in its `problems`.

    TensorRT swallows what a callback raises, and goes on with its own choice.
    """

    class Selector(trt.IAlgorithmSelector):
        def __init__(self) -> None:
            trt.IAlgorithmSelector.__init__(self)
            self.problems: List[str] = []

        def select_algorithms(self, context: Any, choices: Any) -> List[int]:
            try:
                layer, shapes = _layer(context)
                return selection.allow([_choice(release, context, layer, shapes, each) for each in choices])
            except Exception as error:
                self._note("choosing for", context, error)
                return list(range(len(choices)))

        def report_algorithms(self, contexts: Any, choices: Any) -> None:
            taken: List[Choice] = []
            for context, each in zip(contexts, choices):
                try:
                    taken.append(_choice(release, context, *_layer(context), each, timed=True))
                except Exception as error:
                    self._note("recording the choice of", context, error)
            selection.report(taken)

        def _note(self, doing: str, context: Any, error: Exception) -> None:
            if len(self.problems) < _MOST_PROBLEMS:
                self.problems.append(
                    "{} {}: {}: {}".format(doing, _name(context), type(error).__name__, error)
                )

    return Selector()


def _name(context: Any) -> str:
    try:
        return str(context.name)
    except Exception:  # a name that is no UTF-8; what is raised here would be TensorRT's to handle
        return "a layer without a readable name"


def _layer(context: Any) -> Tuple[str, Tuple[Tuple[int, ...], ...]]:
    shapes = []
    for index in range(context.num_inputs + context.num_outputs):
        ranges = context.get_shape(index)  # minimum, optimum, maximum; nothing if the tensor has no shape
        if len(ranges):
            shapes.append(tuple(int(size) for size in ranges[len(ranges) // 2]))
    return str(context.name), tuple(shapes)


def _choice(
    release: Release,
    context: Any,
    layer: str,
    shapes: Tuple[Tuple[int, ...], ...],
    algorithm: Any,
    *,
    timed: bool = False,
) -> Choice:
    variant = algorithm.algorithm_variant
    reads, writes = context.num_inputs, context.num_outputs
    forms = [_form(release, algorithm.get_algorithm_io_info(index)) for index in range(reads + writes)]
    milliseconds = float(algorithm.timing_msec) if timed else 0.0
    return Choice(
        layer=layer,
        tactic=hexadecimal(variant.tactic),
        implementation=hexadecimal(variant.implementation),
        shapes=shapes,
        inputs=tuple(forms[:reads]),
        outputs=tuple(forms[reads:]),
        milliseconds=milliseconds if milliseconds > 0 else None,
    )


def _form(release: Release, info: Any) -> TensorForm:
    known = release.offers("algorithm_vectors")
    return TensorForm(
        dtype=dtypes.NAMES.get(info.dtype.name, info.dtype.name.lower()),
        strides=tuple(int(stride) for stride in info.strides),
        vectorized_dim=int(info.vectorized_dim) if known else None,
        components=int(info.components_per_element) if known else None,
        layout=str(info.tensor_format.name) if release.offers("algorithm_layouts") else None,
    )


def _spread(values: Sequence[Choice], most: int) -> List[Choice]:
    if len(values) <= most:
        return list(values)
    return [values[index * len(values) // most] for index in range(most)] if most > 0 else []
