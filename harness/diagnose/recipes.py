"""How to keep nodes in FP32, by tool: ready to paste."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from harness.model import Model
from harness.tensors.precision import Precision

WEAK_FLAGS = {
    Precision.FP16: "--fp16",
    Precision.BF16: "--bf16",
    Precision.TF32: "",
    Precision.INT8: "--int8",
}
UNSPEAKABLE = re.compile(r"[,:+]")
ISLANDS_SCHEMA = "harness.islands/1"


@dataclass(frozen=True)
class Files:
    """The files that the commands name, as a person would write them.

    Args:
        model: the ONNX model as it is.
        typed: the model with the precision and its islands written in; None if there is none.
        script: the script that polygraphy calls.
    """

    model: str
    typed: str | None = None
    script: str = "keep_fp32.py"


def without_tf32(files: Files) -> dict[str, str]:
    """A command for each tool that builds in FP32 without TF32."""
    return {
        "trtexec": shlex.join(["trtexec", f"--onnx={files.model}", "--noTF32"]),
        "polygraphy": shlex.join(
            ["polygraphy", "convert", files.model, "--convert-to", "trt", "-o", "model.plan"]
        ),
    }


def keep_fp32(
    model: Model, precision: Precision, island: Sequence[str], files: Files, *, constraints: str = "obey"
) -> dict[str, str]:
    """A command for each tool that keeps `island` in FP32; tools that cannot are left out.

    Args:
        model: the model as it is.
        precision: of all other nodes.
        island: names of the nodes.
        files: what the commands name.
        constraints: `obey`, or `prefer` where TensorRT refuses to obey.
    """
    recipes: dict[str, str] = {}
    flag = WEAK_FLAGS.get(precision)
    if flag and island:
        if not any(UNSPEAKABLE.search(name) for name in island):
            recipes["trtexec"] = _trtexec(model, flag, island, files.model, constraints)
        recipes["polygraphy"] = _polygraphy(flag, island, files, constraints)
    if files.typed is not None:
        recipes["trtexec_strongly_typed"] = f"trtexec --onnx={shlex.quote(files.typed)} --stronglyTyped"
    if precision in (Precision.FP16, Precision.BF16) and island:
        recipes["autocast"] = _autocast(precision, island, files.model)
    return recipes


def _trtexec(model: Model, flag: str, island: Sequence[str], path: str, constraints: str) -> str:
    precisions = ",".join(f"{name}:fp32" for name in island)
    types = ",".join(f"{name}:{'+'.join(['fp32'] * _float_outputs(model, name))}" for name in island)
    arguments = [
        "trtexec",
        f"--onnx={path}",
        flag,
        f"--precisionConstraints={constraints}",
        f"--layerPrecisions={precisions}",
        f"--layerOutputTypes={types}",
    ]
    return shlex.join(arguments)


def _float_outputs(model: Model, name: str) -> int:
    return max(1, sum(model.dtypes.get(output) == "float32" for output in model.node(name).outputs))


def _polygraphy(flag: str, island: Sequence[str], files: Files, constraints: str) -> str:
    arguments = ["polygraphy", "convert", files.model, "--convert-to", "trt", flag]
    arguments += ["--precision-constraints", constraints, "-o", "model.plan"]
    # polygraphy has no argument for the types of layer outputs: without them an island may still hand on FP16.
    arguments += ["--trt-network-postprocess-script", files.script]
    arguments += ["--layer-precisions", *(f"{name}:float32" for name in island)]
    return shlex.join(arguments)


def _autocast(precision: Precision, island: Sequence[str], path: str) -> str:
    arguments = ["python", "-m", "modelopt.onnx.autocast", "--onnx_path", path]
    arguments += ["--low_precision_type", precision.value]
    arguments += ["--nodes_to_exclude", *(f"^{re.escape(name)}$" for name in island)]
    return shlex.join(arguments)


def polygraphy_script(island: Sequence[str]) -> str:
    """A script for polygraphy's `--trt-network-postprocess-script`: precision and output types of the island."""
    names = "".join(f"    {name!r},\n" for name in island)
    return f'''"""Keep the layers of these ONNX nodes in FP32. For polygraphy's --trt-network-postprocess-script."""

import tensorrt as trt

NODES = {{
{names}}}


def postprocess(network):
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        metadata = getattr(layer, "metadata", "") or ""
        if layer.name not in NODES and not any("[ONNX Layer: {{}}]".format(node) in metadata for node in NODES):
            continue
        floats = (trt.float32, trt.float16)
        outputs = [number for number in range(layer.num_outputs) if layer.get_output(number).dtype in floats]
        if outputs:
            layer.precision = trt.float32
        for number in outputs:
            layer.set_output_type(number, trt.float32)
'''


def layer_list(
    model: Model, precision: Precision, island: Sequence[str], engine_layers: dict[str, tuple[str, ...]]
) -> dict[str, Any]:
    """The island as data: each node with its operator, its tensors, and the engine layers that compute it."""
    return {
        "schema": ISLANDS_SCHEMA,
        "model_sha256": model.sha256,
        "precision": precision.value,
        "fp32": [
            {
                "node": name,
                "op": model.node(name).op,
                "outputs": list(model.node(name).outputs),
                "engine_layers": list(engine_layers.get(name, ())),
            }
            for name in island
        ],
    }


def own_file(model: Model, island: Sequence[str]) -> Path | None:
    """The model's own file, if it knows the nodes of `island` by the names that they have here.

    Nodes without a name get one when a model is loaded; in its file no tool would find them.
    """
    if model.path is None:
        return None
    known = {node.name for node in onnx.load(model.path, load_external_data=False).graph.node}
    return model.path if known.issuperset(island) else None
