"""Fake-cast graphs: FP32 arithmetic with rounding to a precision, switched node by node at run time.

Every lowered node reads its float inputs and initializers rounded, and writes its float outputs rounded; inside an
operator the arithmetic stays FP32, as tensor cores accumulate. One graph serves every choice of nodes: each place
where a tensor goes from a writer to a reader is an *edge*, and an edge is `If(switch, rounded, raw)`. (ONNX
Runtime's If costs half of its Where on small tensors and a tenth on large ones, and rounds only what is lowered.)
Rounding is idempotent, so it is needed once between a writer and a reader, and an edge is switched on exactly if
its writer or its reader is lowered. Operators that only move values or commute with rounding (Reshape, Transpose,
Relu, …) are not rounded on both sides: their inputs' switches travel on to their readers.

Roundings that the model brings itself, its own float16 and bfloat16 tensors, are there whatever is lowered (see
`harness.model.own_roundings`). Bodies of If, Loop and Scan are lowered with the node that holds them. Weights are not
in the graph at all: each (weight, reader) pair is a graph input, fed raw or rounded. Under TF32 only the operands of
products are rounded.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from harness.errors import ModelError
from harness.model import analysis
from harness.model.model import Model, NodeInfo
from harness.model.own_roundings import owner
from harness.model.rounding import Emitter, WeightFeed, round_array, rounder
from harness.model.sums import PLAIN, RUNTIME_DOMAIN, Arithmetic
from harness.tensors import Precision

MASK = "harness::edges"
EXACT = "harness::exact"
"""Lowered beside nodes, it keeps the products that are not lowered in FP32, where they would read TF32."""
LOWERED = "::lowered"
MIN_OPSET = 9
OWN_OPSET = 13
"""Of the nodes that are added to a model which imports other domains than ONNX's alone."""
# One float input, values unchanged or rounding commutes with the operator: f(round(x)) == round(f(x)).
TRANSPARENT = frozenset(
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Relu", "Neg", "Abs", "Slice"}
    | {"Expand", "Tile", "MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin", "DepthToSpace", "SpaceToDepth"}
)


@dataclass(frozen=True)
class LoweredGraph:
    """A fake-cast graph and what it takes to run it.

    Args:
        proto: the graph; inputs are the model's own, the mask and the weight feeds.
        units: names of the nodes that can be lowered, in topological order.
        edges: for each element of the mask input, the units that switch it on.
        weights: the weight feeds.
        outputs: for each observed tensor, the name of the graph output that carries it.
    """

    proto: onnx.ModelProto
    units: tuple[str, ...]
    edges: tuple[frozenset[str], ...]
    weights: tuple[WeightFeed, ...]
    outputs: Mapping[str, str]

    def mask(self, lowered: Iterable[str]) -> np.ndarray:
        """The mask input, bool of shape [edges], for a set of lowered units."""
        chosen = frozenset(lowered)
        return np.fromiter(
            (not edge.isdisjoint(chosen) for edge in self.edges), dtype=bool, count=len(self.edges)
        )


def units_of(model: Model, precision: Precision) -> tuple[NodeInfo, ...]:
    """The nodes that `precision` rounds: all lowerable ones, or under TF32 those that compute products."""
    if precision in (Precision.FP32, Precision.INT8):
        return ()
    if precision is Precision.TF32:
        return tuple(node for node in model.lowerable if node.name in model.product_nodes)
    return model.lowerable


TRUNCATED_CHANNELS = 16
"""Convolutions of up to so many input channels (in a group) cut off what does not fit into TF32, wider ones round it.

Measured on an H200 with TensorRT for RTX 1.4.0.76 and 1.6.1.120, bit for bit alike: convolutions of 3, 8, 15 and 16
channels agree with operands rounded toward zero to 9e-7, those of 17 to 128 with operands rounded to nearest to 1e-5,
and each is off by 8e-4 the other way. Only 1 × 1 kernels of up to 16 channels do both, by what is around them.
(benchmarks/results/tf32_convolutions.json, tf32_channels.json)
"""


def truncated_convolutions(model: Model) -> frozenset[str]:
    """Names of the convolutions that round what they read toward zero in TF32: see TRUNCATED_CHANNELS."""
    return frozenset(
        node.name
        for node in model.lowerable
        if node.op == "Conv" and _channels(model.shapes.get(node.inputs[1])) <= TRUNCATED_CHANNELS
    )


def _channels(weight: tuple[int | str | None, ...] | None) -> float:
    known = weight is not None and len(weight) > 2 and isinstance(weight[1], int)
    return float(weight[1]) if known else math.inf  # type: ignore[index, arg-type]


AfterNode = Callable[[Emitter, onnx.NodeProto], None]
Round = Callable[[Emitter, str], str]


def lower(
    model: Model,
    precision: Precision,
    observed: Sequence[str],
    *,
    switched: bool | frozenset[str] = True,
    after: AfterNode | None = None,
    own: bool = True,
    truncated: frozenset[str] = frozenset(),
    arithmetic: Arithmetic = PLAIN,
) -> LoweredGraph:
    """The fake-cast graph of `model` at `precision`, with `observed` tensors (and nothing else) as outputs.

    Args:
        model: the model.
        precision: what lowered tensors are rounded to.
        observed: names of the tensors to return.
        switched: whether the lowered nodes are chosen at run time, or names of those of which they are: the
            others are lowered for good, which is cheaper to load and to run.
        after: called with each node of the main graph when it has been emitted; it may rename the node's outputs
            and emit nodes that write the old names, which come before the rounding.
        own: whether the roundings that the model brings itself are kept; without them the model must have some.
        truncated: names of nodes that round what they read toward zero, which only TF32 knows.
        arithmetic: what kernels do otherwise.

    Raises:
        ModelError: the model's opset is older than 9, and it has nodes to lower.
    """
    if 0 < model.opset < MIN_OPSET and units_of(model, precision):
        raise ModelError(
            f"opset {model.opset} is too old to be emulated",
            where=model.name,
            hint="convert it with onnx.version_converter to opset 13",
        )
    names = None if switched is True else switched or frozenset()
    how = _Lowering(
        model,
        precision,
        switched=names,
        after=after,
        own=own,
        truncated=truncated,
        arithmetic=arithmetic,
    )
    return how.graph(observed)


def shadow(
    model: Model,
    precision: Precision,
    nodes: Sequence[str],
    arithmetic: Arithmetic = PLAIN,
    given: frozenset[str] = frozenset(),
) -> LoweredGraph:
    """A graph that runs `nodes` twice: in FP32, and lowered alone on the FP32 tensors: the introduced error.

    Args:
        model: the model.
        precision: what `nodes` are lowered to.
        nodes: their names.
        arithmetic: what kernels compute otherwise.
        given: FP32 tensors, float32 in the model, that are fed instead of being computed once more.

    Returns:
        A graph without a mask whose `outputs` hold, for each float tensor `t` that `nodes` write, the reference
        under `t` unless it is given, and the lowered one, not yet rounded itself, under `t` + LOWERED; that of a
        TRANSPARENT operator is the reference, and left out.
    """
    return _Shadow(model, precision, switched=frozenset(), arithmetic=arithmetic, given=given).graph(nodes)


@dataclass
class _Lowering:
    model: Model
    precision: Precision
    emit: Emitter = field(default_factory=Emitter)
    edges: dict[frozenset[str], int] = field(default_factory=dict)
    selected: dict[tuple[str, frozenset[str]], str] = field(default_factory=dict)
    pending: dict[str, frozenset[str]] = field(default_factory=dict)  # tensor -> switches it still owes
    rounded: dict[tuple[str, bool], str] = field(default_factory=dict)
    """By tensor, and whether toward zero, its rounding that nothing switches."""
    switched: frozenset[str] | None = None  # None: all units
    after: AfterNode | None = None
    own: bool = True
    truncated: frozenset[str] = frozenset()
    arithmetic: Arithmetic = PLAIN

    def __post_init__(self) -> None:
        self.units = {node.name for node in units_of(self.model, self.precision)}
        self.opset = self.model.opset or OWN_OPSET
        self.round = rounder(self.precision, self.opset)
        self.truncate = rounder(self.precision, self.opset, toward_zero=True) if self.truncated else None
        self.dtypes = self.model.dtypes
        self.tf32 = self.precision is Precision.TF32
        self.embedded = {tensor.name: tensor for tensor in self.model.inferred.graph.initializer}

    def graph(self, observed: Sequence[str]) -> LoweredGraph:
        source = self.model.evaluated if self.own else self.model.unrounded
        assert source is not None
        needed = needed_nodes(self.model, observed)
        wanted, found = frozenset(observed), dict[str, str]()
        for node in source.graph.node:
            if owner(node.name) in needed:
                self.node(node)
                # Beside what writes it: behind all nodes it is dear, see harness.backends.chained.
                found |= {name: self.output(name) for name in node.output if name in wanted}
        outputs = {name: found[name] if name in found else self.output(name) for name in observed}
        proto = self.assemble(source, outputs.values())
        order = tuple(node.name for node in self.model.nodes if node.name in self.units)
        return LoweredGraph(proto, order, tuple(self.edges), self.fed(), outputs)

    def output(self, name: str) -> str:
        """A distinct name for what is read of `name`, as ONNX wants it; NumPy takes no bfloat16 from ONNX Runtime."""
        value = self.read(name, frozenset())
        if self.dtypes.get(name) == "bfloat16":
            return self.emit.cast(value, TensorProto.FLOAT)
        return self.emit.add("Identity", value)

    def node(self, node: onnx.NodeProto) -> None:
        lowered = node.name in self.units
        switch = frozenset({node.name}) if lowered else frozenset()
        new = onnx.NodeProto()
        new.CopyFrom(node)
        transparent = lowered and self.transparent(node)
        owed: frozenset[str] = frozenset()
        numeric = set(analysis.numeric_inputs(node))
        for position, name in enumerate(node.input):
            if not name:
                continue
            if transparent and position == 0:
                owed = self.pending.get(name, frozenset())
                new.input[position] = name
            else:
                products = not self.tf32 or node.op_type in analysis.PRODUCT_OPS
                reader = switch if products and position in numeric else frozenset()
                new.input[position] = self.read(name, reader)
        for body in analysis.bodies(new):
            self.body(body, switch)
        self.add(new, switch)
        if self.after is not None:
            self.after(self.emit, new)
        if not self.tf32:
            for name in node.output:
                if name and self.dtypes.get(name) == "float32":
                    self.pending[name] = owed | switch

    def add(self, node: onnx.NodeProto, switch: frozenset[str]) -> None:
        """Append `node`; where kernels compute it otherwise if it is lowered, both ways behind its switch."""
        name = next(iter(switch), "")
        if not self.arithmetic.changes(name):
            self.emit.nodes.append(node)
            return
        outputs, rank = list(node.output), len(self.model.shapes.get(self.model.node(name).outputs[0], ()))
        if self.switched is not None and not switch <= self.switched:
            results = self.arithmetic.emit(self.emit, node, name, self.model.opset, self.round, rank)
            for result, output in zip(results, outputs, strict=False):
                if output:
                    self.emit.add("Identity", result, output=output)
            return
        index = self.edges.setdefault(switch, len(self.edges))
        low = self.emit.within(f"{outputs[0]}/low")
        results = self.arithmetic.emit(low, node, name, self.model.opset, self.round, rank)
        given = [place for place, output in enumerate(outputs) if output]
        for place in given:
            node.output[place] = f"{outputs[place]}/fp32"
        branches = {
            "then_branch": _branch(low.nodes, *(results[place] for place in given)),
            "else_branch": _branch([node], *(node.output[place] for place in given)),
        }
        names = [outputs[place] for place in given]
        switched = helper.make_node("If", [f"harness::edge{index}"], names, f"{names[0]}/If", **branches)
        self.emit.nodes.append(switched)

    def transparent(self, node: onnx.NodeProto) -> bool:
        """Whether the roundings of a node's input and output are one."""
        return not self.tf32 and node.op_type in TRANSPARENT and node.input[0] not in self.model.weights

    def read(self, name: str, reader: frozenset[str]) -> str:
        """The name under which `reader` reads `name`: itself, a weight feed, or a switched edge."""
        if name in self.model.weights:
            is_float = self.dtypes.get(name) == "float32"
            return self.weight(name, next(iter(reader), None) if is_float else None)
        as_tf32, unrounded = self.as_tf32(reader), name in self.arithmetic.unrounded
        if self.dtypes.get(name) != "float32" or (unrounded and as_tf32 is None):
            return name
        key = reader if unrounded else self.pending.get(name, frozenset()) | reader
        if not key:
            return name
        if (name, key) not in self.selected:
            lowered = as_it_is if unrounded else None
            self.selected[name, key] = self.select(self.emit, name, key, lowered, as_tf32)
        return self.selected[name, key]

    def weight(self, name: str, reader: str | None) -> str:
        feed = name if reader is None else f"{name}@{reader}"
        if feed not in self.emit.feeds:
            tf32 = reader in self.arithmetic.tf32
            cut = reader in (truncated_convolutions(self.model) if tf32 else self.truncated)
            self.emit.feeds[feed] = WeightFeed(feed, name, reader, cut, tf32)
        return feed

    def fed(self) -> tuple[WeightFeed, ...]:
        """How weights are fed; where some are moved, only what a node reads."""
        feeds = self.emit.feeds.values()
        if not any(feed.steps for feed in feeds):
            return tuple(feeds)
        read = {name for node in self.emit.nodes for name in analysis.node_reads(node)}
        return tuple(feed for feed in feeds if feed.feed in read)

    def select(
        self,
        emit: Emitter,
        name: str,
        key: frozenset[str],
        lowered: Round | None = None,
        raised: Round | None = None,
    ) -> str:
        """Emit an edge: `name` rounded, or as `lowered` emits it, if a unit of `key` is lowered, else as it is, or as
        `raised` emits it."""
        toward_zero = key <= self.truncated
        if self.switched is not None and not key <= self.switched:
            return self.always(emit, name, toward_zero) if lowered is None else lowered(emit, name)
        index = self.edges.setdefault(key, len(self.edges))
        return self.choose(emit, name, index, lowered or self.rounder(toward_zero), raised or as_it_is)

    def choose(self, emit: Emitter, name: str, index: int, on: Round, off: Round) -> str:
        """Emit the edge `index` of the mask: `name` as `on` emits it where it is switched on, else as `off` does."""
        output = emit.fresh()
        branches = {}
        for which, label, emitted in (("then_branch", "low", on), ("else_branch", "raw", off)):
            branch = self.emit.within(f"{output}/{label}")
            result = emitted(branch, name)
            branches[which] = _branch(branch.nodes, result)
        return emit.add("If", f"harness::edge{index}", output=output, **branches)

    def as_tf32(self, reader: frozenset[str]) -> Round | None:
        """How a product rounds what it reads where nothing is lowered; None where it does not, and for other nodes."""
        (name,) = reader or ("",)
        if name not in self.arithmetic.tf32 or (self.switched is not None and name not in self.switched):
            return None
        toward_zero = name in truncated_convolutions(self.model)
        in_tf32 = rounder(Precision.TF32, self.opset, toward_zero=toward_zero)

        def emitted(emit: Emitter, tensor: str) -> str:
            index = self.edges.setdefault(frozenset({EXACT}), len(self.edges))
            return self.choose(emit, tensor, index, as_it_is, in_tf32)

        return emitted

    def rounder(self, toward_zero: bool) -> Callable[[Emitter, str], str]:
        return self.truncate if toward_zero and self.truncate is not None else self.round

    def always(self, emit: Emitter, name: str, toward_zero: bool) -> str:
        """`name` rounded for good, once in the main graph, and a constant now."""
        if emit is not self.emit:
            return self.rounder(toward_zero)(emit, name)
        key = (name, toward_zero)
        if key not in self.rounded:
            constant = self.embedded.get(name)
            if constant is None:
                self.rounded[key] = self.rounder(toward_zero)(emit, name)
            else:
                raw = numpy_helper.to_array(constant)
                values = round_array(raw, self.precision, toward_zero=toward_zero)
                kind = "cut" if toward_zero else "rounded"
                self.rounded[key] = emit.constant(f"{kind}/{name}", values)
        return self.rounded[key]

    def body(
        self, graph: onnx.GraphProto, switch: frozenset[str], outer: Mapping[str, str] | None = None
    ) -> None:
        """Lower a subgraph in place: everything float it reads or computes is switched by the node around it."""
        local = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        dtypes = analysis.graph_dtypes(graph)
        emit = self.emit.within(f"{self.emit.fresh()}/body")
        inherited = dict(outer or {})
        local |= {name for node in graph.node for name in node.output}
        for name in sorted(analysis.outer_reads(graph)):
            inherited.setdefault(name, self.read(name, frozenset() if self.tf32 else switch))
        renamed = {name: new for name, new in inherited.items() if name not in local}
        for node in graph.node:
            new = onnx.NodeProto()
            new.CopyFrom(node)
            for position, name in enumerate(node.input):
                value = renamed.get(name, name)
                known = dtypes if name in local else self.dtypes
                if switch and (name in local or self.tf32) and self.rounds(node, position, known.get(name)):
                    value = self.select(emit, value, switch)
                new.input[position] = value
            for inner in analysis.bodies(new):
                self.body(inner, switch, renamed)
            emit.nodes.append(new)
            if switch and not self.tf32 and node.op_type not in analysis.NEVER_LOWERED:
                for name in node.output:
                    if dtypes.get(name) == "float32":
                        renamed[name] = self.select(emit, name, switch)
        for value in graph.output:
            if (name := renamed.get(value.name, value.name)) != value.name:
                value.name = name
        del graph.node[:]
        graph.node.extend(emit.nodes)

    def rounds(self, node: onnx.NodeProto, position: int, dtype: str | None) -> bool:
        numeric = dtype == "float32" and position in set(analysis.numeric_inputs(node))
        return numeric and (not self.tf32 or node.op_type in analysis.PRODUCT_OPS)

    def assemble(self, source: onnx.ModelProto, outputs: Iterable[str]) -> onnx.ModelProto:
        proto = copy.deepcopy(source)
        graph = proto.graph
        del graph.node[:], graph.output[:], graph.value_info[:]
        for value in [value for value in graph.input if value.name in self.model.weights]:
            graph.input.remove(value)
        for feed in self.fed():
            tensor = self.model.weights[feed.weight]
            shape = feed.steps[-1][1] if feed.steps else [int(size) for size in tensor.shape.numpy()]
            graph.input.append(helper.make_tensor_value_info(feed.feed, int(tensor.dtype), shape))
        graph.node.extend(self.switches(graph))
        graph.node.extend(self.emit.nodes)
        graph.initializer.extend(self.emit.constants.values())
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        if not self.model.opset:
            proto.opset_import.append(helper.make_opsetid("", self.opset))
        if self.arithmetic.sums and all(entry.domain != RUNTIME_DOMAIN for entry in proto.opset_import):
            proto.opset_import.append(helper.make_opsetid(RUNTIME_DOMAIN, 1))
        return proto

    def switches(self, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
        """The mask input, split into one switch an edge."""
        if not self.edges:
            return []
        count = len(self.edges)
        graph.input.append(helper.make_tensor_value_info(MASK, TensorProto.BOOL, [count]))
        names = [f"harness::edge{index}" for index in range(count)]
        split = helper.make_node("Split", [MASK], names, name="harness::edges/Split", axis=0)
        if self.opset >= 13:
            split.input.append(self.emit.constant("ones", np.ones(count, dtype=np.int64)))
        else:
            split.attribute.append(helper.make_attribute("split", [1] * count))
        return [split]


def as_it_is(emit: Emitter, name: str) -> str:
    """A rounding that changes nothing."""
    return emit.add("Identity", name)


def _branch(nodes: list[onnx.NodeProto], *outputs: str) -> onnx.GraphProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    return helper.make_graph(nodes, outputs[0], [], values)


@dataclass
class _Shadow(_Lowering):
    given: frozenset[str] = frozenset()

    def graph(self, nodes: Sequence[str]) -> LoweredGraph:
        source = self.model.evaluated
        wanted = frozenset(nodes)
        chosen = [node for node in self.model.nodes if node.name in wanted]
        observed = [
            name for node in chosen for name in node.outputs if name and self.dtypes.get(name) == "float32"
        ]
        alone = {node.name for node in chosen} & self.units
        reads = {name for node in chosen if node.name in alone for name in node.inputs}
        needed = needed_nodes(self.model, [*observed, *reads], self.given)
        # A node may write what is given beside what is not: then it computes both.
        computed = {name for node in needed for name in self.model.node(node).outputs}
        given = self.given - computed
        outputs: dict[str, str] = {}
        for node in source.graph.node:
            if owner(node.name) in needed:
                self.plain(node)
            if node.name in alone and not self.transparent(node):
                outputs |= self.lowered(node)
        outputs |= {name: name for name in observed if name not in given}
        proto = self.assemble(source, outputs.values())
        taken = given & {name for node in proto.graph.node for name in analysis.node_reads(node)}
        proto.graph.input.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in sorted(taken)
        )
        return LoweredGraph(proto, (), (), self.fed(), outputs)

    def plain(self, node: onnx.NodeProto) -> None:
        for name in analysis.node_reads(node):
            if name in self.model.weights:
                self.weight(name, None)
        self.emit.nodes.append(node)

    def lowered(self, node: onnx.NodeProto) -> dict[str, str]:
        new = onnx.NodeProto()
        new.CopyFrom(node)
        new.name = node.name + LOWERED
        switch = frozenset({node.name})
        numeric = set(analysis.numeric_inputs(node))
        for position, name in enumerate(node.input):
            if name and position in numeric:
                new.input[position] = self.read(name, switch)
            elif name in self.model.weights:
                self.weight(name, None)
        for body in analysis.bodies(new):
            self.body(body, switch)
        outputs = {}
        for position, name in enumerate(node.output):
            if not name:
                continue
            new.output[position] = name + LOWERED
            if self.dtypes.get(name) == "float32":
                outputs[new.output[position]] = new.output[position]
        self.add(new, switch)
        return outputs


def needed_nodes(model: Model, tensors: Iterable[str], given: frozenset[str] = frozenset()) -> set[str]:
    """Names of the nodes that `tensors` are computed from, where those of `given` are there already."""
    stack, needed = list(tensors), set()
    while stack:
        name = owner(stack.pop())
        node = None if name in given else model.producer(name)
        if node is not None and node.name not in needed:
            needed.add(node.name)
            stack += node.inputs
    return needed
