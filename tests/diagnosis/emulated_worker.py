"""An adapter for a real worker: its engines are emulated, and one of its messages may be the last.

DIE_AT is the number of the build or inference, over all workers that share COUNTER (a file), at which the worker
kills itself; DIE_WHEN says whether before or after the work is done.

With RECORD (a file that gets a line for each build, and for each engine that is written and loaded) it is TensorRT for
RTX, whose graphs say the precision. CRASH is the event at which it dies.
"""

import os
import signal

import numpy as np
from harness_worker import protocol
from harness_worker.server import Adapter

from harness.backends import Emulator, FileAsItIs
from harness.model import load_model
from harness.tensors import Precision


def create_adapter(log):
    return EmulatedEngines()


def _count():
    path = os.environ["COUNTER"]
    with open(path, "a+b") as file:
        file.write(b".")
        file.flush()
        return file.tell()


def _record(event):
    with open(os.environ.get("RECORD", os.devnull), "a") as file:
        file.write(event + "\n")
    if event == os.environ.get("CRASH"):
        os.kill(os.getpid(), signal.SIGKILL)


class EmulatedEngines(Adapter):
    def __init__(self):
        self.engines = {}

        self.typed = "RECORD" in os.environ

    def probe(self, request):
        if self.typed:
            offered = ("debug_tensors", "fp16", "strong", "unfused_debug_tensors")
            product = protocol.TENSORRT_RTX
            return protocol.ProbeReply("1.6.1.120", product=product, builder_ok=True, capabilities=offered)
        return protocol.ProbeReply(
            tensorrt="8.6.0", gpu="CPU", free_bytes=10**9, builder_ok=True, capabilities=("fp16", "weak")
        )

    def compile(self, request):
        _record("write")
        with open(request.build.engine_path, "w") as file:
            file.write("engine")
        report = protocol.CompileReport(protocol.TENSORRT_RTX, "1.6.1.120", "strong", engine_bytes=6)
        return protocol.CompileReply(report)

    def build(self, request):
        return self._mortal(lambda: self._build(request))

    def infer(self, request):
        return self._mortal(lambda: self._infer(request))

    def _mortal(self, work):
        last = _count() == int(os.environ.get("DIE_AT", "0"))
        if last and os.environ.get("DIE_WHEN") == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        reply = work()
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return reply

    def _build(self, request):
        model = load_model(request.model_path)
        _record("load" if request.prebuilt_path else "build")
        engine_id = f"engine-{len(self.engines)}"
        self.engines[engine_id] = ((FileAsItIs if self.typed else Emulator)(model), request)
        outputs = [info.name for info in model.outputs]
        outputs += [name for name in request.marks if name not in outputs]
        return protocol.BuildReply(
            engine_id,
            tuple(outputs),
            protocol.EngineFacts(
                typing="strong" if self.typed else "weak", build_seconds=0.1, engine_bytes=1
            ),
        )

    def _infer(self, request):
        emulator, built = self.engines[request.engine_id]
        precision = Precision(built.precision)
        lowered = [name for name in emulator.units(precision) if name not in built.islands]
        names = [info.name for info in emulator.model.outputs]
        names += [name for name in built.marks if name not in names]
        feeds = {
            name: np.array(tensor.array)
            for name, tensor in protocol.read_tensor_file(request.inputs_path).items()
        }
        values = emulator.run(feeds, precision, lowered=lowered, tensors=names)
        tensors = {name: protocol.Tensor(value, "float32") for name, value in values.items()}
        protocol.write_tensor_file(request.outputs_path, tensors)
        latency = protocol.Latency(1.0, 2.0, request.repeats) if request.repeats else None
        return protocol.InferReply(request.outputs_path, latency)

    def release(self, engine_id):
        self.engines.pop(engine_id, None)

    def close(self):
        self.engines.clear()
