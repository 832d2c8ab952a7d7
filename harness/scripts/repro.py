"""Show a numerical fault by itself: a small ONNX model, the reference's own tensors at its inputs, and this script.

    python repro.py               # ONNX Runtime: FP32 beside an emulation of the precision
    python repro.py --tensorrt    # an engine beside the FP32 tensors that are stored here

Needs numpy, and onnxruntime or tensorrt. Ends with 1 if the fault shows, 0 if it does not, 2 if it cannot run.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import pathlib
import sys
from typing import Any, Mapping, Sequence

import numpy as np

Arrays = Mapping[str, Any]
"""Arrays by tensor name; None for one that could not be computed."""

HERE = pathlib.Path(__file__).resolve().parent


def main() -> int:
    """Do what was asked for and return the exit status; an error is one line, and never 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tensorrt", action="store_true", help="build and run a TensorRT engine")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON, nothing else")
    arguments = parser.parse_args()
    try:
        return show(arguments)
    except Exception as error:  # 1 is kept for a fault that shows
        lines = str(error).strip().splitlines() or [type(error).__name__]
        print(f"cannot run: {lines[0]}", file=sys.stderr)
        return 2


def show(arguments: argparse.Namespace) -> int:
    """Run both sides, print what differs, and return 1 if the fault shows, 0 if it does not."""
    about = json.loads((HERE / "repro.json").read_text(encoding="utf-8"))
    inputs = load("inputs.npz", about["inputs"])
    expected = load("expected.npz", about["outputs"])
    if arguments.tensorrt:
        actual = run_tensorrt(about, inputs, list(expected))
    elif about["emulated"]:
        expected = run_onnxruntime("model.onnx", inputs, list(expected))
        actual = run_onnxruntime("emulated.onnx", inputs, list(expected), may_fail=True)
    else:
        raise RuntimeError("this fault shows on an engine only: use --tensorrt")
    rows = {name: measure(actual[name], expected[name]) for name in expected}
    limits = about["limits"]
    shows = any(row["nonfinite"] or not row["nrmse"] <= limits[name] for name, row in rows.items())
    if arguments.json:
        print(json.dumps({"shows": shows, "outputs": {name: spell(row) for name, row in rows.items()}}))
        return int(shows)
    print("{}: {}".format(about["case"], about["what"]))
    for name, row in rows.items():
        if "shape" in row:
            print(f"  {name}: {row['shape']}")
            continue
        print("  {}: {nonfinite} of {count} elements not finite".format(name, **row))
        numbers = "nrmse {nrmse:.3g}, largest error {max_abs:.3g}".format(**row)
        print(f"    over the others: {numbers}; limit: nrmse {limits[name]:.3g}")
    print("THE FAULT SHOWS" if shows else "the fault does not show")
    return int(shows)


def load(file: str, names: Sequence[str]) -> Arrays:
    """Arrays by tensor name; the file numbers them, because names may hold anything."""
    with np.load(str(HERE / file), allow_pickle=False) as arrays:
        return {name: arrays[f"t{number}"] for number, name in enumerate(names)}


def measure(actual: Any, expected: Any) -> dict[str, Any]:
    """How far `actual` is from `expected`, over the elements where both are finite."""
    if actual is None or actual.shape != expected.shape:
        text = "not computed" if actual is None else f"shape {actual.shape} instead of {expected.shape}"
        infinite = float("inf")
        return {
            "count": int(expected.size),
            "nonfinite": 0,
            "nrmse": infinite,
            "max_abs": infinite,
            "shape": text,
        }
    actual, expected = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    finite = np.isfinite(actual) & np.isfinite(expected)
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    nonfinite = int(np.sum(~finite & ~same))
    difference = actual[finite] - expected[finite]
    scale = float(np.sqrt(np.mean(expected[np.isfinite(expected)] ** 2))) if finite.any() else 0.0
    rmse = float(np.sqrt(np.mean(difference**2))) if finite.any() else 0.0
    nrmse = rmse / scale if scale else (0.0 if not rmse else float("inf"))
    largest = float(np.max(np.abs(difference))) if finite.any() else 0.0
    return {"count": int(actual.size), "nonfinite": nonfinite, "nrmse": nrmse, "max_abs": largest}


def spell(row: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a row as JSON can hold them."""
    return {
        key: value if isinstance(value, str) or np.isfinite(value) else str(value)
        for key, value in row.items()
    }


def run_onnxruntime(file: str, inputs: Arrays, outputs: Sequence[str], may_fail: bool = False) -> Arrays:
    """Run a model on ONNX Runtime's CPU provider, without optimizations that would fold its casts away.

    With `may_fail`, a node that fails leaves None for every output.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(HERE / file), options, providers=["CPUExecutionProvider"])
    takes = {value.name for value in session.get_inputs()}
    try:
        # Copies: BatchNormalization in training mode overwrites statistics that it is fed.
        values = session.run(None, {name: array.copy() for name, array in inputs.items() if name in takes})
    except Exception as error:  # ONNX Runtime has a class of its own for each kind of failure
        if not may_fail:
            raise
        print(f"{file} fails: {error}", file=sys.stderr)
        return dict.fromkeys(outputs)
    # Outputs stand in the order of the model; an emulation may have had to rename them.
    return dict(zip(outputs, values))  # noqa: B905 - this script runs on Python 3.8, too


def run_tensorrt(about: Mapping[str, Any], inputs: Arrays, outputs: Sequence[str]) -> Arrays:
    """Build an engine of the model at the precision, and run it."""
    import tensorrt

    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    flag = {"fp16": "FP16", "bf16": "BF16", "tf32": "TF32"}.get(about["precision"])
    weak = flag is None or hasattr(tensorrt.BuilderFlag, flag)
    flags = tensorrt.NetworkDefinitionCreationFlag
    kinds = [] if not hasattr(flags, "EXPLICIT_BATCH") else [flags.EXPLICIT_BATCH]
    if not weak and hasattr(flags, "STRONGLY_TYPED"):
        kinds = [flags.STRONGLY_TYPED]
    network = builder.create_network(sum(1 << int(kind) for kind in kinds))
    network_parser = tensorrt.OnnxParser(network, logger)
    file = HERE / ("model.onnx" if weak else "typed.onnx")
    if not network_parser.parse(file.read_bytes()):
        raise RuntimeError(f"TensorRT does not parse {file.name}: {network_parser.get_error(0)}")
    config = builder.create_builder_config()
    if weak and hasattr(tensorrt.BuilderFlag, "TF32") and about["precision"] != "tf32":
        config.clear_flag(tensorrt.BuilderFlag.TF32)
    if weak and flag is not None:
        config.set_flag(getattr(tensorrt.BuilderFlag, flag))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError("TensorRT built no engine")
    engine = tensorrt.Runtime(logger).deserialize_cuda_engine(plan)
    return infer(tensorrt, engine, inputs, outputs)


def infer(tensorrt: Any, engine: Any, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
    """One inference; memory is handled through the CUDA runtime that TensorRT has loaded."""
    cuda = cuda_runtime()
    context = engine.create_execution_context()
    buffers, pointers = {}, []
    for name in [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]:
        if name in inputs:
            dtype = tensorrt.nptype(engine.get_tensor_dtype(name))
            buffers[name] = np.ascontiguousarray(inputs[name], dtype=dtype)
            context.set_input_shape(name, buffers[name].shape)
    for name in outputs:
        shape = tuple(context.get_tensor_shape(name))
        buffers[name] = np.zeros(shape, dtype=tensorrt.nptype(engine.get_tensor_dtype(name)))
    for name, array in buffers.items():
        pointer = ctypes.c_void_p()
        check(cuda.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(max(array.nbytes, 1))))
        check(
            cuda.cudaMemcpy(pointer, array.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(array.nbytes), 1)
        )
        context.set_tensor_address(name, pointer.value)
        pointers.append((name, pointer))
    context.execute_async_v3(0)
    check(cuda.cudaDeviceSynchronize())
    for name, pointer in pointers:
        array = buffers[name]
        check(
            cuda.cudaMemcpy(array.ctypes.data_as(ctypes.c_void_p), pointer, ctypes.c_size_t(array.nbytes), 2)
        )
        check(cuda.cudaFree(pointer))
    return {name: buffers[name] for name in outputs}


def cuda_runtime() -> ctypes.CDLL:
    """The CUDA runtime: the one that is loaded already, beside TensorRT, or where it is usually installed."""
    maps = pathlib.Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    names = [line.split()[-1] for line in lines if "libcudart" in line]
    for folder in [*sys.path, "/usr/local/cuda"]:
        for pattern in ("nvidia/*/lib/libcudart.so*", "lib64/libcudart.so*"):
            names += sorted(str(path) for path in pathlib.Path(folder or ".").glob(pattern))
    for name in [*names, "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so"]:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise RuntimeError("no CUDA runtime is installed here")


def check(status: int) -> None:
    """Stop at an error of the CUDA runtime."""
    if status:
        raise RuntimeError(f"CUDA runtime error {status}")


if __name__ == "__main__":
    sys.exit(main())
