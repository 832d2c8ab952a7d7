"""The messages between the host and a worker: what is asked, and what is answered.

One request is answered by exactly one reply, in order: a request of type T by the type that `REPLIES` names,
or by `Error`. Every message is a frozen dataclass of plain JSON types (str, int, float, bool, None, tuples,
string-keyed dicts, other such dataclasses). Tensors never travel in a message: a message names a file that
`tensorfile` reads and writes.

Paths are absolute and the same on both sides: a container must mount them where the host has them.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Dict, Generic, Iterable, Optional, Tuple, Type, TypeVar, Union

from .codec import MessageError, from_plain
from .facts import EngineFacts, Latency, Profile
from .kernels import TENSORRT, CompileReport
from .tactics import TacticOrders

#: Raised by one whenever a message changes. Host and worker must agree exactly.
PROTOCOL = 11


R = TypeVar("R")


class Answered(Generic[R]):
    """A request that a reply of type `R` answers when it does not fail."""


# --- the worker introduces itself ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Hello:
    """The first message of a worker, unasked, before it has loaded anything.

    `product` is what this Python has; None where it has neither.
    """

    pid: int
    product: Optional[str] = None


# --- requests and their replies -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Ping(Answered["Done"]):
    """Answered by `Done` at once."""


@dataclass(frozen=True)
class Done:
    """The request was carried out. `cache_refused` answers `LoadCache`: see `BuildReply`."""

    warnings: Tuple[str, ...] = ()
    cache_refused: bool = False


@dataclass(frozen=True)
class Shutdown(Answered["Done"]):
    """Answered by `Done`; then the worker frees what it holds and exits with status 0."""


@dataclass(frozen=True)
class Probe(Answered["ProbeReply"]):
    """Ask what this environment is and can do.

    Args:
        load: also see whether the GPU takes an engine that is built here, which costs a small build.
    """

    load: bool = False


@dataclass(frozen=True)
class ProbeReply:
    """What this environment is and can do.

    Args:
        tensorrt: full version of the product, `8.6.0` or `10.13.3.9`; of TensorRT for RTX, `1.7.1.116`.
        product: TENSORRT or TENSORRT_RTX.
        cuda: version of the CUDA runtime, `12.2`; None if unknown.
        driver: version of the driver, `580.159`, or of the CUDA that it supports; None if unknown.
        gpu: name of the GPU that the worker sees first; None without a GPU.
        compute_capability: `9.0`.
        free_bytes: free memory of the GPU now.
        total_bytes: all memory of the GPU.
        builder_ok: whether a builder could be made.
        cannot_run: why no engine can be run here though it can be built: there is no GPU, or it is refused; None if
            engines run, or as far as it is known.
        capabilities: what the release offers, sorted: `weak`, `strong` (typing); each precision (`fp16`, …);
            `debug_tensors`, `unfused_debug_tensors`, `timing_cache`, `editable_timing_cache`,
            `algorithm_selector`, `inspector`, `calibration`, `profiler`, `tactic_source:<NAME>` …
        problems: what does not work, a sentence each, with what to try.
        packages: versions of packages that matter beside TensorRT: `numpy`, `polygraphy`, …
        tactic_sources: the tactic sources that are on unless a build says otherwise, in capital letters.
        preview_features: those that the release knows, in capital letters.
        build_routes: the builder's knobs, with the values that each allows; from 11.1 on.
    """

    tensorrt: str
    cuda: Optional[str] = None
    driver: Optional[str] = None
    gpu: Optional[str] = None
    compute_capability: Optional[str] = None
    free_bytes: Optional[int] = None
    total_bytes: Optional[int] = None
    builder_ok: bool = False
    cannot_run: Optional[str] = None
    capabilities: Tuple[str, ...] = ()
    problems: Tuple[str, ...] = ()
    packages: Dict[str, str] = field(default_factory=dict)
    product: str = TENSORRT
    tactic_sources: Tuple[str, ...] = ()
    preview_features: Tuple[str, ...] = ()
    build_routes: Dict[str, Tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class NodeHint:
    """One node of the ONNX graph, so that layers can be mapped to nodes without parsing ONNX in the worker.

    Args:
        name: unique and not empty; the name that the node has in the model file.
        op: the operator type.
        outputs: names of the tensors it writes, omitted ones left out.
        lowerable: whether the precision under test may apply to it (not shape or integer arithmetic).
    """

    name: str
    op: str
    outputs: Tuple[str, ...]
    lowerable: bool = True


@dataclass(frozen=True)
class BuilderOptions:
    """The build options of a case that the builder sees to, under the names that they have there; None and False are
    TensorRT's defaults."""

    pin_precision: bool = False
    workspace_mib: Optional[int] = None
    optimization_level: Optional[int] = None
    tactic_sources: Optional[Tuple[str, ...]] = None
    avg_timing_iterations: Optional[int] = None
    timing_cache: bool = True
    tf32: Optional[bool] = None
    sparsity: bool = False
    version_compatible: bool = False
    hardware_compatibility: Optional[str] = None
    compute_capability: Optional[str] = None
    preview_features: Optional[Tuple[str, ...]] = None
    build_route: Optional[str] = None


@dataclass(frozen=True)
class BuildRequest(Answered["BuildReply"]):
    """Build one engine and keep it.

    Args:
        model_path: an ONNX file, its external data beside it.
        precision: `fp32`, `tf32`, `fp16`, `bf16`, `fp8` or `int8`.
        typing: `weak` (flags and layer precisions), `strong` (the model's own types decide), or `auto`: weak
            where the release has it.
        islands: names of ONNX nodes that are kept in FP32. With strong typing the model has Casts around them
            already, and the adapter only checks it.
        observation: `none`, `typed`, `debug` (an inference is asked for the tensors) or `prefix` (the model is cut
            already, and `marks` names its outputs).
        marks: names of ONNX tensors to observe; they come back from inferences beside the model's outputs.
            A mark that is an output of the model already is only given `mark_dtype`.
        mark_dtype: dtype given to float marks before the build (`float16`, `bfloat16`, `float32`); None
            leaves them as parsed, which on a weakly typed network means FP32 and may cure the fault.
        profiles: by input, (minimum, optimum, maximum) shape; one for every input with a dynamic axis.
        options: what the case asks of the builder.
        calibration: tensor files for INT8 calibration, one a batch; each holds all inputs.
        nodes: the nodes of the model in topological order.
        engine_path: where to write the serialized engine; None writes none.
        prebuilt_path: the serialized engine, as another worker of the release has built it for this same request: it is
            loaded, and nothing is built.
        tactics: what to do about tactics; None leaves them to TensorRT and reports only what the inspector does.
    """

    model_path: str
    precision: str
    typing: str = "auto"
    islands: Tuple[str, ...] = ()
    observation: str = "none"
    marks: Tuple[str, ...] = ()
    mark_dtype: Optional[str] = None
    profiles: Dict[str, Profile] = field(default_factory=dict)
    options: BuilderOptions = BuilderOptions()
    calibration: Tuple[str, ...] = ()
    nodes: Tuple[NodeHint, ...] = ()
    engine_path: Optional[str] = None
    prebuilt_path: Optional[str] = None
    tactics: Optional[TacticOrders] = None


@dataclass(frozen=True)
class BuildReply:
    """An engine was built.

    Args:
        engine_id: what `InferRequest` and `Release` call it; unique in the life of the worker.
        outputs: names of all tensors that an inference returns, the model's outputs first.
        facts: what is known of the engine.
        cache_refused: TensorRT refused the timing cache that `LoadCache` gave; it goes on with an empty one.
        runtime_cache_refused: likewise of compiled kernels.
    """

    engine_id: str
    outputs: Tuple[str, ...]
    facts: EngineFacts
    cache_refused: bool = False
    runtime_cache_refused: bool = False


@dataclass(frozen=True)
class Compile(Answered["CompileReply"]):
    """Parse and build, and say what became of the model: `build` is what would be asked for if it were to be run."""

    build: BuildRequest


@dataclass(frozen=True)
class CompileReply:
    """What became of the model. That it was refused or not built is no `Error`."""

    report: CompileReport


@dataclass(frozen=True)
class InferRequest(Answered["InferReply"]):
    """Run an engine once to read its tensors, and `repeats` times more to time it.

    Args:
        engine_id: from `BuildReply`.
        inputs_path: tensor file with every input of the engine.
        outputs_path: where to write the tensor file of the outputs; it must not exist.
        warmup: inferences before the timed ones; only done when `repeats` is not 0.
        repeats: timed inferences; 0 times nothing.
        profile: time each layer too.
        debug: write the debug tensors too, if the engine has any.
    """

    engine_id: str
    inputs_path: str
    outputs_path: str
    warmup: int = 3
    repeats: int = 0
    profile: bool = False
    debug: bool = False


@dataclass(frozen=True)
class InferReply:
    """The tensors of an inference are in `outputs_path`.

    Args:
        outputs_path: the tensor file: every name of `BuildReply.outputs`, and the debug tensors.
        latency: None when nothing was timed.
        layer_ms: by engine layer, median milliseconds; empty without `profile`.
        warnings: what the person should know.
    """

    outputs_path: str
    latency: Optional[Latency] = None
    layer_ms: Dict[str, float] = field(default_factory=dict)
    warnings: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Release(Answered["Done"]):
    """Free an engine. Answered by `Done`, also when there is no such engine."""

    engine_id: str


#: What caches hold: how long tactics took, and, with the capability `runtime_cache`, compiled kernels.
TIMING, RUNTIME = "timing", "runtime"


@dataclass(frozen=True)
class SaveCache(Answered["Done"]):
    """Write a cache to `path`, atomically. Answered by `Done`."""

    path: str
    kind: str = TIMING


@dataclass(frozen=True)
class LoadCache(Answered["Done"]):
    """Take a cache from `path`. One that is refused is no error: see `Done`, and of kernels `BuildReply`."""

    path: str
    kind: str = TIMING


@dataclass(frozen=True)
class Error:
    """The request failed.

    Args:
        kind: one of KINDS.
        message: one sentence that says what failed and, where it is known, what to try.
        evidence: lines that support it: TensorRT's errors, the end of the traceback.
        fatal: the worker cannot be trusted any more (a sticky CUDA error): replace it.
        marks: for `marks_failed`, the marks that are to blame as far as that is known; else empty.
        nodes: the nodes that the parser refuses, as far as it names them; empty where it took them all.
    """

    kind: str
    message: str
    evidence: Tuple[str, ...] = ()
    fatal: bool = False
    marks: Tuple[str, ...] = ()
    nodes: Tuple[str, ...] = ()


Request = Union[Ping, Shutdown, Probe, BuildRequest, Compile, InferRequest, Release, SaveCache, LoadCache]
Reply = Union[Hello, Done, ProbeReply, BuildReply, CompileReply, InferReply, Error]
Message = Union[Answered[Any], Reply]

#: What answers what, when it does not fail.
REPLIES: Dict[Type[Any], Type[Any]] = {
    Ping: Done,
    Shutdown: Done,
    Probe: ProbeReply,
    BuildRequest: BuildReply,
    Compile: CompileReply,
    InferRequest: InferReply,
    Release: Done,
    SaveCache: Done,
    LoadCache: Done,
}

_TYPES: Dict[str, Type[Any]] = {
    kind.__name__: kind
    for kind in (*REPLIES, Hello, Done, ProbeReply, BuildReply, CompileReply, InferReply, Error)
}


def message_to_json(message: Message) -> Dict[str, Any]:
    """The JSON object of `message`: its fields, and its type under `type`."""
    name = type(message).__name__
    if name not in _TYPES:
        raise MessageError("{!r} is not a message".format(name))
    return {"type": name, **dataclasses.asdict(message)}  # type: ignore[arg-type]  # each of _TYPES is a dataclass


def message_from_json(document: Any) -> Message:
    """The message of a JSON object.

    Raises:
        MessageError: it is not an object, its type is unknown, or a field is missing, unknown or of the wrong
            type.
    """
    if not isinstance(document, dict):
        raise MessageError("a message is a JSON object, not {}".format(type(document).__name__))
    fields = dict(document)
    name = fields.pop("type", None)
    if name not in _TYPES:
        raise MessageError("no message is called {!r}".format(name))
    message: Message = from_plain(_TYPES[name], fields)
    return message


#: kind: what it means, and what the host does.
KINDS = {
    "environment": "TensorRT cannot be loaded here, or there is no GPU; fatal",
    "unsupported": "the release cannot do what is asked; the worker goes on",
    "build_failed": "the builder returned no engine; the worker goes on",
    "no_gpu": "the builder looked for a GPU, and there is none; the worker goes on",
    "marks_failed": "the build failed because of its marks; the host splits them and asks again",
    "no_context": "an engine was built, and nothing can be run in it; the worker goes on",
    "not_started": "TensorRT did not start an inference, though CUDA reports no error; the worker goes on",
    "out_of_memory": "memory of the GPU or of the machine ran out; the host makes smaller builds",
    "cuda_error": "a CUDA call failed; fatal: the worker is replaced",
    "disk_full": "a tensor file or an engine could not be written; the worker goes on",
    "bad_request": "the request names what does not exist: a tensor, an engine, a file",
    "internal": "a defect of the adapter; the worker is replaced",
}


class Fault(Exception):
    """Raised by an adapter; the worker answers with `Error`.

    Args:
        kind: one of KINDS.
        message: one sentence that says what failed and what to try.
        evidence: lines that support it, such as TensorRT's own errors.
        fatal: the worker cannot be trusted any more; always so for `environment`,
            `cuda_error` and `internal`.
        marks: for `marks_failed`, the names that are to blame, if known.
        nodes: the nodes that the parser refuses, or that the errors of a build name.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        evidence: Iterable[str] = (),
        fatal: bool = False,
        marks: Iterable[str] = (),
        nodes: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        if kind not in KINDS:
            raise ValueError("{!r} is not a kind of fault; these are: {}".format(kind, ", ".join(KINDS)))
        self.kind = kind
        self.message = message
        self.evidence: Tuple[str, ...] = tuple(evidence)
        self.fatal = fatal or kind in ("environment", "cuda_error", "internal")
        self.marks: Tuple[str, ...] = tuple(marks)
        self.nodes: Tuple[str, ...] = tuple(nodes)
