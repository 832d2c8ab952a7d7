"""An adapter without TensorRT that misbehaves on request, loaded by a real worker with `--adapter`.

What it does is asked for by the build route of a request, or before that by the variable MISBEHAVE for
what happens at the start, at the probe, and at the shutdown. A build that is asked for nothing succeeds, and
its inference returns its inputs.
"""

import ctypes
import errno
import os
import resource
import signal
import subprocess
import sys
import time

from harness_worker import protocol
from harness_worker.protocol import Fault
from harness_worker.server import Adapter

AT_START = os.environ.get("MISBEHAVE", "")


def create_adapter(log):
    if AT_START == "import error":
        raise ImportError("libnvinfer.so.8: cannot open shared object file: No such file or directory")
    return Misbehaving(log)


def forever_in_native_code():
    """Hang as a driver does: in native code that keeps the interpreter lock and ignores SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctypes.PyDLL(None).sleep(3600)


def segfault():
    print("[E] last words before the crash", file=sys.stderr)
    ctypes.string_at(0)


def abort():
    ctypes.CDLL(None).abort()


def out_of_memory_kill():
    """What the kernel's out-of-memory killer does."""
    os.kill(os.getpid(), signal.SIGKILL)


def out_of_memory():
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))
    bytearray(1 << 32)


def full_disk():
    with open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")


def sticky_cuda_error():
    raise Fault("cuda_error", "an illegal memory access", evidence=["[E] cudaErrorIllegalAddress"])


def raise_something():
    raise KeyError("defect")


def leave_children():
    for ignoring in ("", "trap '' TERM HUP;"):
        subprocess.Popen(["/bin/sh", "-c", ignoring + "sleep 3600"])
    ctypes.string_at(0)


def noise():
    os.write(1, b'HRNS\x00\x01 {"id": 1} print on stdout\n' * 20000)
    print("on stdout")
    print("\x1b[31m[E] on stderr\x1b[0m", file=sys.stderr)


ON_REQUEST = {
    "segfault": segfault,
    "abort": abort,
    "hang": forever_in_native_code,
    "sleep": lambda: time.sleep(3600),
    "oom kill": out_of_memory_kill,
    "oom": out_of_memory,
    "full disk": full_disk,
    "quota": lambda: os.close(os.open("/nowhere/at/all", os.O_RDONLY)),
    "cuda": sticky_cuda_error,
    "defect": raise_something,
    "exit": lambda: os._exit(7),
    "children": leave_children,
    "noise": noise,
    "slow": lambda: None,
    "build_failed": lambda: _fault("build_failed", "no implementation for node n3"),
    "unsupported": lambda: _fault("unsupported", "TensorRT 8.5.3.1 has no bf16"),
}


def _fault(kind, message):
    raise Fault(kind, message, evidence=["[E] " + message])


class Misbehaving(Adapter):
    def __init__(self, log):
        self.log = log
        self.engines = {}

    def probe(self, request):
        if AT_START == "sleep in probe":
            time.sleep(3600)
        return protocol.ProbeReply(
            tensorrt="8.6.0",
            cuda="12.0",
            driver="580.159",
            gpu="No GPU at all",
            compute_capability="9.0",
            free_bytes=10**9,
            total_bytes=2 * 10**9,
            builder_ok=True,
            capabilities=("fp16", "weak"),
        )

    def build(self, request):
        what = request.options.build_route
        if what == "garbage":
            self._on_the_channel(b"\x00garbage\xff" * 100)
        elif what == "bad checksum":
            frame = bytearray(protocol.pack_frame(1, protocol.Done()))
            frame[-3] ^= 1
            self._on_the_channel(bytes(frame))
        elif what == "half a message":
            self._on_the_channel(protocol.pack_frame(1, protocol.Done())[:-5])
            os._exit(0)
        elif what == "wrong reply":
            return protocol.Done()
        elif what is not None:
            ON_REQUEST[what]()
        name = f"engine-{len(self.engines)}"
        self.engines[name] = request
        seconds = 1.0 if what == "slow" else 0.0
        return protocol.BuildReply(name, ("y",), protocol.EngineFacts(typing="weak", build_seconds=seconds))

    def compile(self, request):
        self.build(request.build)
        return protocol.CompileReply(protocol.CompileReport("TensorRT", "0", "weak"))

    def infer(self, request):
        tensors = protocol.read_tensor_file(request.inputs_path)
        protocol.write_tensor_file(
            request.outputs_path, {"echo " + name: value for name, value in tensors.items()}
        )
        return protocol.InferReply(request.outputs_path)

    def release(self, engine_id):
        self.engines.pop(engine_id, None)

    def save_cache(self, kind, path):
        with open(path, "w") as file:
            file.write("timings")

    def load_cache(self, kind, path):
        with open(path) as file:
            return file.read() == "timings"

    def close(self):
        if AT_START == "hang at close":
            forever_in_native_code()
        if AT_START == "full disk at close":
            raise OSError(errno.ENOSPC, "No space left on device")

    @staticmethod
    def _on_the_channel(data):
        """Write to the channel itself, which is the first socket that the worker opened."""
        for descriptor in range(3, 20):
            try:
                if os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:"):
                    os.write(descriptor, data)
                    return
            except OSError:
                continue
