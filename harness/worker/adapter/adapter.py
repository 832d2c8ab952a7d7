"""The requests of the worker, carried out with the TensorRT, or TensorRT for RTX, of this environment."""

import importlib
import itertools
from dataclasses import replace
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

from ..protocol import (
    RUNTIME,
    TENSORRT_RTX,
    BuildReply,
    BuildRequest,
    Compile,
    CompileFailure,
    CompileReply,
    CompileReport,
    EngineFacts,
    Fault,
    InferReply,
    InferRequest,
    KernelList,
    LayerInfo,
    Probe,
    ProbeReply,
    RefusedNode,
    TensorFileError,
    read_tensor_file,
)
from . import device
from .building import Builder, Built
from .cache import RuntimeCache, TimingCache
from .inspection import check_realised, layers_of, list_kernels, parse_inspector
from .log import Log, make_logger
from .network import ParserRefusal
from .release import PRODUCTS, Release
from .runtime import Cuda, Execution, load_cudart, measure_latency, time_layers

#: Faults of the model or of this build of it, and not of what was asked for.
_COMPILE_FAILURES = ("build_failed", "no_gpu", "unsupported", "out_of_memory")


def create_adapter(log: Callable[[str], None]) -> "Adapter":
    """The adapter of the product that this Python has; TensorRT, if it has both.

    Args:
        log: gets the lines of TensorRT's log.

    Raises:
        ImportError, OSError: TensorRT cannot be loaded, or its library is of another release than the bindings.
    """
    for module in PRODUCTS.values():
        try:
            found = importlib.import_module(module)
            device.check_library(found)
            return Adapter(found, log)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
    raise ModuleNotFoundError("No module named {}".format(" or ".join(map(repr, PRODUCTS.values()))))


class Adapter:
    """One release on one GPU, or on none; keeps its engines, its logger and its timing cache."""

    def __init__(self, trt: Any, log: Callable[[str], None], cuda: Optional[Cuda] = None) -> None:
        self._trt = trt
        self._cuda = cuda
        self.release_info = Release.of(trt)
        self.log = Log(log)
        self._logger = make_logger(trt, self.log)
        self._cache = TimingCache(self.log)
        self._runtime_cache = RuntimeCache(self.release_info)
        self._builder: Optional[Builder] = None
        self._first_builder: Any = None
        self._engines: Dict[str, Execution] = {}
        self._numbers = itertools.count(1)
        trt.init_libnvinfer_plugins(self._logger, "")

    def probe(self, request: Probe = Probe()) -> ProbeReply:
        """What this environment is and can do."""
        reply, builder = device.probe(
            self._trt, self.release_info, self._logger, self._cuda, load=request.load
        )
        self._first_builder = self._first_builder or builder
        return reply

    def build(self, request: BuildRequest) -> BuildReply:
        """Build an engine, look into it, and keep it.

        Raises:
            Fault: what the release cannot do, a build that failed, or an engine that is not what was asked for.
        """
        start = self.log.mark()
        built = self._get_builder().build(request)
        try:
            config = self._runtime_cache.configure(built.engine)
            execution = Execution(self._trt, built.engine, self._get_cuda(), built.marked.debug, config)
            if not self._waits(request):
                execution.prepare()
        except Fault as fault:
            fault.evidence += self.log.errors(start)
            raise
        try:
            layers, kernels = self._inspect(built, execution, request)
            relaxed = None if built.relaxed is None else built.relaxed.name
            precision, warnings = check_realised(
                layers, request, built.typing, self.release_info.version, relaxed
            )
            tactics = None if built.tactics is None else built.tactics.report(built.nodes, layers)
            if not layers:
                warnings += (
                    "the engine inspector reports nothing of this engine: no precision could be checked",
                )
        except BaseException:
            execution.close()
            raise
        engine_id = "engine-{}".format(next(self._numbers))
        self._engines[engine_id] = execution
        return BuildReply(
            engine_id=engine_id,
            outputs=_marks_last(execution.outputs, built.marked.marks),
            facts=EngineFacts(
                typing=built.typing,
                build_seconds=built.seconds,
                engine_bytes=built.nbytes,
                layers=layers,
                kernels=kernels,
                realised=replace(
                    precision,
                    islands=dict(built.pinned),
                    debug=built.marked.debug,
                    tf32=self.release_info.tf32(request.options, request.precision),
                ),
                tactics=tactics,
                skipped_marks=dict(built.marked.skipped or {}),
                warnings=(*built.warnings, *warnings),
            ),
            cache_refused=not built.cache_good,
            runtime_cache_refused=self._runtime_cache.take_refusal(),
        )

    def compile(self, request: Compile) -> CompileReply:
        """Parse and build, and say what became of the model; there are no tensors and, where it can be, no GPU.

        Raises:
            Fault: the request makes no sense, or the worker cannot be trusted any more.
        """
        release = self.release_info
        refused: Tuple[RefusedNode, ...] = ()
        failure: Optional[CompileFailure] = None
        try:
            return CompileReply(self._get_builder().compile(request.build))
        except ParserRefusal as refusal:
            refused = refusal.refused
            failure = None if refused else CompileFailure(refusal.kind, refusal.message, refusal.evidence)
        except Fault as fault:
            if fault.kind not in _COMPILE_FAILURES:
                raise
            failure = CompileFailure(fault.kind, fault.message, fault.evidence, fault.nodes)
        typing = release.typing_for(request.build.precision, request.build.typing)
        return CompileReply(CompileReport(release.product, release.version, typing, refused, failure))

    def _waits(self, request: BuildRequest) -> bool:
        """Whether the context of an engine is made after the reply, in which its kernels are known already.

        TensorRT for RTX compiles kernels there, for seconds, and needs none to say what they are. With open shapes the
        inspector needs one; and whoever marks tensors is told at once that there are too many.
        """
        return self.release_info.product == TENSORRT_RTX and not (request.profiles or request.marks)

    def settle(self) -> None:
        """Make the contexts that were left for later; what goes wrong is said when they are needed."""
        for execution in self._engines.values():
            try:
                execution.prepare()
            except Fault as fault:
                self.log.add("WARNING", "{}: {}".format(fault.kind, fault.message))

    def infer(self, request: InferRequest) -> InferReply:
        """Run an engine once for its tensors, and more often for its times.

        Raises:
            Fault: there is no such engine, inputs that do not fit, or a failure on the GPU.
        """
        execution = self._engines.get(request.engine_id)
        if execution is None:
            raise Fault("bad_request", "there is no engine {!r}".format(request.engine_id))
        cuda = self._get_cuda()
        try:
            tensors = read_tensor_file(request.inputs_path)
        except (TensorFileError, FileNotFoundError) as error:
            raise Fault("bad_request", str(error)) from error
        start = self.log.mark()
        try:
            execution.feed(tensors)
            execution.bind()
            warnings = execution.run(debug=request.debug)
            execution.write_outputs(request.outputs_path)
            latency = None
            if request.repeats:
                latency = measure_latency(execution, cuda, warmup=request.warmup, repeats=request.repeats)
            layer_ms = time_layers(self._trt, execution, cuda) if request.profile else {}
        except Fault as fault:
            fault.evidence += self.log.errors(start)
            raise
        return InferReply(request.outputs_path, latency, layer_ms, warnings)

    def release(self, engine_id: str) -> None:
        """Free an engine, if there is one of that name."""
        execution = self._engines.pop(engine_id, None)
        if execution is not None:
            execution.close()

    def save_cache(self, kind: str, path: str) -> None:
        """Write a cache, atomically; nothing if there is nothing in it yet."""
        (self._runtime_cache if kind == RUNTIME else self._cache).save(path)

    def load_cache(self, kind: str, path: str) -> bool:
        """Take a cache; False if TensorRT refuses it. Of compiled kernels, the first build says whether it does."""
        if kind == RUNTIME:
            self._runtime_cache.load(path)
            return True
        return self._cache.load(self._get_builder().make_builder().create_builder_config(), path)

    def close(self) -> None:
        """Free everything, engines first."""
        for engine_id in list(self._engines):
            self.release(engine_id)
        self._runtime_cache.close()
        self._cache.close()
        if self._builder is not None:
            self._builder.close()
            self._builder = None
        self._first_builder = None
        if self._cuda is not None:
            self._cuda.close()

    def _get_cuda(self) -> Cuda:
        if self._cuda is None:
            self._cuda = Cuda(load_cudart())
        return self._cuda

    def _get_builder(self) -> Builder:
        if self._builder is None:
            try:
                self._get_cuda().gpu_name()  # the library may be there without a GPU
                cuda = self._cuda
            except Fault:
                cuda = None  # the builder of TensorRT for RTX needs none
            self._builder = Builder(self._trt, self.release_info, self._logger, self.log, self._cache, cuda)
        return self._builder

    def _inspect(
        self, built: Built, execution: Execution, request: BuildRequest
    ) -> Tuple[Tuple[LayerInfo, ...], Optional[KernelList]]:
        if request.profiles:
            # With open shapes the inspector has no formats to report.
            execution.set_shapes({name: ranges[1] for name, ranges in request.profiles.items()})
        seen = built.engine.create_engine_inspector()
        if execution.is_ready:
            seen.execution_context = execution.context
        text = seen.get_engine_information(self._trt.LayerInformationFormat.JSON)
        document = parse_inspector(text)
        producers = {tensor: node.name for node in request.nodes for tensor in node.outputs}
        layers = layers_of(document, built.nodes, producers)
        return layers, list_kernels(document, self.release_info, request.options)


def _marks_last(outputs: Sequence[str], marks: Sequence[str]) -> Tuple[str, ...]:
    marked = set(marks)
    return tuple(name for name in outputs if name not in marked) + tuple(marks)
