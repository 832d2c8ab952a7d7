"""What a compiler makes of a model: the kernels of an engine, the nodes that a parser refuses, why a build failed."""

from dataclasses import dataclass
from typing import Optional, Tuple

from .names import Work, work_of

#: What a release is a release of.
TENSORRT, TENSORRT_RTX = "TensorRT", "TensorRT for RTX"
#: What each is installed as, and called in ranges of releases.
PACKAGE_OF = {TENSORRT: "tensorrt", TENSORRT_RTX: "tensorrt-rtx"}


@dataclass(frozen=True)
class KernelTensor:
    """A tensor at the border of a kernel.

    Args:
        name: the engine's name of it; of an input or output of the model, the model's.
        dtype: `float16`, …; None if the release does not say, or says one that harness does not know.
        shape: -1 where a size is not known before the engine runs.
    """

    name: str
    dtype: Optional[str] = None
    shape: Tuple[int, ...] = ()


@dataclass(frozen=True)
class Kernel:
    """What an engine runs at once: the nodes fused in it, and the tensors that it reads and writes.

    Args:
        name: the engine's name of it.
        kind: `gemm`, `correlation` (a convolution), `kgen` (generated code), `runtime_fusion` (generated when the
            engine is loaded), `_gemm_mha_v2` (fused attention), `memset`, …; TensorRT's own word.
        onnx_nodes: names of the ONNX nodes that it computes, in TensorRT's order; one node may be in several kernels.
        inputs: what it reads, constants left out.
        outputs: what it writes.
        constants: dtypes of the constants that it reads; empty if the release does not name them.
        operations: what generated code does, in order, in the compiler's abbreviations: `Mean`, `Sub`, `Cast`, …;
            empty of other kinds.
        tactic: name of the tactic or of the generated code; None if there is none.
    """

    name: str
    kind: str
    onnx_nodes: Tuple[str, ...] = ()
    inputs: Tuple[KernelTensor, ...] = ()
    outputs: Tuple[KernelTensor, ...] = ()
    constants: Tuple[str, ...] = ()
    operations: Tuple[str, ...] = ()
    tactic: Optional[str] = None

    @property
    def work(self) -> Work:
        """What it does."""
        return work_of(self.name, self.kind, self.operations)


@dataclass(frozen=True)
class KernelList:
    """The kernels of one engine, in the order in which they run.

    Args:
        product: TENSORRT or TENSORRT_RTX.
        release: its version, `1.7.1.116`.
        source: `log` (of the builder; no engine was loaded) or `inspector`.
        compute_capability: the one target that the list is of, `sm86`; None if the build named none.
        kernels: at least one.
    """

    product: str
    release: str
    source: str
    kernels: Tuple[Kernel, ...]
    compute_capability: Optional[str] = None


@dataclass(frozen=True)
class RefusedNode:
    """A node that the parser does not take.

    Args:
        index: its position in the graph; -1 for the model as a whole.
        name: empty if the release does not say, or the node has none.
        op: the operator type; empty likewise.
        code: the parser's code, `UNSUPPORTED_NODE_ATTR`.
        message: the parser's own words.
    """

    index: int
    name: str
    op: str
    code: str
    message: str

    def __str__(self) -> str:
        """`node 3 ('mod', Mod): UNSUPPORTED_NODE: …`."""
        known = ", ".join(part for part in (self.name and repr(self.name), self.op) if part)
        place = "node {}".format(self.index) if self.index >= 0 else "the model"
        return "{}{}: {}: {}".format(place, " ({})".format(known) if known else "", self.code, self.message)


@dataclass(frozen=True)
class CompileFailure:
    """Why a model that was parsed was not built.

    Args:
        kind: one of KINDS; or `crashed` or `timed_out`, for a builder that took its process with it.
        message: one sentence.
        evidence: the builder's own errors.
        nodes: the ONNX nodes that these name, or whose layers they name.
    """

    kind: str
    message: str
    evidence: Tuple[str, ...] = ()
    nodes: Tuple[str, ...] = ()


@dataclass(frozen=True)
class CompileReport:
    """What became of one model in one compiler: refused, failed, or built, with the kernels as far as they are known.

    Args:
        product: TENSORRT or TENSORRT_RTX.
        release: its version.
        typing: `weak` or `strong`.
        refused: what the parser refused.
        failure: why it was not built; None if it was, or if the parser refused it.
        kernels: None if it was not built, or if they could not be read: then `warnings` says so.
        engine_bytes: size of the serialized engine; 0 if there is none.
        parse_seconds: to parse.
        build_seconds: to build.
        warnings: what the person should know.
        kept: nodes in FP32 that nobody asked for: the parser refuses them, or what they write, in the precision.
    """

    product: str
    release: str
    typing: str
    refused: Tuple[RefusedNode, ...] = ()
    failure: Optional[CompileFailure] = None
    kernels: Optional[KernelList] = None
    engine_bytes: int = 0
    parse_seconds: float = 0.0
    build_seconds: float = 0.0
    warnings: Tuple[str, ...] = ()
    kept: Tuple[str, ...] = ()

    @property
    def built(self) -> bool:
        """Whether there was an engine."""
        return not self.refused and self.failure is None
