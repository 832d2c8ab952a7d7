"""The real adapter in a real worker, on the double of the TensorRT release in the variable RELEASE.

NOISE     how far measured times of tactics are off, as a share
SEED      of that noise
WRONG     LAYER=TACTIC: an engine whose layer has this tactic computes nonsense; LAYER=TACTIC@HALF: if it
          writes this type
TF32      products of FP32 are computed in TF32 where nothing turns it off
CRASH     the worker dies where it makes an execution context with compiled kernels from a file
DEAF      a layer that does not take what is forced
FALLBACK  every layer stays in FP32
FAIL      what the builder says when it builds nothing
GPU       `none`, or why the GPU takes no engine: UNSUPPORTED_CC
"""

import ctypes
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "contract"))

import trt_double
from cuda_double import CudaDouble
from harness_worker.adapter import Adapter
from harness_worker.adapter.runtime import Cuda


def create_adapter(log):
    trt = trt_double.make(os.environ["RELEASE"])
    world = trt._world
    world.memory = gpu = CudaDouble()
    world.noise = float(os.environ.get("NOISE", "0"))
    world.random.seed(int(os.environ.get("SEED", "0")))
    world.deaf = set(filter(None, [os.environ.get("DEAF")]))
    world.tf32 = "TF32" in os.environ
    world.starts_nothing = "STARTS_NOTHING" in os.environ
    if "CRASH" in os.environ:
        world.compile_kernels = lambda plan, cache: cache._kernels and ctypes.string_at(0)
    name, _, rest = os.environ.get("WRONG", "").partition("=")
    tactic, _, dtype = rest.partition("@")
    world.wrong = lambda layer: (
        layer.name == name and layer.tactic_id == int(tactic) and dtype in ("", layer.outputs[0][1])
    )
    world.fallback = "FALLBACK" in os.environ
    if "FAIL" in os.environ:
        world.break_build = lambda network: os.environ["FAIL"]
    kind = os.environ.get("GPU")
    if kind == "none":
        world.gpu, gpu.absent = False, 100
    else:
        world.refuses = kind
    return Adapter(trt, log, Cuda(gpu))
