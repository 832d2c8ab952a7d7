"""INT8 calibration (up to 10.16) with batches from tensor files."""

from typing import Any, Dict, List, Optional, Sequence

from ..protocol import Tensor, read_tensor_file
from . import dtypes
from .cuda import Buffer, Cuda


def make_calibrator(trt: Any, cuda: Cuda, paths: Sequence[str], wanted: Dict[str, str]) -> Any:
    """A `trt.IInt8EntropyCalibrator2` that gives TensorRT one file a batch.

    What goes wrong is kept in its `errors`; TensorRT only sees that there are no more batches.

    Args:
        trt: the `tensorrt` module.
        cuda: the GPU.
        paths: tensor files, each with all inputs.
        wanted: dtype of each input.
    """

    class Calibrator(trt.IInt8EntropyCalibrator2):
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self.errors: List[str] = []
            self._waiting = list(paths)
            self._buffers: Dict[str, Buffer] = {}

        def get_batch_size(self) -> int:
            return 1  # the batch axis is part of the shapes

        def get_batch(self, names: Sequence[str]) -> Optional[List[int]]:
            if not self._waiting:
                return None
            path = self._waiting.pop(0)
            try:
                return self._upload(read_tensor_file(path), names)
            except Exception as error:
                self.errors.append("calibration file {}: {}".format(path, error))
                return None

        def _upload(self, tensors: Dict[str, Tensor], names: Sequence[str]) -> List[int]:
            addresses = []
            for name in names:
                array = dtypes.fit(tensors[name], wanted[name], name)
                buffer = self._buffers.setdefault(name, Buffer(cuda))
                cuda.upload(buffer.reserve(array.nbytes), array)
                addresses.append(buffer.address)
            return addresses

        def read_calibration_cache(self) -> Optional[bytes]:
            return None  # of another set of batches, perhaps

        def write_calibration_cache(self, cache: Any) -> None:
            return

        def close(self) -> None:
            for buffer in self._buffers.values():
                buffer.free()

    return Calibrator()
