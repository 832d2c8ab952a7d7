"""Recipes fit the release: no flag that it does not have, and no name that a tool no longer finds."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from engines import FakeEngine
from graphs import graph_model
from models import ISLAND, feeds, rmsnorm
from onnx import helper

from harness.diagnosis import Diagnosis, diagnose_model
from harness.diagnosis.context import ReleaseInUse
from harness.diagnosis.handover import Files, autocast_obstacle, keep_fp32, without_tf32
from harness.model import Model, load_model
from harness.tensors import Precision
from harness.worker.protocol import TENSORRT, TENSORRT_RTX

CONTRACT = json.loads((Path(__file__).parents[1] / "worker" / "contract" / "trt_api.json").read_text())
RELEASES: list[str] = CONTRACT["releases"]
NEEDS = {
    "--fp16": ("BuilderFlag", "FP16"),
    "--precisionConstraints=obey": ("BuilderFlag", "OBEY_PRECISION_CONSTRAINTS"),
    "--stronglyTyped": ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
    "--noTF32": ("BuilderFlag", "TF32"),
}
"""The name of the bindings behind a flag of trtexec."""

FILES = Files("m.onnx", "typed.onnx", "s.py", {"x": ((1, 8), (4, 8), (16, 8))})
SHAPES = ["--minShapes=x:1x8", "--optShapes=x:4x8", "--maxShapes=x:16x8"]


def has(release: str, enum: str, member: str) -> bool:
    ranges = CONTRACT["enums"][enum].get(member, "")
    place = RELEASES.index(release)
    return ranges == "*" or any(
        int(first) <= place <= int(last or first)
        for first, _, last in (each.partition("-") for each in ranges.split())
    )


def in_use(release: str, typing: str | None = None) -> ReleaseInUse:
    rtx = RELEASES.index(release) >= RELEASES.index("1.4.0.76")
    return ReleaseInUse(TENSORRT_RTX if rtx else TENSORRT, release, typing)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("typing", ["weak", "strong", None])
def test_no_recipe_has_a_flag_that_the_release_lacks(release: str, typing: str | None) -> None:
    used = in_use(release, typing)
    model = rmsnorm()
    recipes = keep_fp32(model, Precision.FP16, ISLAND, FILES, release=used)
    recipes |= {f"tf32 {tool}": text for tool, text in without_tf32(FILES, used).items()}  # type: ignore[misc]
    flags = [word for text in recipes.values() for word in shlex.split(text) if word in NEEDS]
    assert all(has(release, *NEEDS[flag]) for flag in flags), (release, flags)
    if used.rtx:
        assert not flags  # 1.4 has their names, and refuses to build with them
        assert not any("trtexec" in text or "polygraphy" in text for text in recipes.values())


@pytest.mark.parametrize(
    ("release", "typing", "first"),
    [
        ("8.6.0", "weak", "trtexec --onnx=m.onnx"),
        ("10.9.0.34", "weak", "trtexec --onnx=m.onnx"),
        ("10.9.0.34", "strong", "trtexec --onnx=typed.onnx"),
        ("11.4.0.106", "strong", "trtexec --onnx=typed.onnx"),
        ("11.4.0.106", None, "trtexec --onnx=typed.onnx"),
        ("1.4.0.76", "strong", "tensorrt_rtx --onnx=typed.onnx"),
        ("1.6.1.120", None, "tensorrt_rtx --onnx=typed.onnx"),
    ],
)
def test_the_first_recipe_fits_the_typing(release: str, typing: str | None, first: str) -> None:
    recipes = keep_fp32(rmsnorm(), Precision.FP16, ISLAND, FILES, release=in_use(release, typing))
    (command, *_) = recipes.values()
    assert command.startswith(first)
    assert [word for word in shlex.split(command) if "Shapes" in word] == SHAPES


def test_a_release_without_strong_typing_gets_no_typed_model() -> None:
    recipes = keep_fp32(rmsnorm(), Precision.FP16, ISLAND, FILES, release=in_use("8.6.0", "weak"))
    assert set(recipes) == {"trtexec", "polygraphy", "autocast"}


def test_without_a_release_the_typed_model_comes_first_and_flags_are_the_other_way(tmp_path: Path) -> None:
    model = rmsnorm(scale=600.0)
    diagnosis = diagnose_model(model, feeds(model), Precision.FP16, out=tmp_path)
    typed, flags, *_ = diagnosis.advice
    assert shlex.split(typed) == ["trtexec", f"--onnx={tmp_path / 'typed.onnx'}", "--stronglyTyped"]
    assert "--precisionConstraints=obey" in flags


def diagnosed_on_rtx(out: Path | None) -> Diagnosis:
    model = rmsnorm(scale=600.0)
    engine = FakeEngine(
        model,
        "b1_up",
        lambda build: False,
        product=TENSORRT_RTX,
        release="1.6.1.120",
        typing="strong",
    )
    return diagnose_model(model, feeds(model), Precision.FP16, candidate=engine, out=out)


def test_an_engine_of_tensorrt_for_rtx_is_built_from_the_typed_model(tmp_path: Path) -> None:
    diagnosis = diagnosed_on_rtx(tmp_path)
    assert diagnosis.culprits == ISLAND
    command, change = diagnosis.advice
    assert command == f"tensorrt_rtx --onnx={tmp_path / 'typed.onnx'}"
    assert change.startswith("export the norm at b1_sq as RMSNormalization")
    assert set(diagnosis.recipes) == {"tensorrt_rtx", "autocast", "layer_list", "typed_model"}


def test_without_a_folder_it_says_where_its_recipes_come_from() -> None:
    diagnosis = diagnosed_on_rtx(None)
    assert not diagnosis.recipes.keys() & {"trtexec", "polygraphy"}
    assert diagnosis.advice[-1].startswith("for more recipes, a typed model and a repro: harness diagnose")


@pytest.mark.parametrize("release", ["1.5.0.114", "1.6.1.120", "1.7.1.116"])
def test_tensorrt_for_rtx_leaves_tf32_by_a_variable_of_the_process(release: str) -> None:
    (command,) = without_tf32(FILES, in_use(release)).values()
    assert command == f"NVIDIA_TF32_OVERRIDE=0 tensorrt_rtx --onnx=m.onnx {' '.join(SHAPES)}"


def test_where_tf32_cannot_be_turned_off_no_command_says_so() -> None:
    assert without_tf32(FILES, in_use("1.4.0.76")) == {}


def written_out_norm(opset: int = 17) -> Model:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], name="mean", axes=[-1]),
        helper.make_node("Sub", ["x", "mean"], ["apart"], name="apart"),
        helper.make_node("Pow", ["apart", "two"], ["square"], name="square"),
        helper.make_node("ReduceMean", ["square"], ["variance"], name="variance", axes=[-1]),
        helper.make_node("Add", ["variance", "eps"], ["shifted"], name="shifted"),
        helper.make_node("Sqrt", ["shifted"], ["deviation"], name="deviation"),
        helper.make_node("Div", ["apart", "deviation"], ["normal"], name="normal"),
        helper.make_node("Mul", ["normal", "gain"], ["scaled"], name="scaled"),
        helper.make_node("Exp", ["scaled"], ["y"], name="exp"),
    ]
    weights = {"two": np.float32(2), "eps": np.float32(1e-5), "gain": np.ones(8, np.float32)}
    proto = graph_model(nodes, inputs={"x": [4, 8]}, outputs={"y": [4, 8]}, weights=weights)
    proto.opset_import[0].version = opset
    return load_model(proto)


def test_autocast_keeps_the_types_of_inputs_and_outputs() -> None:
    words = shlex.split(keep_fp32(rmsnorm(), Precision.FP16, ISLAND, FILES)["autocast"])
    assert "--keep_io_types" in words[: words.index("--nodes_to_exclude")]


@pytest.mark.parametrize("node", ["mean", "apart", "square", "deviation", "normal", "scaled"])
def test_autocast_is_not_offered_for_nodes_that_it_replaces_first(node: str) -> None:
    model = written_out_norm()
    assert "LayerNormalization" in autocast_obstacle(model, Precision.FP16, [node])
    assert "autocast" not in keep_fp32(model, Precision.FP16, [node], FILES)
    assert autocast_obstacle(model, Precision.FP16, ["exp"]) == ""


def test_autocast_is_not_offered_where_the_opset_changes_what_a_node_is() -> None:
    model = written_out_norm(opset=11)
    found = autocast_obstacle(model, Precision.FP16, ["exp"])
    assert re.search(r"from opset 11 to 13, where 1 node \(exp\)", found)


def test_the_evidence_says_that_autocast_does_not_apply() -> None:
    model = written_out_norm()
    sample = [{"x": np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32) * 3e3}]
    diagnosis = diagnose_model(model, sample, Precision.FP16)
    assert "square" in diagnosis.culprits
    assert "autocast" not in diagnosis.recipes
    assert any(each.text.startswith("AutoCast does not apply: ") for each in diagnosis.evidence)
