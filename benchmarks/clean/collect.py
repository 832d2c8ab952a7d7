"""Where clean models come from: installed packages, the planted-fault benchmark's twins, generators, PyTorch."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.clean import generators, torch_modules
from benchmarks.faults.generate import generate, grid
from benchmarks.faults.planted import Spec
from cases.models.graph import seeded_uniform

ROOT = Path(__file__).parents[2]
TOO_LARGE = ("_phi2lm", "_phi4lm", "_smollm_1", "_smollm_2")
"""Models of onnxscript with half a gigabyte of weights and more."""


@dataclass(frozen=True)
class Clean:
    """A model that FP16 and bfloat16 do not break, as far as whole tensors tell.

    Args:
        source: where it comes from.
        name: what it is called there.
        make: makes the model, or gives the path of its case file.
    """

    source: str
    name: str
    make: Callable[[], onnx.ModelProto | Path]


def bundled() -> Iterator[Clean]:
    """The bundled cases that expect no failure."""
    for path in sorted((ROOT / "cases").glob("*.case.yaml")):
        if "expect: fail" not in path.read_text(encoding="utf-8"):
            yield Clean("bundled cases", path.name.partition(".")[0], lambda path=path: path)  # type: ignore[misc]


def twins(most_nodes: int) -> Iterator[Clean]:
    """The clean twins of the planted-fault benchmark."""
    for spec in grid():
        if not spec.faults and spec.nodes <= most_nodes:
            yield Clean("clean twins", spec.name, lambda spec=spec: _twin(spec))  # type: ignore[misc]


def _twin(spec: Spec) -> onnx.ModelProto:
    return generate(spec).model


def onnx_wheel() -> Iterator[Clean]:
    """Models of the onnx wheel's backend tests: the light ones and PyTorch's, with seeded weights."""
    import onnx.backend.test

    data = Path(onnx.backend.test.__file__).parent / "data"
    light = sorted((data / "light").glob("*.onnx"))
    converted = sorted((data / "pytorch-converted").glob("*/model.onnx"))
    operators = sorted((data / "pytorch-operator").glob("*/model.onnx"))
    for path in (*light, *converted, *operators):
        name = path.stem if path in light else path.parent.name.removeprefix("test_")
        yield Clean("onnx wheel", name, lambda path=path: readable(seeded(onnx.load(path))))  # type: ignore[misc]


def readable(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` in an operator set that the emulator reads."""
    from onnx import version_converter

    old = model.opset_import[0].version < 9
    return version_converter.convert_version(model, 13) if old else model


def seeded(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with weights of seeded values in place of constants; those that are not all alike stay."""
    kept, made = [], {}
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = {name: node.op_type for node in model.graph.node for name in node.input[1:]}
    places = {name: place for node in model.graph.node for place, name in enumerate(node.input)}
    for node in model.graph.node:
        if node.op_type == "ConstantOfShape" and node.input[0] in initializers:
            made[node.output[0]] = numpy_helper.to_array(initializers[node.input[0]])
        else:
            kept.append(node)
    for name, dims in made.items():
        shape = tuple(int(size) for size in dims)
        value = _weight(name, shape, readers.get(name, ""), places.get(name, 1))
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def _weight(name: str, shape: tuple[int, ...], reader: str, place: int) -> np.ndarray:
    fan = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    if len(shape) > 1:
        return seeded_uniform(0, name, shape, (2 / fan) ** 0.5)
    if reader == "BatchNormalization" and place in (1, 4):
        return seeded_uniform(0, name, shape, 0.1, 1.0)
    return seeded_uniform(0, name, shape, 0.1)


def onnxscript_models() -> Iterator[Clean]:
    """The models of onnxscript's rewriter: language models, encoders, rotary embeddings."""
    import onnxscript.rewriter.models as package

    for info in pkgutil.iter_modules(package.__path__):
        if info.name in TOO_LARGE:
            continue
        try:
            module = importlib.import_module(f"{package.__name__}.{info.name}")
        except ImportError:  # of PyTorch, which it has for its own tests
            continue
        for name in sorted(vars(module)):
            made = vars(module)[name]
            if callable(made) and not name.startswith("_") and name.endswith(("_test", "_1", "_2", "_case")):
                yield Clean("onnxscript", f"{info.name}.{name}", lambda made=made: _as_proto(made()))  # type: ignore[misc]


def _as_proto(test: object) -> onnx.ModelProto:
    import onnx_ir as ir

    model = test.get_onnx_model()  # type: ignore[attr-defined]
    return ir.to_proto(model) if isinstance(model, ir.Model) else model


def generated(count: int) -> Iterator[Clean]:
    """Seeded models of this package."""
    for name, make in generators.models(count):
        yield Clean("generators", name, make)


def exported() -> Iterator[Clean]:
    """Modules exported by PyTorch, where it is installed."""
    for name, make in torch_modules.exports():
        yield Clean("torch exports", name, make)
