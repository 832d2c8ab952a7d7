"""An adapter whose engines are ONNX Runtime sessions: what a worker needs to be real but for the GPU.

Loaded by a real worker with `--adapter`. A typed mark is rounded to its dtype, and nothing else is. Variables of
the environment make it fail:

    MARKS_FAIL, MARKS_CRASH   names of marks, comma separated, that break a build or kill the worker
    MARKS_BLAMED              which of them the error names
    MARKS_LIMIT               how many marks fit the memory
    ENGINES_LIMIT             how many engines leave room to run one
    UNMARKABLE                names of tensors that lie inside a loop
    CRASH_MODELS              names of models whose build kills the worker
    REFUSED, REFUSED_LOW      names of nodes that the parser never takes, or takes in FP32 alone
    CAPABILITIES, FREE_BYTES, PRODUCT  what the probe reports
    BUILT             a file that a build waits for
    SETTLED           a file that the worker waits for after its reply to a build
    SLOW              seconds that a build, and an inference that is timed, take at least
    CRASH_ONCE        a file: the build that finds it removes it, and kills the worker
    RECORD            a file that gets a line for each build, for each engine that is written and each that is loaded
    WRITING, LOADING  what goes wrong with an engine that is written, or loaded: `crash`, `refuse`, `hang`, and of what
                      is written `cut` (the file is too short), `other` (it is of another release)
"""

import contextlib
import ctypes
import hashlib
import os
import time

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from harness_worker import protocol
from harness_worker.protocol import Fault
from harness_worker.server import Adapter


def create_adapter(log):
    return CpuEngines()


def _names(variable):
    return set(filter(None, os.environ.get(variable, "").split(",")))


def _is_low(model, name):
    """Whether a node writes something lower than FP32."""
    values = onnx.shape_inference.infer_shapes(model).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*values.value_info, *values.output)}
    node = next(node for node in model.graph.node if node.name == name)
    return kinds[node.output[0]] != onnx.TensorProto.FLOAT


def _record(event, model_path):
    if not os.path.exists(model_path):
        raise Fault("bad_request", "there is no file")
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    with open(os.environ.get("RECORD", os.devnull), "a") as file:
        file.write(f"{event} on {'a GPU' if seen else 'no GPU'}\n")
    with open(model_path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _fail(how):
    if how == "crash":
        ctypes.string_at(0)
    if how == "hang":
        time.sleep(600)
    if how == "refuse":
        raise Fault("build_failed", "refused")


class CpuEngines(Adapter):
    def __init__(self):
        self.engines = {}
        self.number = 0

    def probe(self, request):
        return protocol.ProbeReply(
            tensorrt="8.6.0",
            product=os.environ.get("PRODUCT", protocol.TENSORRT),
            gpu="CPU",
            compute_capability="0.0",
            free_bytes=int(os.environ.get("FREE_BYTES", 10**9)),
            builder_ok=True,
            capabilities=tuple(os.environ.get("CAPABILITIES", "fp16,weak").split(",")),
        )

    def compile(self, request):
        digest = _record("write", request.build.model_path)
        how = os.environ.get("WRITING")
        _fail(how)
        with open(request.build.engine_path, "w") as file:
            file.write(digest[: -1 if how == "cut" else None])
        release = "8.6.1" if how == "other" else "8.6.0"
        product = os.environ["PRODUCT"]
        report = protocol.CompileReport(
            product, release, "strong", engine_bytes=len(digest), build_seconds=7.0
        )
        return protocol.CompileReply(report)

    def build(self, request):
        digest = _record("load" if request.prebuilt_path else "build", request.model_path)
        if request.prebuilt_path:
            _fail(os.environ.get("LOADING"))
            with open(request.prebuilt_path) as file:
                assert file.read() == digest
        marks = set(request.marks)
        if request.options.workspace_mib == 1:
            raise Fault("build_failed", "no implementation")
        model_name = os.path.splitext(os.path.basename(request.model_path))[0]
        if marks & _names("MARKS_CRASH") or model_name in _names("CRASH_MODELS"):
            ctypes.string_at(0)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.environ.get("CRASH_ONCE", "/nowhere/at/all"))
            ctypes.string_at(0)
        if marks & _names("MARKS_FAIL"):
            blamed = marks & _names("MARKS_BLAMED")
            raise Fault("marks_failed", "a mark breaks the build", marks=sorted(blamed))
        if len(marks) > int(os.environ.get("MARKS_LIMIT", 10**6)):
            raise Fault("out_of_memory", "too many marks")
        while not os.path.exists(os.environ.get("BUILT", "/")):
            time.sleep(0.01)
        time.sleep(float(os.environ.get("SLOW", 0)))
        model = onnx.load(request.model_path)
        refused = [node.name for node in model.graph.node if node.name in _names("REFUSED_LOW")]
        refused = [name for name in refused if _is_low(model, name)]
        refused += [node.name for node in model.graph.node if node.name in _names("REFUSED")]
        if refused:
            raise Fault("build_failed", "cannot parse", nodes=refused)
        names = [value.name for value in model.graph.output]
        skipped = dict.fromkeys(marks & _names("UNMARKABLE"), "it lies inside a loop")
        for name in request.marks:
            if name not in names and name not in skipped:
                model.graph.output.append(onnx.ValueInfoProto(name=name))
                names.append(name)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        self.number += 1
        engine_id = f"engine-{self.number}"
        self.engines[engine_id] = (session, request)
        return protocol.BuildReply(
            engine_id=engine_id,
            outputs=tuple(names),
            facts=protocol.EngineFacts(
                typing="weak" if request.typing == "auto" else request.typing,
                build_seconds=0.25,
                engine_bytes=1000,
                layers=tuple(
                    protocol.LayerInfo(node.name, onnx_nodes=(node.name,)) for node in request.nodes
                ),
                kernels=self._kernels(request) if "KERNELS" in os.environ else None,
                skipped_marks=skipped,
                warnings=("built on a CPU",),
            ),
        )

    def _kernels(self, request):
        kernels = tuple(protocol.Kernel(node.name, "kgen", (node.name,)) for node in request.nodes)
        return protocol.KernelList(protocol.TENSORRT_RTX, "1.6.1.120", "inspector", kernels)

    def infer(self, request):
        session, built = self.engines[request.engine_id]
        if len(self.engines) > int(os.environ.get("ENGINES_LIMIT", 10**6)):
            raise Fault("out_of_memory", "too many engines")
        inputs = protocol.read_tensor_file(request.inputs_path)
        names = [output.name for output in session.get_outputs()]
        values = session.run(None, {name: np.array(tensor.array) for name, tensor in inputs.items()})
        low = np.dtype(getattr(ml_dtypes, built.mark_dtype or "", built.mark_dtype or "float32"))
        tensors = {}
        for name, value in zip(names, values, strict=True):
            kind = value.dtype.name
            if name in built.marks and kind == "float32":
                kind, value = low.name, value.astype(low)
            if value.dtype == np.int64:  # as TensorRT 8 does
                kind, value = "int32", value.astype(np.int32)
            tensors[name] = protocol.Tensor(value.view(protocol.STORAGE[kind]), kind)
        if request.debug:
            tensors["(Unnamed Layer* 3) [Shuffle]"] = next(iter(tensors.values()))
        protocol.write_tensor_file(request.outputs_path, tensors)
        time.sleep(float(os.environ.get("SLOW", 0)) if request.repeats else 0)
        latency = protocol.Latency(1.0, 2.0, request.repeats) if request.repeats else None
        return protocol.InferReply(request.outputs_path, latency, {"layer": 1.0} if request.profile else {})

    def settle(self):
        while not os.path.exists(os.environ.get("SETTLED", "/")):
            time.sleep(0.01)

    def release(self, engine_id):
        self.engines.pop(engine_id, None)

    def close(self):
        self.engines.clear()
