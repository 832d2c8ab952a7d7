"""Running graphs on ONNX Runtime's CPU provider, weights fed from where they are."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort

from harness.backends.chained import THREADS, ChainedSession, is_large
from harness.backends.partitioned import (
    PartitionedSession,
    Session,
    node_lists,
    nodes_of,
    to_runtime,
    without_kernel,
)
from harness.backends.runtime_words import GraphRefusedError, first_line, run_error
from harness.case import Operators
from harness.errors import HarnessError, InputDataError, ModelError, NodeFailedError, UsageError
from harness.model import EXACT, MASK, LoweredGraph, Model, WeightFeed, round_array
from harness.tensors import Precision
from harness.text import duration

TIME_LIMIT = "HARNESS_TIME_LIMIT"
THREADS_LIMIT = "HARNESS_THREADS"
STOPPING = 5.0
"""Seconds that ONNX Runtime gets to end an inference that nobody waits for any more."""
UNKNOWN_BYTES = 1 << 20  # assumed for a tensor whose shape inference could not find


_SHARING: ContextVar[int] = ContextVar("threads that share the cores", default=1)


@contextmanager
def sharing_cores(count: int) -> Iterator[None]:
    """Give the sessions that this thread makes its part of the cores; `count` threads have as much work."""
    token = _SHARING.set(count)
    try:
        yield
    finally:
        _SHARING.reset(token)


SMALL, MEDIUM = 1 << 16, 1 << 20
"""A graph whose tensors have fewer elements on average runs in one thread, or in few: more of them only wait for each
other. Measured on 16 cores, an inference of the emulator in 1, 4 and 16 threads: 19, 32 and 40 ms with 12,000 elements
a tensor, 76, 57 and 52 ms with 260,000."""
FEW_THREADS = 4


def mean_size(model: Model) -> float | None:
    """The mean number of elements of the float tensors of a model; None where a shape is open."""
    shapes = [model.shapes.get(name) for name in model.float_tensors]
    sizes = [
        math.prod(size for size in shape if isinstance(size, int))
        for shape in shapes
        if shape is not None and all(isinstance(size, int) for size in shape)
    ]
    return sum(sizes) / len(sizes) if sizes and len(sizes) == len(shapes) else None


def session_options(parts: int = 1, elements: float | None = None) -> ort.SessionOptions:
    """Options of a session that is one of so many `parts` of a graph, whose tensors have so many `elements` on average.

    There is no graph optimization, so that each tensor exists as the model wrote it.

    Threads do not spin: reference and emulator run in turn, and a pool that spins after its run takes the cores
    away from the next one (measured on two cores: 13 ms instead of 2 ms for a 132-node model). ONNX Runtime starts a
    thread a core of the machine, also where many processes share it: `HARNESS_THREADS` says how many instead.
    """
    options = ort.SessionOptions()
    threads = whole_number(THREADS_LIMIT)
    if threads is not None:
        options.intra_op_num_threads = threads
    elif parts > 1 or _SHARING.get() > 1:
        cores = len(os.sched_getaffinity(0)) // _SHARING.get()
        options.intra_op_num_threads = max(1, min(cores, THREADS // parts))
    if threads is None and elements is not None and elements < MEDIUM:
        most = options.intra_op_num_threads or len(os.sched_getaffinity(0))
        options.intra_op_num_threads = min(most, 1 if elements < SMALL else FEW_THREADS)
    # Parts that keep what they took for themselves would take as much as all the graph's tensors together.
    options.enable_cpu_mem_arena = parts == 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    # In the order of the file: by default all Casts of weights run first, and their results exist at once.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    return options


def create_session(
    proto: onnx.ModelProto,
    *,
    where: str,
    operators: Operators | None = None,
    dtypes: Mapping[str, str] | None = None,
    elements: float | None = None,
) -> Session:
    """A CPU session of `proto`; running it changes neither what it is fed nor what it holds.

    Args:
        proto: the graph.
        where: the model, for messages.
        operators: the user's own.
        dtypes: dtype name of each tensor, as far as it is known; with it, nodes that ONNX Runtime has no kernel for
            run on onnx.reference, as far as that knows them.
        elements: of a tensor, on average; None where that is not known.

    Raises:
        ModelError: ONNX Runtime does not accept the graph; the message names the operator if it is unsupported.
    """

    def part(graph: onnx.ModelProto, parts: int) -> ort.InferenceSession:
        options = session_options(parts, elements)
        for library in () if operators is None else operators.libraries:
            options.register_custom_ops_library(str(library))
        return ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def make(graph: onnx.ModelProto) -> Session:
        graph = without_overwrites(graph)
        if is_large(graph):
            with suppress(Exception):  # what is wrong with it, one session for all of it says best
                return ChainedSession(graph, part)
        whole: Session = part(graph, 1)
        return whole

    mine = frozenset[str]() if operators is None else nodes_of(proto, operators.kinds)
    try:
        if not mine:
            return make(proto)
        return PartitionedSession(proto, mine, operators, dtypes or {}, make, where)
    except HarnessError:
        raise
    except Exception as error:
        text = first_line(error)
        missing = frozenset() if dtypes is None else without_kernel(proto, text, dtypes)
        if not missing:
            raise GraphRefusedError(text, where) from error
        session = PartitionedSession(proto, frozenset(), operators, dtypes or {}, make, where)
        session.leave_out(missing, text)
        return session


def without_overwrites(proto: onnx.ModelProto) -> onnx.ModelProto:
    """`proto` with copies in front of the inputs that ONNX Runtime's CPU kernels overwrite.

    The only such kernel is BatchNormalization in training mode: it writes the running mean and variance into the
    buffers of its inputs 3 and 4, be they a caller's array, a weight, a constant of the session or a tensor that
    other nodes read. Concat of one tensor copies; Identity would share the buffer.
    """
    if not any(_overwrites(node) for nodes in node_lists(proto) for node in nodes):
        return proto
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    for nodes in node_lists(result):
        kept: list[onnx.NodeProto] = []
        for node in nodes:
            if _overwrites(node):
                for position in (3, 4):
                    name = f"{node.output[0]}::copied{position}"
                    kept.append(onnx.helper.make_node("Concat", [node.input[position]], [name], name, axis=0))
                    node.input[position] = name
            kept.append(node)
        if len(kept) > len(nodes):
            copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
            del nodes[:]
            nodes.extend(copies)
    return result


def _overwrites(node: onnx.NodeProto) -> bool:
    if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx") or len(node.input) < 5:
        return False
    # Before opset 14 the mode is not an attribute: it is training if the statistics are returned.
    training = any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)
    return training or any(node.output[1:])


def time_limit() -> float:
    """Seconds that one inference of ONNX Runtime may take.

    Raises:
        UsageError: the variable is no number.
    """
    return float(whole_number(TIME_LIMIT) or 3600)


def whole_number(variable: str) -> int | None:
    """What an environment variable says; None if it is not set.

    Raises:
        UsageError: it is no number of at least 1.
    """
    given = os.environ.get(variable, "").strip()
    if not given:
        return None
    if not given.isdecimal() or not int(given):
        raise UsageError(f"{variable}={given}: give a whole number of at least 1, or leave it out")
    return int(given)


def infer(session: Session, outputs: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run `session`, in a thread of its own: the caller's stays free for signals, which ONNX Runtime does not see.

    Where the caller is interrupted, or after `time_limit`, ONNX Runtime is told to stop, which it does after the node
    that it is at; a single node that takes longer than STOPPING seconds is left to itself.

    Raises:
        TimeoutError: it took longer than `time_limit`.
        Exception: whatever ONNX Runtime raises.
    """
    options = ort.RunOptions()
    results: SimpleQueue[list[np.ndarray] | BaseException] = SimpleQueue()

    def run() -> None:
        try:
            fed = feeds
            if not isinstance(session, PartitionedSession):
                fed = {name: to_runtime(value) for name, value in feeds.items()}
            results.put(session.run(outputs, fed, options))
        except BaseException as error:
            results.put(error)

    threading.Thread(target=run, name="inference", daemon=True).start()
    try:
        found = results.get(timeout=time_limit())
    except BaseException as reason:
        options.terminate = True
        with suppress(Empty):
            results.get(timeout=STOPPING)
        if isinstance(reason, Empty):
            raise TimeoutError from None
        raise
    if isinstance(found, BaseException):
        raise found
    return found


class GraphRunner:
    """One session of a lowered graph, with the weights it is fed.

    Args:
        model: where the weights come from.
        graph: the graph; its mask decides at run time what is rounded.
        precision: what rounded weights are rounded to.
        rounded: cache of rounded weights, shared between the runners of one emulator.
    """

    def __init__(
        self, model: Model, graph: LoweredGraph, precision: Precision, rounded: dict[str, np.ndarray]
    ) -> None:
        self.model, self.graph, self.precision, self.rounded = model, graph, precision, rounded
        for info in model.outputs:
            if info.name in graph.outputs and info.dtype.startswith(("seq(", "optional(")):
                raise _no_tensor(info.name, model.name)
        self.session = create_session(
            graph.proto,
            where=model.name,
            operators=model.operators,
            dtypes=model.dtypes,
            elements=mean_size(model),
        )
        self.takes = {value.name for value in self.session.get_inputs()}

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        lowered: Iterable[str] = (),
        wanted: Sequence[str] | None = None,
    ) -> dict[str, np.ndarray]:
        """The observed tensors by name.

        Args:
            feeds: the model's inputs.
            lowered: names of the units that are rounded.
            wanted: those of the observed tensors that are returned; None: all.

        Raises:
            InputDataError: ONNX Runtime refuses the inputs.
            NodeFailedError: a node failed.
            ModelError: it cannot be run for another reason, such as too little memory.
        """
        chosen = frozenset(lowered)
        observed = tuple(self.graph.outputs if wanted is None else wanted)
        values = {name: value for name, value in feeds.items() if name in self.takes}
        for weight in self.graph.weights:
            low = bool(weight.steps) or (weight.reader is not None and weight.reader in chosen)
            values[weight.feed] = self._weight(weight, low, exact=EXACT in chosen)
        if MASK in self.takes:
            values[MASK] = self.graph.mask(chosen)
        try:
            arrays = infer(self.session, [self.graph.outputs[name] for name in observed], values)
        except TimeoutError as error:
            raise ModelError(
                f"an inference of ONNX Runtime took more than {duration(time_limit())}",
                where=self.model.name,
                hint=f"if it may take that long, set {TIME_LIMIT} to more seconds",
            ) from error
        except HarnessError:
            raise
        except Exception as error:
            raise run_error(error, self.model.name) from error
        for name, array in zip(observed, arrays, strict=True):
            if not isinstance(array, np.ndarray):
                raise _no_tensor(name, self.model.name)
        return dict(zip(observed, arrays, strict=True))

    def _weight(self, feed: WeightFeed, low: bool, exact: bool) -> np.ndarray:
        raw = self.model.weight(feed.weight)
        if not low and (exact or not feed.tf32):
            return raw
        precision = self.precision if low else Precision.TF32
        cut = feed.toward_zero and precision is Precision.TF32
        key = f"{feed.weight}::{precision}{' cut' if cut else ''}{feed.steps or ''}"
        if key not in self.rounded:
            self.rounded[key] = feed.moved(round_array(raw, precision, toward_zero=cut))
        return self.rounded[key]


def _no_tensor(output: str, where: str) -> ModelError:
    return ModelError(
        f"output {output!r} is a sequence or optional, of which engines have none; harness compares tensors",
        where=where,
        hint="let the model return its tensors",
    )


def chunks(tensors: Sequence[str], sizes: Mapping[str, int], budget: int) -> Iterator[tuple[str, ...]]:
    """Split `tensors`, in order, so that each chunk needs at most `budget` bytes (or holds one tensor)."""
    chunk: list[str] = []
    used = 0
    for name in tensors:
        size = sizes.get(name, UNKNOWN_BYTES)
        if chunk and used + size > budget:
            yield tuple(chunk)
            chunk, used = [], 0
        chunk.append(name)
        used += size
    if chunk:
        yield tuple(chunk)


def tensor_sizes(model: Model, feeds: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Bytes of each tensor of the main graph when the model is fed `feeds`; unknown shapes are left out."""
    return _sizes(model, tensor_shapes(model, feeds))


def tensor_shapes(
    model: Model, feeds: Mapping[str, np.ndarray]
) -> Mapping[str, tuple[int | str | None, ...]]:
    """The shape of each tensor of the main graph when the model is fed `feeds`, as far as inference tells."""
    from harness.model import graph_shapes, infer

    declared = {info.name: info.shape for info in model.inputs}
    if all(array.shape == declared.get(name) for name, array in feeds.items()):
        return model.shapes
    proto = onnx.ModelProto()
    proto.CopyFrom(model.skeleton)
    for value in proto.graph.input:
        if value.name in feeds:
            dims = value.type.tensor_type.shape.dim
            for dim, size in zip(dims, feeds[value.name].shape, strict=False):
                dim.dim_value = size
    return graph_shapes(infer(proto).graph)


def _sizes(model: Model, shapes: Mapping[str, tuple[int | str | None, ...]]) -> dict[str, int]:
    sizes = {}
    for name, shape in shapes.items():
        dtype = model.dtypes.get(name)
        if dtype and dtype != "string" and all(isinstance(size, int) for size in shape):
            sizes[name] = math.prod(int(size or 0) for size in shape) * _itemsize(dtype)
    return sizes


def check_feeds(model: Model, feeds: Mapping[str, np.ndarray]) -> None:
    """Raise InputDataError, naming the input, unless `feeds` has exactly the model's inputs with fitting types."""
    names = model.feed_names()
    if unknown := sorted(set(feeds) - set(names)):
        raise InputDataError(
            f"the model has no input {unknown[0]!r}", where=model.name, hint=f"its inputs: {', '.join(names)}"
        )
    for info in model.inputs:
        if info.name not in feeds:
            raise InputDataError(f"no data for input {info.name!r}", where=model.name)
        array = feeds[info.name]
        if array.dtype.name != info.dtype:
            raise InputDataError(
                f"input {info.name!r} is {array.dtype.name}, the model takes {info.dtype}", where=model.name
            )
        if info.shape is not None and not _fits(array.shape, info.shape):
            raise InputDataError(
                f"input {info.name!r} has shape {list(array.shape)}, the model takes {list(info.shape)}",
                where=model.name,
            )


def _fits(actual: Collection[int], declared: Collection[int | str | None]) -> bool:
    return len(actual) == len(declared) and all(
        not isinstance(want, int) or have == want for have, want in zip(actual, declared, strict=True)
    )


def _itemsize(dtype: str) -> int:
    return np.dtype(getattr(ml_dtypes, dtype, dtype)).itemsize


@dataclass(frozen=True)
class Computed:
    """The tensors that could be computed, and why the others could not.

    Args:
        tensors: by name.
        failures: by name of a tensor that was asked for: what went wrong, one clause without a full stop.
    """

    tensors: Mapping[str, np.ndarray]
    failures: Mapping[str, str] = field(default_factory=dict)


def run_as_far_as_possible(
    model: Model, tensors: Sequence[str], run: Callable[[tuple[str, ...]], Mapping[str, np.ndarray]]
) -> Computed:
    """Run for `tensors`; each time a node fails, once more for those that are not computed from what it writes.

    Args:
        model: the model.
        tensors: what is asked for.
        run: computes the tensors that it is given the names of.

    Raises:
        HarnessError: whatever else `run` raises than NodeFailedError.
    """
    failures: dict[str, str] = {}
    left = tuple(tensors)
    while left:
        try:
            return Computed(run(left), failures)
        except NodeFailedError as error:
            behind = _computed_from(model, error.node)
            lost = [name for name in left if name in behind] or left
            failures |= dict.fromkeys(lost, error.failure)
            left = tuple(name for name in left if name not in failures)
    return Computed({}, failures)


def _computed_from(model: Model, node: str) -> set[str]:
    """The tensors that `node` writes, and all that is computed from them; nothing if the model has no such node."""
    found: set[str] = set()
    for each in model.nodes:  # in topological order
        if each.name == node or found.intersection(each.inputs):
            found.update(each.outputs)
    return found
