"""The models: a clean trunk of blocks, and behind it what the group is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, permutations

import numpy as np
import onnx

from benchmarks.faults.families import ARCHITECTURES, Family
from benchmarks.faults.kinds import GADGETS, Kind, Place, Site
from benchmarks.verdicts.truth import Group, Spec, Subject
from cases.models.graph import Graph
from cases.models.layers import linear
from harness.model import load_model, with_islands
from harness.tensors import Precision

BLOCKS = 2
TOKENS, WIDTH = 1024, 16  # of the models that choose


def build(spec: Spec) -> Subject:
    """The model of a specification; the same bytes every time."""
    return _GROUPS[spec.group](spec)


def specs() -> Iterator[Spec]:
    """The fixed set: of each group every variant in four surroundings, and clean twins."""
    families = cycle(Family)
    for group, (variants, times) in _VARIANTS.items():
        for variant in variants:
            for seed in range(times):
                family = Family.MLP if group is Group.NEAR_TIE else next(families)
                yield Spec(group, variant, family, seed=seed)
            yield Spec(group, variant, family, planted=False)


def _trunk(spec: Spec, graph: Graph, shape: Sequence[int]) -> str:
    """A residual stream of clean blocks."""
    x = graph.input("x", shape)
    for index in range(BLOCKS):
        name = f"b{index}"
        bounded = _bounded(graph, x, f"{name}_in", shape)
        branch = ARCHITECTURES[spec.family].block(graph, bounded, name, tuple(shape))
        x = graph.node("Sub" if index % 2 else "Add", f"{name}_join", x, branch)
    return x


def _bounded(graph: Graph, x: str, name: str, shape: Sequence[int]) -> str:
    """`x` within ±1, with an offset, so that no row is all zeros."""
    damped = graph.node("Mul", f"{name}_damp", x, graph.constant("damping", 0.125))
    offset = graph.node("Add", f"{name}_offset", damped, graph.weight(f"{name}_bias", shape[1:], 0.7))
    return graph.node("Tanh", f"{name}_bound", offset)


def _gadget(spec: Spec, graph: Graph, x: str, name: str, shape: Sequence[int], kind: Kind) -> Site:
    bounded = _bounded(graph, x, f"{name}_in", shape)
    return GADGETS[kind](Place(graph, bounded, name, tuple(shape), spec.planted))


def _one_of(site: Site) -> tuple[frozenset[str], ...]:
    """For each fault of a gadget, the nodes of which one must be named."""
    return tuple(frozenset().union(*clause) for clause in site.clauses)


def _mixed_scale(spec: Spec) -> Subject:
    """Boxes in pixels beside scores below 1: the scores are wrong."""
    graph, shape = Graph(spec.name, seed=spec.seed), ARCHITECTURES[spec.family].shape
    x = _trunk(spec, graph, shape)
    axis = 1 if len(shape) == 4 else len(shape) - 1
    if spec.variant == "slice":
        return _small_channel(spec, graph, x, shape, axis)
    width = shape[-1]
    boxes = graph.node("Sigmoid", "boxes_sig", linear(graph, x, "boxes_lin", width, width))
    boxes = graph.node("Mul", "boxes", boxes, graph.constant("pixels", 640.0))
    starts: tuple[frozenset[str], ...] = ()
    says = run = ""
    if spec.variant == "int8":
        scores = linear(graph, x, "scores_lin", width, width)
    else:
        kind = Kind.CANCELLATION if spec.variant == "cancellation" else Kind.SQUARES
        site = _gadget(spec, graph, x, "fault", shape, kind)
        scores, starts = linear(graph, site.tensor, "scores_lin", width, width), _one_of(site)
    scores = graph.node("Sigmoid", "scores", scores)
    if spec.variant == "int8" and not spec.planted:
        boxes, scores = _pair(graph, boxes, "boxes", 640.0), _pair(graph, scores, "scores", 1.0)
    head = graph.node("Concat", "head", boxes, scores, axis=axis)
    if spec.variant == "int8" and spec.planted:
        head, starts, run = _pair(graph, head, "head", 640.0), (frozenset({"head_q"}),), "file"
    if spec.variant == "moved":
        order = [*range(len(shape))][::-1]
        head = graph.node("Transpose", "turned", head, perm=order)
        head = graph.node("Reshape", "flat", head, graph.constant("flat_shape", [-1], np.int64))
    graph.node("Identity", "out", head)
    rank = 1 if spec.variant == "moved" else len(shape)
    model = graph.model({"out": [f"d{place}" for place in range(rank)]})
    if not spec.planted:
        return Subject(spec, model)
    says = "" if spec.variant == "int8" else "scores"
    return Subject(spec, model, run or "fail", "file" if run else "precision", starts, says=says)


def _small_channel(spec: Spec, graph: Graph, x: str, shape: Sequence[int], axis: int) -> Subject:
    """One tensor that is computed at once, of channels that differ by 640 times: one of the small ones is wrong."""
    sizes = [-1 if place == axis else 1 for place in range(len(shape))]
    scales = np.where(np.arange(shape[axis]) < shape[axis] // 2, 640.0, 1.0).reshape(sizes)
    amount = np.where(np.arange(shape[axis]) == shape[axis] - 1, 3001.0 if spec.planted else 1.0, 0.0)
    bounded = _bounded(graph, x, "fault_in", shape)
    constant = graph.constant("fault_amount", amount.reshape(sizes))
    shifted = graph.node("Add", "fault_shift", bounded, constant)
    unshifted = graph.node("Sub", "fault_unshift", shifted, constant)
    graph.node("Mul", "out", unshifted, graph.constant("scales", scales))
    model = graph.model({"out": shape})
    if not spec.planted:
        return Subject(spec, model)
    starts = (frozenset({"fault_shift", "fault_unshift"}),)
    where = "[" + ":, " * axis + str(shape[axis] - 1)
    return Subject(spec, model, "fail", "precision", starts, says=where)


def _pair(graph: Graph, x: str, name: str, largest: float) -> str:
    """An INT8 pair for numbers up to `largest`."""
    read = [graph.constant(f"{name}_scale", largest / 127), graph.constant(f"{name}_zero", 0, np.int8)]
    return graph.node(
        "DequantizeLinear", f"{name}_dq", graph.node("QuantizeLinear", f"{name}_q", x, *read), *read
    )


def _hidden(spec: Spec) -> Subject:
    """Faults behind outputs that pass."""
    graph, shape = Graph(spec.name, seed=spec.seed), ARCHITECTURES[spec.family].shape
    x = _trunk(spec, graph, shape)
    hide, count = _HIDING[spec.variant]
    found: list[frozenset[str]] = []
    for index in range(count):
        x, nodes = hide(spec, graph, x, f"h{index}", shape)
        found.append(nodes)
    starts: tuple[frozenset[str], ...] = ()
    if spec.variant == "shown":  # the last one is not hidden
        site = _gadget(spec, graph, x, "last", shape, Kind.SQUARES)
        x, starts = graph.node("Add", "last_join", x, site.tensor), _one_of(site)
    graph.node("Mul", "out", x, graph.constant("last_gain", 0.5))
    model = graph.model({"out": shape})
    if not spec.planted:
        return Subject(spec, model)
    return Subject(
        spec, model, "fail" if starts else "pass", "precision" if starts else "none", starts, tuple(found)
    )


Hide = Callable[[Spec, Graph, str, str, Sequence[int]], tuple[str, frozenset[str]]]


def _added(kind: Kind) -> Hide:
    """A branch that adds next to nothing to the stream."""

    def write(
        spec: Spec, graph: Graph, x: str, name: str, shape: Sequence[int]
    ) -> tuple[str, frozenset[str]]:
        site = _gadget(spec, graph, x, name, shape, kind)
        small = graph.node("Mul", f"{name}_small", site.tensor, graph.constant("branch", 1e-4))
        return graph.node("Add", f"{name}_join", x, small), frozenset().union(*_one_of(site))

    return write


def _large(spec: Spec, graph: Graph, x: str, name: str, shape: Sequence[int]) -> str:
    """A tensor that overflows FP16."""
    bounded = _bounded(graph, x, f"{name}_in", shape)
    return graph.node("Mul", f"{name}_large", bounded, graph.constant("huge", 1e6 if spec.planted else 1e3))


def _saturated(
    spec: Spec, graph: Graph, x: str, name: str, shape: Sequence[int]
) -> tuple[str, frozenset[str]]:
    """An overflow that Sigmoid makes 0 or 1 of, as it would without."""
    gate = graph.node("Sigmoid", f"{name}_gate", _large(spec, graph, x, name, shape))
    return graph.node("Mul", f"{name}_gated", x, gate), frozenset({f"{name}_large"})


def _chosen(spec: Spec, graph: Graph, x: str, name: str, shape: Sequence[int]) -> tuple[str, frozenset[str]]:
    """An overflow that Where never takes."""
    never = graph.node("Greater", f"{name}_never", x, graph.constant("never", 1e4))
    return (
        graph.node("Where", f"{name}_where", never, _large(spec, graph, x, name, shape), x),
        frozenset({f"{name}_large"}),
    )


def _taken(spec: Spec, graph: Graph, x: str, name: str, shape: Sequence[int]) -> tuple[str, frozenset[str]]:
    """An overflow in elements that Slice leaves out."""
    large = _large(spec, graph, x, name, shape)
    return _sliced(graph, x, large, name, shape), frozenset({f"{name}_large"})


def _sliced(graph: Graph, x: str, other: str, name: str, shape: Sequence[int]) -> str:
    """`x`, joined with another tensor and cut out again."""
    both = graph.node("Concat", f"{name}_both", x, other, axis=0)
    ends = [graph.constant(f"{key}0", [value], np.int64) for key, value in (("start", 0), ("axis", 0))]
    stop = graph.constant("stop0", [shape[0]], np.int64)
    return graph.node("Slice", f"{name}_slice", both, ends[0], stop, ends[1])


def _lost(spec: Spec, graph: Graph, x: str, name: str, shape: Sequence[int]) -> tuple[str, frozenset[str]]:
    """What a large number leaves nothing of, in elements that Slice leaves out."""
    site = _gadget(spec, graph, x, name, shape, Kind.CANCELLATION)
    return _sliced(graph, x, site.tensor, name, shape), frozenset().union(*_one_of(site))


_HIDING: dict[str, tuple[Hide, int]] = {
    "added": (_added(Kind.SQUARES), 1),
    "added-thrice": (_added(Kind.SQUARES), 3),
    "lost": (_lost, 1),
    "saturated": (_saturated, 2),
    "chosen": (_chosen, 1),
    "taken": (_taken, 1),
    "shown": (_added(Kind.SQUARES), 2),
}


def _near_tie(spec: Spec) -> Subject:
    """Choices among many scores. The twin has few; with a fault before the scores the choice is wrong indeed."""
    tokens = TOKENS if spec.planted else 12
    graph, shape = Graph(spec.name, seed=spec.seed), (tokens, WIDTH)
    x = graph.input("x", shape)
    for index in range(BLOCKS):
        branch = ARCHITECTURES[Family.MLP].block(
            graph, graph.node("Tanh", f"b{index}_in", x), f"b{index}", shape
        )
        x = graph.node("Add", f"b{index}_join", x, branch)
    starts: tuple[frozenset[str], ...] = ()
    scored = x
    if spec.variant.endswith("fault"):
        site = GADGETS[Kind.SQUARES](
            Place(graph, graph.node("Tanh", "fault_in", x), "fault", shape, spec.planted)
        )
        scored, starts = site.tensor, _one_of(site)
    if spec.variant.startswith("argmax"):
        outputs = _codebook(graph, x, scored, tokens)
    else:
        outputs = _best(graph, x, scored, tokens, tokens if "sort" in spec.variant else tokens // 2)
    model = graph.model(outputs)
    if not spec.planted:
        return Subject(spec, model)
    if starts:
        return Subject(spec, model, "fail", "precision", starts)
    return Subject(spec, model, chooses=frozenset({"choice"}))


def _best(graph: Graph, x: str, scored: str, tokens: int, count: int) -> dict[str, Sequence[int]]:
    """The rows with the largest scores."""
    logit = graph.node("MatMul", "logit", scored, graph.weight("score_weight", (WIDTH, 1), 0.3))
    flat = graph.node(
        "Reshape", "flat", graph.node("Sigmoid", "score", logit), graph.constant("row", [tokens], np.int64)
    )
    graph.node_with_outputs(
        "TopK", "choice", [flat, graph.constant("count", [count], np.int64)], ["best", "place"], axis=0
    )
    rows = graph.node("Gather", "rows", x, "place", axis=0)
    linear(graph, rows, "features", WIDTH, WIDTH)
    return {"best": [count], "features": [count, WIDTH]}


def _codebook(graph: Graph, x: str, scored: str, tokens: int) -> dict[str, Sequence[int]]:
    """For each row the nearest of many codes."""
    near = graph.node("MatMul", "near", scored, graph.weight("codes_turned", (WIDTH, 512), 0.5))
    place = graph.node("ArgMax", "choice", near, axis=1, keepdims=0)
    code = graph.node("Gather", "code", graph.weight("codes", (512, WIDTH), 1.0), place, axis=0)
    graph.node("Add", "out", x, code)
    return {"out": [tokens, WIDTH]}


def _two_faults(spec: Spec) -> Subject:
    """Two gadgets, one behind the other, in one branch."""
    graph, shape = Graph(spec.name, seed=spec.seed), ARCHITECTURES[spec.family].shape
    x = _trunk(spec, graph, shape)
    starts: tuple[frozenset[str], ...] = ()
    branch = x
    for place, kind in enumerate(spec.variant.split("+")):
        site = _gadget(spec, graph, branch, f"f{place}", shape, Kind(kind))
        branch, starts = site.tensor, starts + _one_of(site)
    x = graph.node("Add", "join", x, branch)
    linear(graph, x, "out", shape[-1], shape[-1])
    model = graph.model({"out": shape})
    return Subject(spec, model, "fail", "precision", starts) if spec.planted else Subject(spec, model)


def _ruined(spec: Spec) -> Subject:
    """A file of FP16 tensors that do not hold what they should, or with a pair whose scale does not fit."""
    graph, shape = Graph(spec.name, seed=spec.seed), ARCHITECTURES[spec.family].shape
    x = _trunk(spec, graph, shape)
    starts: tuple[frozenset[str], ...]
    scales = {"clipped": 0.02, "vanished": 300.0, "channel": 400.0}
    if spec.variant in scales:
        bounded = _bounded(graph, x, "fault_in", shape)
        if spec.variant == "channel":  # one scale for channels of different sizes
            sizes = np.where(np.arange(shape[-1]) == 0, 400.0, 1.0)
            bounded = graph.node("Mul", "fault_sizes", bounded, graph.constant("sizes", sizes))
        fits = 400.0 if spec.variant == "channel" else 1.0
        rounded = _pair(graph, bounded, "fault", scales[spec.variant] if spec.planted else fits)
        if spec.variant == "channel":
            rounded = graph.node("Div", "fault_even", rounded, "sizes") if spec.planted else bounded
        x, starts = graph.node("Add", "join", x, rounded), (frozenset({"fault_q"}),)
    else:
        site = _gadget(spec, graph, x, "fault", shape, Kind(spec.variant))
        x, starts = graph.node("Add", "join", x, site.tensor), _one_of(site)
    linear(graph, x, "out", shape[-1], shape[-1])
    model: onnx.ModelProto = graph.model({"out": shape})
    if spec.variant not in scales:
        import onnx_ir as ir

        model = ir.to_proto(with_islands(load_model(model, name=spec.name), Precision.FP16, frozenset()).ir)
    return Subject(spec, model, "file", "file", starts) if spec.planted else Subject(spec, model)


_GROUPS: dict[Group, Callable[[Spec], Subject]] = {
    Group.MIXED_SCALE: _mixed_scale,
    Group.HIDDEN: _hidden,
    Group.NEAR_TIE: _near_tie,
    Group.TWO_FAULTS: _two_faults,
    Group.RUINED: _ruined,
}
_KINDS = (Kind.SQUARES, Kind.EXP, Kind.LOGITS, Kind.GROWTH, Kind.EPSILON, Kind.CANCELLATION)
_VARIANTS: dict[Group, tuple[Sequence[str], int]] = {
    Group.MIXED_SCALE: (("squares", "cancellation", "moved", "int8", "slice"), 6),
    Group.HIDDEN: (tuple(_HIDING), 4),
    Group.NEAR_TIE: (("topk", "sort", "argmax", "topk-fault", "sort-fault", "argmax-fault"), 4),
    Group.TWO_FAULTS: (tuple(f"{one}+{other}" for one, other in permutations(_KINDS, 2)), 1),
    # Of an epsilon that was stored as 0 a file knows nothing any more.
    Group.RUINED: (
        (*(kind.value for kind in _KINDS if kind is not Kind.EPSILON), "clipped", "vanished", "channel"),
        4,
    ),
}
