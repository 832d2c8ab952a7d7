"""An adapter on the double of one release, driven as the worker drives it."""

from pathlib import Path
from typing import Any

import contract_models
import numpy as np
import trt_double
from cuda_double import CudaDouble

from harness.worker import protocol
from harness.worker.adapter import Adapter
from harness.worker.adapter.runtime import Cuda
from harness.worker.protocol import BuildReply, BuildRequest, Compile, CompileReport, InferReply, InferRequest

_STORAGE = {"bool": np.bool_, "int64": np.int64, "float32": np.float32}


class Rig:
    """One adapter, its world and its GPU.

    Args:
        version: of TensorRT.
        models: name → path.
        folder: for tensor files.
    """

    def __init__(self, version: str, models: dict[str, Path], folder: Path) -> None:
        self.trt = trt_double.make(version)
        self.world = self.trt._world
        self.gpu = CudaDouble()
        self.world.memory = self.gpu
        self.lines: list[str] = []
        self.adapter = Adapter(self.trt, self.lines.append, Cuda(self.gpu))
        self._models, self._folder, self._files = models, folder, 0

    def build(self, model: str, precision: str = "fp32", **fields: Any) -> BuildReply:
        path = self._models[model]
        if model == "dynamic":
            fields.setdefault("profiles", {"x": ((1, 8), (4, 8), (8, 8))})
        request = BuildRequest(str(path), precision, nodes=contract_models.hints(path), **fields)
        reply = self.adapter.build(request)
        self.adapter.settle()  # as the server does
        return reply

    def compile(self, model: str, precision: str = "fp32", **fields: Any) -> CompileReport:
        path = self._models[model]
        request = BuildRequest(str(path), precision, nodes=contract_models.hints(path), **fields)
        return self.adapter.compile(Compile(request)).report

    def infer(
        self, reply: BuildReply, feeds: dict[str, np.ndarray], **fields: Any
    ) -> tuple[dict[str, Any], InferReply]:
        path = self.write(feeds)
        outputs = self._path()
        answer = self.adapter.infer(InferRequest(reply.engine_id, str(path), str(outputs), **fields))
        return protocol.read_tensor_file(str(outputs)), answer

    def write(self, feeds: dict[str, np.ndarray]) -> Path:
        path = self._path()
        protocol.write_tensor_file(
            str(path), {name: protocol.Tensor(array, str(array.dtype)) for name, array in feeds.items()}
        )
        return path

    @property
    def plan(self) -> Any:
        """What the builder was last asked for."""
        return self.world.built[-1]

    def _path(self) -> Path:
        self._files += 1
        return self._folder / f"tensors-{self._files}"


def feed(model: str, rows: int = 4) -> dict[str, np.ndarray]:
    """Inputs for a model."""
    random = np.random.default_rng(1)
    shapes = {"conv": (1, 3, 6, 6), "quantized": (1, 3, 6, 6), "branches": (2, 3), "data-dependent": (4, 3)}
    feeds: dict[str, np.ndarray] = {"x": random.normal(size=shapes.get(model, (rows, 8))).astype(np.float32)}
    if model == "branches":
        feeds["flag"] = np.array(False)
    if model == "data-dependent":
        feeds["index"] = np.array([2, 0])
    return feeds
