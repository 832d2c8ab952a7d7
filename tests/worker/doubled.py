"""The real adapter in a real worker, on the double of the TensorRT release in the variable RELEASE."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "contract"))

import trt_double
from cuda_double import CudaDouble
from harness_worker.adapter import Adapter
from harness_worker.adapter.cuda import Cuda


def create_adapter(log):
    trt = trt_double.make(os.environ["RELEASE"])
    gpu = CudaDouble()
    trt._world.memory = gpu
    return Adapter(trt, log, Cuda(gpu))
