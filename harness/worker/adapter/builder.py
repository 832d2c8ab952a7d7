"""One build: from a request to an engine, with everything that belongs to it set in one order."""

import os
import re
import time
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

from ..protocol import BuildRequest, Fault
from . import calibration, dtypes, marks, network, nodemap, options, profiles, relaxation
from .cache import TimingCache, write_atomically
from .cuda import Cuda
from .log import Log
from .network import Graph
from .nodemap import NodeMap
from .relaxation import Relaxed
from .release import Release
from .strong import Strong
from .tactics import Tactics
from .tactics_cache import Shelf
from .weak import Weak, island_tensors

_OUT_OF_MEMORY = re.compile(
    r"out ?of ?memory|insufficient memory|could not be allocated|cudaErrorMemoryAllocation", re.IGNORECASE
)


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
    marked: marks.Marked
    nodes: NodeMap
    pinned: Dict[str, Tuple[str, ...]]
    cache_good: bool
    warnings: Tuple[str, ...]
    tactics: Optional[Tactics] = None
    relaxed: Optional[Relaxed] = None


class Builder:
    """Builds engines of one TensorRT release.

    Args:
        trt: the `tensorrt` module.
        release: what it offers.
        logger: the `trt.ILogger`.
        log: what that logger keeps.
        cache: the timing cache of the process.
        cuda: the GPU.
    """

    def __init__(
        self, trt: Any, release: Release, logger: Any, log: Log, cache: TimingCache, cuda: Cuda
    ) -> None:
        self._trt, self._release, self._logger, self._log = trt, release, logger, log
        self._cache, self._cuda = cache, cuda
        self._runtime: Optional[Any] = None
        self._shelf = Shelf()

    def build(self, request: BuildRequest) -> Built:
        """Build one engine.

        Raises:
            Fault: `unsupported`, `bad_request`, `build_failed`, `marks_failed`, `out_of_memory`, `cuda_error`.
        """
        trt, release = self._trt, self._release
        if not os.path.isfile(request.model_path):
            raise Fault("bad_request", "there is no file {}".format(request.model_path))
        typing = self._typing(request)
        start = self._log.mark()
        builder = self.make_builder()
        definition = builder.create_network(network.network_flags(trt, release, typing.name))
        parser = network.parse(
            trt, release, definition, self._logger, request.model_path, request.nodes, self._log
        )
        graph = Graph(definition)
        nodes = nodemap.map_nodes(graph, request.nodes, metadata=release.offers("layer_metadata"))
        typing.check(graph, request)
        pinned = typing.keep_islands(graph, nodes, request)
        enclave = island_tensors(graph, nodes, request.islands)
        marked = marks.observe(definition, graph, request, release, typing, enclave)

        config = builder.create_builder_config()
        options.apply(trt, release, config, request.options, request.precision)
        typing.configure(config, request, graph)
        profile = profiles.make_profile(builder, definition, request)
        if profile is not None and config.add_optimization_profile(profile) < 0:
            raise Fault("bad_request", "TensorRT refuses the shapes", evidence=self._log.errors(start))
        calibrator = self._calibrate(definition, config, request, profile)
        tactics = None
        if request.tactics is not None:
            tactics = Tactics(trt, release, config, self._log, request.tactics, self._shelf, graph)
        # A build that is not to share timings has TensorRT's own cache of that build: DISABLE_TIMING_CACHE would time
        # identical layers one by one, which took 70 s in place of 12 for an MLP of 12 blocks.
        shared = request.options.get("timing_cache") is not False and tactics is None
        cache_good = self._cache.attach(config) if shared else True

        began = time.perf_counter()
        serialized, relaxed = _serialize(builder, definition, config, tactics), None
        if calibrator is not None:
            calibrator.close()
            if calibrator.errors:
                raise Fault("bad_request", calibrator.errors[0], evidence=calibrator.errors)
        if serialized is None:
            failure = self._failure(graph, marked, start)
            steps = self._relaxations(typing, graph, config, request, failure)
            serialized, relaxed = self._try_again(builder, definition, config, steps, failure)
        engine = self._deserialize(serialized, start)
        seconds = time.perf_counter() - began
        del parser  # owned the weights until now

        if request.engine_path is not None:
            write_atomically(request.engine_path, serialized)
        return Built(
            engine=engine,
            typing=typing.name,
            seconds=seconds,
            nbytes=int(serialized.nbytes),
            marked=marked,
            nodes=nodes,
            pinned=pinned,
            cache_good=self._cache.after_build(start) and cache_good,
            warnings=tuple(_warnings(pinned, marked, relaxed)),
            tactics=tactics,
            relaxed=relaxed,
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
                "TensorRT {} cannot make a builder: is there a GPU that it supports?".format(
                    self._release.version
                ),
                evidence=(str(error), *self._log.errors(start)),
            ) from error
        return builder

    def close(self) -> None:
        """Let go of the runtime."""
        self._runtime = None

    def _typing(self, request: BuildRequest) -> marks.Typing:
        name = self._release.typing_for(request.precision, request.typing)
        return Weak(self._trt) if name == "weak" else Strong()

    def _calibrate(
        self, definition: Any, config: Any, request: BuildRequest, profile: Optional[Any]
    ) -> Optional[Any]:
        if not request.calibration:
            return None
        self._release.require("calibration", "INT8 calibration")
        inputs = [definition.get_input(index) for index in range(definition.num_inputs)]
        wanted = {tensor.name: dtypes.name_of(tensor.dtype, tensor.name) for tensor in inputs}
        calibrator = calibration.make_calibrator(self._trt, self._cuda, request.calibration, wanted)
        config.int8_calibrator = calibrator
        if profile is not None and not config.set_calibration_profile(profile):
            raise Fault("bad_request", "TensorRT refuses the shapes for calibration")
        return calibrator

    def _failure(self, graph: Graph, marked: marks.Marked, start: int) -> Fault:
        """Why there is no engine, by what was logged after `start`.

        Raises:
            Fault: `cuda_error`: there is no use in going on.
        """
        errors = self._log.errors(start)
        if any(_OUT_OF_MEMORY.search(error) for error in errors):
            return Fault("out_of_memory", "the build ran out of memory", evidence=errors)
        self._cuda.check_health()
        last = errors[-1] if errors else "TensorRT gave no reason"
        if marked.marks or marked.debug:
            return Fault(
                "marks_failed",
                "TensorRT {} returned no engine with these marks: {}".format(self._release.version, last),
                evidence=errors,
                marks=_blamed(graph, marked.marks, errors),
            )
        return Fault(
            "build_failed",
            "TensorRT {} returned no engine: {}".format(self._release.version, last),
            evidence=errors or self._log.tail(start),
        )

    @staticmethod
    def _relaxations(
        typing: marks.Typing, graph: Graph, config: Any, request: BuildRequest, failure: Fault
    ) -> Iterable[Relaxed]:
        if failure.kind == "out_of_memory" or not isinstance(typing, Weak):
            return ()
        return relaxation.steps(typing, graph, config, request) if relaxation.helps(failure.evidence) else ()

    def _try_again(
        self, builder: Any, definition: Any, config: Any, steps: Iterable[Relaxed], failure: Fault
    ) -> Tuple[Any, Relaxed]:
        """The first engine that a relaxation allows: of the same network, with the same timing cache.

        Raises:
            Fault: `failure`, if none does; `cuda_error`.
        """
        for relaxed in steps:
            serialized = builder.build_serialized_network(definition, config)
            if serialized is not None:
                told = "{}; what failed: {}".format(relaxed.told, failure.evidence[-1])
                return serialized, relaxed._replace(told=told)
            self._cuda.check_health()
        raise failure

    def _deserialize(self, serialized: Any, start: int) -> Any:
        if self._runtime is None:
            self._runtime = self._trt.Runtime(self._logger)
        engine = self._runtime.deserialize_cuda_engine(serialized)
        if engine is None:
            errors = self._log.errors(start)
            self._cuda.check_health()
            memory = any(_OUT_OF_MEMORY.search(error) for error in errors)
            raise Fault(
                "out_of_memory" if memory else "build_failed",
                "TensorRT built an engine and could not load it",
                evidence=errors,
            )
        return engine


def _serialize(builder: Any, definition: Any, config: Any, tactics: Optional[Tactics]) -> Any:
    """The serialized engine, or None; built again where orders on tactics could not be carried out at once."""
    if tactics is None:
        return builder.build_serialized_network(definition, config)
    try:
        serialized = builder.build_serialized_network(definition, config)
        while serialized is not None and tactics.again():
            serialized = builder.build_serialized_network(definition, config)
    finally:
        tactics.close()
    return serialized


def _blamed(graph: Graph, names: Sequence[str], errors: Sequence[str]) -> Tuple[str, ...]:
    """The marks that the errors name, or whose layer they name, as whole words."""
    text = "\n".join(errors)

    def named(name: str) -> bool:
        return re.search(r"(?<![\w./:]){}(?![\w/:]|\.\w)".format(re.escape(name)), text) is not None

    return tuple(name for name in names if named(name) or named(graph.layers[graph.producers[name]].name))


def _warnings(
    pinned: Dict[str, Tuple[str, ...]], marked: marks.Marked, relaxed: Optional[Relaxed]
) -> List[str]:
    found: List[str] = []
    if relaxed is not None:
        found.append("as it was asked for, this engine could not be built: {}".format(relaxed.told))
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
