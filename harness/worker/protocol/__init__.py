"""What host and worker share: messages and how they travel, what is known of an engine, tensor files, faults.

It runs on Python 3.8 and later and imports nothing but the standard library, and NumPy for tensor files. It is all
that hosts import of the worker.
"""

from typing import TYPE_CHECKING, Any

from .codec import MessageError, from_plain
from .facts import Latency, LayerInfo
from .faults import KINDS, Fault
from .kernels import (
    TENSORRT,
    TENSORRT_RTX,
    CompileFailure,
    CompileReport,
    Kernel,
    KernelList,
    KernelTensor,
    RefusedNode,
)
from .messages import (
    PROTOCOL,
    REPLIES,
    BuildReply,
    BuildRequest,
    Done,
    Error,
    Hello,
    InferReply,
    InferRequest,
    LoadCache,
    Message,
    NodeHint,
    Ping,
    Probe,
    ProbeReply,
    Release,
    Reply,
    Request,
    SaveCache,
    Shutdown,
    message_from_json,
    message_to_json,
)
from .tactics import (
    CACHE,
    MECHANISMS,
    NOT_ASKED,
    NOT_OFFERED,
    NOT_TAKEN,
    NOTHING_ELSE,
    SELECTOR,
    Choice,
    LayerType,
    Miss,
    TacticOrders,
    TacticReport,
    TensorForm,
    hexadecimal,
)
from .wire import FrameReader, WireError, pack_frame, use_socket

if TYPE_CHECKING:
    from .tensorfile import (
        STORAGE,
        Tensor,
        TensorFileError,
        TensorSpec,
        create_tensor_file,
        read_tensor_file,
        write_tensor_file,
    )
else:

    def __getattr__(name: str) -> Any:
        # A worker without NumPy must be able to say so, so what needs it is imported when it is asked for.
        if name not in __all__:
            raise AttributeError("module {!r} has no attribute {!r}".format(__name__, name))
        from . import tensorfile

        return getattr(tensorfile, name)


__all__ = [
    "CACHE",
    "KINDS",
    "MECHANISMS",
    "NOTHING_ELSE",
    "NOT_ASKED",
    "NOT_OFFERED",
    "NOT_TAKEN",
    "PROTOCOL",
    "REPLIES",
    "SELECTOR",
    "STORAGE",
    "TENSORRT",
    "TENSORRT_RTX",
    "BuildReply",
    "BuildRequest",
    "Choice",
    "CompileFailure",
    "CompileReport",
    "Done",
    "Error",
    "Fault",
    "FrameReader",
    "Hello",
    "InferReply",
    "InferRequest",
    "Kernel",
    "KernelList",
    "KernelTensor",
    "Latency",
    "LayerInfo",
    "LayerType",
    "LoadCache",
    "Message",
    "MessageError",
    "Miss",
    "NodeHint",
    "Ping",
    "Probe",
    "ProbeReply",
    "RefusedNode",
    "Release",
    "Reply",
    "Request",
    "SaveCache",
    "Shutdown",
    "TacticOrders",
    "TacticReport",
    "Tensor",
    "TensorFileError",
    "TensorForm",
    "TensorSpec",
    "WireError",
    "create_tensor_file",
    "from_plain",
    "hexadecimal",
    "message_from_json",
    "message_to_json",
    "pack_frame",
    "read_tensor_file",
    "use_socket",
    "write_tensor_file",
]
