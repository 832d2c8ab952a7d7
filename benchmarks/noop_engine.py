"""An adapter that computes nothing: a worker with it costs what every evaluation costs beside its engine."""

from harness_worker import protocol
from harness_worker.server import Adapter


def create_adapter(log):
    return NoEngine()


class NoEngine(Adapter):
    """Gives back its first input under the name of every output."""

    def __init__(self):
        self.outputs = {}

    def probe(self, request):
        return protocol.ProbeReply("0", free_bytes=1 << 40, builder_ok=True, capabilities=("fp16", "weak"))

    def build(self, request):
        engine_id = f"engine-{len(self.outputs)}"
        self.outputs[engine_id] = ("y", *request.marks)
        return protocol.BuildReply(
            engine_id, self.outputs[engine_id], protocol.EngineFacts(build_seconds=0.0)
        )

    def infer(self, request):
        first = next(iter(protocol.read_tensor_file(request.inputs_path).values()))
        protocol.write_tensor_file(
            request.outputs_path, dict.fromkeys(self.outputs[request.engine_id], first)
        )
        return protocol.InferReply(request.outputs_path)

    def release(self, engine_id):
        self.outputs.pop(engine_id, None)

    def close(self):
        pass
