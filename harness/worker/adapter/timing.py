"""How long an engine takes: the whole of it by CUDA events, its layers by the profiler."""

from typing import Any, Dict

import numpy as np

from ..protocol import Latency
from . import listeners
from .cuda import Cuda
from .execution import Execution

_PROFILED_RUNS = 5


def measure(execution: Execution, cuda: Cuda, *, warmup: int, repeats: int) -> Latency:
    """Median and 99th percentile of `repeats` inferences on the GPU, without copies, in milliseconds.

    The tensors must be bound. The host waits for each one, so that no inference queues behind another.
    """
    for _ in range(warmup):
        execution.enqueue()
    cuda.synchronize()
    start, stop = cuda.event(), cuda.event()
    times = np.empty(repeats)
    try:
        for index in range(repeats):
            cuda.record(start)
            execution.enqueue()
            cuda.record(stop)
            times[index] = cuda.elapsed_ms(start, stop)
    finally:
        cuda.destroy_event(start)
        cuda.destroy_event(stop)
    return Latency(float(np.median(times)), float(np.percentile(times, 99)), repeats)


def measure_layers(trt: Any, execution: Execution, cuda: Cuda) -> Dict[str, float]:
    """Median milliseconds of each engine layer, in a context of its own: a profiler slows what it watches.

    Raises:
        Fault: `out_of_memory`, `cuda_error`.
    """
    profiler = listeners.make_profiler(trt)
    execution.renew()
    execution.context.profiler = profiler
    try:
        for _ in range(_PROFILED_RUNS):
            execution.enqueue()
            cuda.synchronize()
    finally:
        execution.renew()
    return {name: float(np.median(times)) for name, times in profiler.times.items()}
