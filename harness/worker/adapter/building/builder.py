"""One build: from a request to an engine, with everything that belongs to it set in one order."""

import os
import re
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ...protocol import TENSORRT_RTX, BuildRequest, CompileReport, Fault, Kernel, KernelList
from .. import device, dtypes, words
from ..cache import TimingCache, write_atomically
from ..inspection import KernelLog, Unreadable, kernels_of_inspector, parse_inspector
from ..log import Log
from ..network import Graph, NodeMap, map_nodes, network_flags, parse_network
from ..release import Release
from ..runtime import Cuda
from ..tactics import Shelf, Tactics
from .configuration import apply_options, make_calibrator, make_profile
from .marks import Marked, Typing, mark_tensors
from .strategies import Relaxed, Strong, Weak, island_tensors, relaxation_steps


@dataclass(frozen=True)
class Built:
    """An engine, and what is known of it before it is looked into.

    Args:
        engine: the `trt.ICudaEngine`.
        typing: `weak` or `strong`.
        seconds: from the parsed network to the engine.
        nbytes: of the serialized engine.
        marked: what was marked.
        nodes: layers by ONNX node.
        pinned: island node → its network layers.
        cache_good: False if TensorRT refused the timing cache that was loaded.
        warnings: what the person should know.
        tactics: what was chosen; None unless it was asked for.
        relaxed: what was given up so that it could be built; None if it is what was asked for.
    """

    engine: Any
    typing: str
    seconds: float
    nbytes: int
    marked: Marked
    nodes: NodeMap
    pinned: Dict[str, Tuple[str, ...]]
    cache_good: bool
    warnings: Tuple[str, ...]
    tactics: Optional[Tactics] = None
    relaxed: Optional[Relaxed] = None


@dataclass(frozen=True)
class _Ready:
    """A parsed network and its configuration, ready to be built."""

    request: BuildRequest
    builder: Any
    parser: Any  # owns the weights
    definition: Any
    graph: Graph
    nodes: NodeMap
    typing: Typing
    pinned: Dict[str, Tuple[str, ...]]
    marked: Marked
    config: Any
    profile: Optional[Any]
    start: int  # in the log
    parse_seconds: float

    def build(self) -> Any:
        """The serialized engine; None if there is none."""
        return self.builder.build_serialized_network(self.definition, self.config)


class Builder:
    """Builds engines of one release; where there is no GPU it can only `compile`, if the release can without one."""

    def __init__(
        self, trt: Any, release: Release, logger: Any, log: Log, cache: TimingCache, cuda: Optional[Cuda]
    ) -> None:
        self._trt, self._release, self._logger, self._log = trt, release, logger, log
        self._cache, self._cuda = cache, cuda
        self._runtime: Optional[Any] = None
        self._shelf = Shelf()

    def build(self, request: BuildRequest) -> Built:
        """Build one engine and load it, which takes a GPU.

        Raises:
            Fault: `unsupported`, `bad_request`, `build_failed`, `marks_failed`, `out_of_memory`, `cuda_error`.
        """
        if self._cuda is None and self._release.product == TENSORRT_RTX:
            raise Fault(
                "environment", "{} can compile here but not run: there is no GPU".format(self._release)
            )
        ready = self._prepare(request)
        calibrator = self._calibrate(ready)
        tactics = None
        if request.tactics is not None:
            tactics = Tactics(
                self._trt, self._release, ready.config, self._log, request.tactics, self._shelf, ready.graph
            )
        # A build that is not to share timings has TensorRT's own cache of that build: DISABLE_TIMING_CACHE would time
        # identical layers one by one, which took 70 s in place of 12 for an MLP of 12 blocks.
        shared = request.options.timing_cache and tactics is None
        cache_good = self._cache.attach(ready.config) if shared else True

        began = time.perf_counter()
        serialized, relaxed = _serialize(ready, tactics), None
        if calibrator is not None:
            calibrator.close()
            if calibrator.errors:
                raise Fault("bad_request", calibrator.errors[0], evidence=calibrator.errors)
        if serialized is None:
            serialized, relaxed = self._try_again(ready, self._failure(ready))
        engine = self._deserialize(serialized, ready.start)
        seconds = time.perf_counter() - began

        _write(request, serialized)
        return Built(
            engine=engine,
            typing=ready.typing.name,
            seconds=seconds,
            nbytes=int(serialized.nbytes),
            marked=ready.marked,
            nodes=ready.nodes,
            pinned=ready.pinned,
            cache_good=self._cache.after_build(ready.start) and cache_good,
            warnings=tuple(_warnings(ready.pinned, ready.marked, relaxed)),
            tactics=tactics,
            relaxed=relaxed,
        )

    def compile(self, request: BuildRequest) -> CompileReport:
        """Build one engine that is not loaded, and say what became of it; a GPU is needed if the release needs one."""
        ready = self._prepare(request)
        log = KernelLog()
        self._log.verbose_listeners.append(log.add)
        began = time.perf_counter()
        try:
            serialized = ready.build()
        finally:
            self._log.verbose_listeners.remove(log.add)
        if serialized is None:
            failure = self._failure(ready)
            failure.nodes = _named_nodes(ready, failure.evidence)
            raise failure
        seconds = time.perf_counter() - began
        _write(request, serialized)
        listed, warnings = self._list(serialized, log, request)
        return CompileReport(
            self._release.product,
            self._release.version,
            ready.typing.name,
            kernels=listed,
            engine_bytes=int(serialized.nbytes),
            parse_seconds=ready.parse_seconds,
            build_seconds=seconds,
            warnings=warnings,
        )

    def _list(
        self, serialized: Any, log: KernelLog, request: BuildRequest
    ) -> Tuple[Optional[KernelList], Tuple[str, ...]]:
        """The kernels: the inspector's, or the log's where the engine cannot be loaded."""
        engine = None if self._cuda is None else self._load(serialized)
        try:
            if engine is None:
                source, found = "log", log.kernels()
            else:
                source, found = "inspector", self._inspect(engine)
        except Unreadable as unreadable:
            warning = "a line of the kernel list of {} has a form that is not known, so there is no list: {}"
            return None, (warning.format(self._release, unreadable.line),)
        if not found:
            return None, ("{} says nothing of the kernels that it made".format(self._release),)
        target = request.options.compute_capability
        return KernelList(self._release.product, self._release.version, source, found, target), ()

    def _inspect(self, engine: Any) -> Tuple[Kernel, ...]:
        text = engine.create_engine_inspector().get_engine_information(self._trt.LayerInformationFormat.JSON)
        return kernels_of_inspector(parse_inspector(text))

    def _prepare(self, request: BuildRequest) -> _Ready:
        trt, release = self._trt, self._release
        for path in filter(None, (request.model_path, request.prebuilt_path)):
            if not os.path.isfile(path):
                raise Fault("bad_request", "there is no file {}".format(path))
        typing = self._typing(request)
        start = self._log.mark()
        builder = self.make_builder()
        definition = builder.create_network(network_flags(trt, release, typing.name))
        began = time.perf_counter()
        parser = parse_network(
            trt, release, definition, self._logger, request.model_path, request.nodes, self._log
        )
        parse_seconds = time.perf_counter() - began
        graph = Graph(definition)
        nodes = map_nodes(graph, request.nodes, metadata=release.offers("layer_metadata"))
        typing.check(graph, request)
        pinned = typing.keep_islands(graph, nodes, request)
        enclave = island_tensors(graph, nodes, request.islands)
        marked = mark_tensors(definition, graph, request, release, typing, enclave)
        config = builder.create_builder_config()
        apply_options(trt, release, config, request.options, request.precision)
        typing.configure(config, request, graph)
        profile = make_profile(builder, definition, request)
        if profile is not None and config.add_optimization_profile(profile) < 0:
            raise Fault("bad_request", "TensorRT refuses the shapes", evidence=self._log.errors(start))
        return _Ready(
            request,
            builder,
            parser,
            definition,
            graph,
            nodes,
            typing,
            pinned,
            marked,
            config,
            profile,
            start,
            parse_seconds,
        )

    def make_builder(self) -> Any:
        """A `trt.Builder`.

        Raises:
            Fault: `environment`: none can be made.
        """
        start = self._log.mark()
        try:
            builder = self._trt.Builder(self._logger)
        except Exception as error:  # pybind raises a TypeError where the factory returned nothing
            raise Fault(
                "environment",
                "{} cannot make a builder: is there a GPU that it supports?".format(self._release),
                evidence=(str(error), *self._log.errors(start)),
            ) from error
        return builder

    def close(self) -> None:
        """Let go of the runtime."""
        self._runtime = None

    def _typing(self, request: BuildRequest) -> Typing:
        name = self._release.typing_for(request.precision, request.typing)
        return Weak(self._trt) if name == "weak" else Strong()

    def _calibrate(self, ready: _Ready) -> Optional[Any]:
        if not ready.request.calibration:
            return None
        self._release.require("calibration", "INT8 calibration")
        assert self._cuda is not None
        inputs = [ready.definition.get_input(index) for index in range(ready.definition.num_inputs)]
        wanted = {tensor.name: dtypes.name_of(tensor.dtype, tensor.name) for tensor in inputs}
        calibrator = make_calibrator(self._trt, self._cuda, ready.request.calibration, wanted)
        ready.config.int8_calibrator = calibrator
        if ready.profile is not None and not ready.config.set_calibration_profile(ready.profile):
            raise Fault("bad_request", "TensorRT refuses the shapes for calibration")
        return calibrator

    def _failure(self, ready: _Ready) -> Fault:
        """Why there is no engine, by what was logged since the build began; raises what is wrong with the GPU."""
        errors = words.telling(self._log.errors(ready.start))
        if words.out_of_memory(errors):
            return Fault("out_of_memory", "the build ran out of memory", evidence=errors)
        if self._cuda is not None:
            self._cuda.check_health()
        last = errors[-1] if errors else "it gave no reason"
        if ready.marked.marks or ready.marked.debug == "marked":
            return Fault(
                "marks_failed",
                "{} returned no engine with these marks: {}".format(self._release, last),
                evidence=errors,
                marks=_blamed(ready.graph, ready.marked.marks, errors),
            )
        if self._cuda is None and words.lacks_gpu(last):
            message = "{} needs a GPU to build this, and there is none: {}"
            return Fault("no_gpu", message.format(self._release, last), evidence=errors)
        return Fault(
            "build_failed",
            "{} returned no engine: {}".format(self._release, last),
            evidence=errors or self._log.tail(ready.start),
        )

    def _try_again(self, ready: _Ready, failure: Fault) -> Tuple[Any, Relaxed]:
        """The engine of the first step that gives one, each asking for less than the one before; else `failure`."""
        curable = failure.kind != "out_of_memory" and words.lacks_implementation(failure.evidence)
        if curable and isinstance(ready.typing, Weak):
            for relaxed in relaxation_steps(ready.typing, ready.graph, ready.config, ready.request):
                serialized = ready.build()
                if serialized is not None:
                    warning = "{}; what failed: {}".format(relaxed.warning, failure.evidence[-1])
                    return serialized, relaxed._replace(warning=warning)
                if self._cuda is not None:
                    self._cuda.check_health()
        raise failure

    def _load(self, serialized: Any) -> Any:
        """The engine; None if it cannot be loaded here."""
        if self._runtime is None:
            self._runtime = self._trt.Runtime(self._logger)
        return self._runtime.deserialize_cuda_engine(serialized)

    def _deserialize(self, serialized: Any, start: int) -> Any:
        engine = self._load(serialized)
        if engine is None:
            errors = self._log.errors(start)
            if self._cuda is not None:
                self._cuda.check_health()
            raise Fault(
                "out_of_memory" if words.out_of_memory(errors) else "build_failed",
                "{} built an engine and could not load it{}".format(self._release, self._why(serialized)),
                evidence=errors,
            )
        return engine

    def _why(self, serialized: Any) -> str:
        if not self._release.offers("engine_validity"):
            return ""
        why = device.in_words(device.reasons(self._trt, self._runtime, serialized))
        return " ({}): use a release that supports this GPU".format(why) if why else ""


def _serialize(ready: _Ready, tactics: Optional[Tactics]) -> Any:
    """The serialized engine, or None; built again where orders on tactics could not be carried out at once."""
    if ready.request.prebuilt_path is not None:
        with open(ready.request.prebuilt_path, "rb") as file:
            return memoryview(file.read())
    if tactics is None:
        return ready.build()
    try:
        serialized = ready.build()
        while serialized is not None and tactics.again():
            serialized = ready.build()
    finally:
        tactics.close()
    return serialized


def _write(request: BuildRequest, serialized: Any) -> None:
    if request.engine_path is not None:
        write_atomically(request.engine_path, serialized)


def _is_named(name: str, text: str) -> bool:
    """Whether `text` has `name` as a whole word."""
    return (
        name in text and re.search(r"(?<![\w./:]){}(?![\w/:]|\.\w)".format(re.escape(name)), text) is not None
    )


def _blamed(graph: Graph, names: Sequence[str], errors: Sequence[str]) -> Tuple[str, ...]:
    """The marks that the errors name, or whose layer they name."""
    text = "\n".join(errors)
    return tuple(
        name
        for name in names
        if _is_named(name, text) or _is_named(graph.layers[graph.producers[name]].name, text)
    )


def _named_nodes(ready: _Ready, errors: Sequence[str]) -> Tuple[str, ...]:
    """The ONNX nodes that the errors name, or whose layers they name; the parser adds a number to some names."""
    text = "\n".join(errors)
    layers = (layer for layer in ready.nodes.nodes_of if _is_named(layer, text))
    owners = {node for layer in layers for node in ready.nodes.nodes_of[layer]}
    return tuple(
        node.name for node in ready.request.nodes if node.name in owners or _is_named(node.name, text)
    )


def _warnings(pinned: Dict[str, Tuple[str, ...]], marked: Marked, relaxed: Optional[Relaxed]) -> List[str]:
    found: List[str] = []
    if relaxed is not None:
        found.append("this engine could not be built as requested: {}".format(relaxed.warning))
    empty = [name for name, layers in pinned.items() if not layers]
    if empty:
        found.append(
            "no floating-point layer of {} could be kept in FP32: TensorRT folded them, or they have none".format(
                ", ".join(map(repr, empty))
            )
        )
    if marked.debug == "marked":
        found.append("debug tensors block fusions on this release, like marked outputs do")
    return found
