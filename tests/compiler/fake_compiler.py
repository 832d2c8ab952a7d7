"""An adapter that compiles nothing: what becomes of a model stands in its name. It counts what it is asked."""

import ctypes
import os
import time
from pathlib import Path

from harness_worker import protocol
from harness_worker.server import Adapter


def create_adapter(log):
    return Compiler()


class Compiler(Adapter):
    def probe(self, request):
        return protocol.ProbeReply(
            "1.7.1.116", product=protocol.TENSORRT_RTX, builder_ok=True, capabilities=("fp16", "strong")
        )

    def compile(self, request):
        with open(os.environ["COUNT"], "a") as file:
            print(request.build.model_path, file=file)
        name = Path(request.build.model_path).stem
        if name in ("abort", "hang"):
            os.write(2, b"[TensorRT error] no tactic for conv_3\nthe last words of the builder\n")
        if name == "abort":
            ctypes.CDLL(None).abort()
        if name == "hang":
            time.sleep(3600)
        if name == "large":
            bytearray(1 << 31)
        said = {}
        if name == "refused":
            said["refused"] = (protocol.RefusedNode(2, "det", "Det", "UNSUPPORTED_NODE", "false"),)
        elif name == "failed":
            said["failure"] = protocol.CompileFailure("build_failed", "K exceeds 3840", ("topk: K",))
        elif name != "silent":
            kernel = protocol.Kernel("k", "gemm", tuple(node.name for node in request.build.nodes))
            said["kernels"] = protocol.KernelList(protocol.TENSORRT_RTX, "1.7.1.116", "log", (kernel,))
        report = protocol.CompileReport(protocol.TENSORRT_RTX, "1.7.1.116", "strong", **said)
        return protocol.CompileReply(report)
