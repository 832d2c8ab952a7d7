"""How to keep nodes in FP32, by tool: ready to paste, the one that fits the release first.

Where typing is strong, the graph says the precision: a typed model, and a command without a flag. Where it is weak,
the flags of trtexec and polygraphy do. Without a release, as on the emulator, the typed model comes first.

trtexec and polygraphy go by the names of layers. TensorRT's parser names a layer after its node, and there is none of
an If, Loop or Scan: it names what is in their bodies. So these two get the nodes in the bodies, and AutoCast, which
leaves out nodes of the ONNX graph with all that they hold, the node itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from harness.diagnosis.context import NO_TF32, ReleaseInUse
from harness.diagnosis.handover.autocast import autocast, autocast_obstacle
from harness.diagnosis.results import Recipe
from harness.model import Model, inner_nodes, named_nodes
from harness.tensors import Precision
from harness.text import command
from harness.worker.protocol import Profile

WEAK_FLAGS = {
    Precision.FP16: "--fp16",
    Precision.BF16: "--bf16",
    Precision.TF32: "",
    Precision.INT8: "--int8",
}
NOT_FOR_TRTEXEC = re.compile(r"[,'*]")  # what trtexec takes for its own in names of layers and inputs
ISLANDS_SCHEMA = "harness.islands/1"


@dataclass(frozen=True)
class Files:
    """The files that the commands name, as a person would write them.

    Args:
        model: the ONNX model as it is; None if there is no such file, and so no command that names it.
        typed: the model with the precision and its islands written in; likewise.
        script: the script that polygraphy calls; likewise.
        shapes: (minimum, optimum, maximum) shape of each input with a dynamic axis, as the engine was built for.
    """

    model: str | None
    typed: str | None = None
    script: str | None = None
    shapes: Mapping[str, Profile] = field(default_factory=dict)

    @property
    def for_trtexec(self) -> list[str]:
        """The arguments that give trtexec the shapes."""
        return [
            f"--{which}Shapes="
            + ",".join(
                f"{_to_trtexec(name)}:{'x'.join(map(str, shapes[place]))}"
                for name, shapes in self.shapes.items()
            )
            for place, which in enumerate(("min", "opt", "max") if self.shapes else ())
        ]

    @property
    def for_polygraphy(self) -> list[str]:
        """The arguments that give polygraphy the shapes."""
        words = []
        for place, which in enumerate(("min", "opt", "max") if self.shapes else ()):
            words.append(f"--trt-{which}-shapes")
            words += [f"{name}:[{','.join(map(str, shapes[place]))}]" for name, shapes in self.shapes.items()]
        return words


def without_tf32(files: Files, release: ReleaseInUse = ReleaseInUse()) -> dict[Recipe, str]:
    """A command for each tool that builds in FP32 without TF32; none where the release cannot do without."""
    spellable = not any(map(NOT_FOR_TRTEXEC.search, files.shapes))
    if files.model is None or not release.obeys_no_tf32:
        return {}
    if release.rtx:
        words = ["tensorrt_rtx", f"--onnx={files.model}", *files.for_trtexec]
        return {Recipe.TENSORRT_RTX: f"{NO_TF32} {command(*words)}"} if spellable else {}
    polygraphy = ["polygraphy", "convert", files.model, "--convert-to", "trt", "-o", "model.plan"]
    recipes = {Recipe.POLYGRAPHY: command(*polygraphy, *files.for_polygraphy)}
    if spellable:
        trtexec = ["trtexec", f"--onnx={files.model}", *files.for_trtexec, "--noTF32"]
        recipes = {Recipe.TRTEXEC: command(*trtexec), **recipes}
    return recipes


def keep_fp32(
    model: Model,
    precision: Precision,
    island: Sequence[str],
    files: Files,
    *,
    release: ReleaseInUse = ReleaseInUse(),
    constraints: str = "obey",
) -> dict[Recipe, str]:
    """A command for each tool that keeps `island` in FP32, what fits `release` best first; tools that cannot are left
    out. `constraints` are `obey`, or `prefer` where TensorRT refuses to obey."""
    typed = typed_commands(files, release)
    flags = {} if release.strong else _flags(model, precision, island, files, constraints)
    recipes = {**typed, **flags} if release.strong or release.version is None else {**flags, **typed}
    castable = precision in (Precision.FP16, Precision.BF16) and bool(island)
    if castable and files.model is not None and not autocast_obstacle(model, precision, island):
        recipes[Recipe.AUTOCAST] = autocast(precision, island, files.model)
    return recipes


def typed_commands(files: Files, release: ReleaseInUse) -> dict[Recipe, str]:
    """The command that builds from the typed model."""
    unspellable = any(map(NOT_FOR_TRTEXEC.search, files.shapes))
    if files.typed is None or unspellable or not release.takes_typed:
        return {}
    arguments = [f"--onnx={files.typed}", *files.for_trtexec]
    if release.rtx:
        return {Recipe.TENSORRT_RTX: command("tensorrt_rtx", *arguments)}
    known_to_be_strong = release.version is not None and release.numbers >= (11,)
    asked = [] if known_to_be_strong else ["--stronglyTyped"]
    return {Recipe.STRONGLY_TYPED: command("trtexec", *arguments, *asked)}


def _flags(
    model: Model, precision: Precision, island: Sequence[str], files: Files, constraints: str
) -> dict[Recipe, str]:
    """The commands that say the precision of each layer by flags."""
    recipes: dict[Recipe, str] = {}
    flag = WEAK_FLAGS.get(precision)
    layers = layers_of(model, island)
    if not flag or not layers or files.model is None:
        return recipes
    if not any(map(NOT_FOR_TRTEXEC.search, (*files.shapes, *layers))):
        recipes[Recipe.TRTEXEC] = _trtexec(flag, layers, files, constraints)
    if files.script is not None and not any(name.startswith("-") for name in layers):
        recipes[Recipe.POLYGRAPHY] = _polygraphy(flag, list(layers), files, constraints)
    return recipes


def layers_of(model: Model, island: Sequence[str]) -> dict[str, int]:
    """By the name of each layer that TensorRT makes of `island`, how many float tensors it writes.

    Of a node with bodies it makes the layers of what is in them.
    """
    found: dict[str, int] = {}
    for name in island:
        inside = inner_nodes(model, name)
        if inside:
            found |= {node.name: len(node.outputs) for node in inside}
        else:
            floats = sum(model.dtypes.get(output) == "float32" for output in model.node(name).outputs)
            found[name] = max(1, floats)
    return found


def _trtexec(flag: str, layers: Mapping[str, int], files: Files, constraints: str) -> str:
    precisions = ",".join(f"{_to_trtexec(name)}:fp32" for name in layers)
    types = ",".join(
        f"{_to_trtexec(name)}:{'+'.join(['fp32'] * outputs)}" for name, outputs in layers.items()
    )
    arguments = [
        "trtexec",
        f"--onnx={files.model}",
        *files.for_trtexec,
        flag,
        f"--precisionConstraints={constraints}",
        f"--layerPrecisions={precisions}",
        f"--layerOutputTypes={types}",
    ]
    return command(*arguments)


def _to_trtexec(name: str) -> str:
    """`name` as `trtexec --help` wants it: what has a colon, as `Input:0` has, stands in single quotes of its own."""
    return f"'{name}'" if ":" in name else name


def _polygraphy(flag: str, layers: Sequence[str], files: Files, constraints: str) -> str:
    assert files.model is not None
    assert files.script is not None
    arguments = ["polygraphy", "convert", files.model, "--convert-to", "trt", flag, *files.for_polygraphy]
    arguments += ["--precision-constraints", constraints, "-o", "model.plan"]
    # polygraphy has no argument for the types of layer outputs: without them an island may still hand on FP16.
    arguments += ["--trt-network-postprocess-script", files.script]
    arguments += ["--layer-precisions", *(f"{name}:float32" for name in layers)]
    return command(*arguments)


def polygraphy_script(layers: Iterable[str]) -> str:
    """A script for polygraphy's `--trt-network-postprocess-script`: precision and output types of `layers`, which are
    named after ONNX nodes."""
    names = "".join(f"    {name!r},\n" for name in layers)
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
    model: Model,
    precision: Precision,
    island: Sequence[str],
    engine_layers: Mapping[str, tuple[str, ...]],
    fp32_sums: Sequence[str] = (),
) -> dict[str, Any]:
    """The island as data: each node with its operator, its tensors, the nodes in its bodies that compute floats, and
    the engine layers that compute it."""
    return {
        "schema": ISLANDS_SCHEMA,
        "model_sha256": model.sha256,
        "precision": precision.value,
        "fp32": [
            {
                "node": name,
                "op": model.node(name).op,
                "outputs": list(model.node(name).outputs),
                "inside": [node.name for node in inner_nodes(model, name)],
                "engine_layers": list(engine_layers.get(name, ())),
            }
            for name in island
        ],
        **({"fp32_sums": list(fp32_sums)} if fp32_sums else {}),
    }


def own_file(model: Model, island: Sequence[str]) -> Path | None:
    """The model's own file, if it knows the nodes of `island` by the names that they have here.

    Nodes without a name get one when a model is loaded; in its file no tool would find them.
    """
    if model.path is None:
        return None
    known = model.named
    if known is None:
        known = named_nodes(onnx.load(model.path, load_external_data=False))
    return model.path if known.issuperset([*island, *layers_of(model, island)]) else None
