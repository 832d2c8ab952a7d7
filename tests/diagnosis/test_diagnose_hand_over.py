"""What is handed over: recipes that tools accept, a typed model that runs, a repro that fails by itself."""

from __future__ import annotations

import argparse
import html
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from engines import Build, FakeEngine, when_fused, when_lowered
from graphs import graph_model
from models import ISLAND, feeds, rmsnorm
from onnx import TensorProto, helper, numpy_helper

from harness.case import Tolerance
from harness.diagnosis import Diagnosis, DiagnosisOptions, DiagnosisVerdict, Subject, diagnose_model
from harness.diagnosis.api import investigate
from harness.diagnosis.context import Context, GraphPart, cut, make_bench
from harness.diagnosis.handover import (
    Files,
    ReproInfo,
    ReproRun,
    emulated_model,
    fails_emulated,
    holds,
    keep_fp32,
    own_file,
    polygraphy_script,
    repro_under_way,
    shrink,
)
from harness.diagnosis.results import ReproOutput
from harness.errors import CandidateError
from harness.model import Model, load_model, round_array, save_model, with_islands
from harness.tensors import Precision


def never(build: Build) -> bool:
    return False


repro_module = sys.modules["harness.diagnosis.handover.repro"]


@pytest.fixture(scope="module")
def handed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Diagnosis, Path]:
    out = tmp_path_factory.mktemp("diagnosis") / "out"
    model = rmsnorm(scale=600.0)
    return diagnose_model(model, feeds(model), Precision.FP16, out=out), out


def test_every_recipe_names_all_culprits(handed: tuple[Diagnosis, Path]) -> None:
    diagnosis, out = handed
    assert set(diagnosis.recipes) == {
        *("trtexec", "polygraphy", "trtexec_strongly_typed", "autocast", "layer_list", "typed_model")
    }
    for tool in ("trtexec", "polygraphy", "autocast"):
        for node in ISLAND:
            assert node in diagnosis.recipes[tool]
    listed = json.loads((out / "layers.json").read_text())
    assert [row["node"] for row in listed["fp32"]] == list(ISLAND)
    assert listed["schema"] == "harness.islands/1"
    assert listed["precision"] == "fp16"


def test_trtexec_gets_precisions_types_and_their_constraint(handed: tuple[Diagnosis, Path]) -> None:
    arguments = shlex.split(handed[0].recipes["trtexec"])
    assert arguments[0] == "trtexec"
    assert Path(arguments[1].removeprefix("--onnx=")).is_file()
    assert "--fp16" in arguments
    assert "--precisionConstraints=obey" in arguments
    names = ",".join(f"{node}:fp32" for node in ISLAND)
    assert f"--layerPrecisions={names}" in arguments
    assert f"--layerOutputTypes={names}" in arguments


def test_polygraphy_accepts_its_recipe(handed: tuple[Diagnosis, Path]) -> None:
    from polygraphy.tools.registry import TOOL_REGISTRY

    arguments = shlex.split(handed[0].recipes["polygraphy"])
    assert arguments[:2] == ["polygraphy", "convert"]
    tool = next(tool for tool in TOOL_REGISTRY if tool.name == "convert")
    parser = argparse.ArgumentParser()
    tool.setup_parser(parser.add_subparsers())
    parsed = parser.parse_args(arguments[1:])
    assert parsed.layer_precisions == [f"{node}:float32" for node in ISLAND]
    assert parsed.precision_constraints == "obey"
    assert parsed.fp16
    script = Path(parsed.trt_network_postprocess_script[0])
    compile(script.read_text(), str(script), "exec")


def test_the_script_for_polygraphy_pins_the_layers_of_the_nodes() -> None:
    class Tensor:
        def __init__(self, dtype: str) -> None:
            self.dtype = dtype

    class Layer:
        def __init__(self, name: str, metadata: str, *dtypes: str) -> None:
            self.name, self.metadata, self.dtypes = name, metadata, dtypes
            self.num_outputs = len(dtypes)
            self.types: dict[int, str] = {}
            self.precision = ""

        def get_output(self, number: int) -> Tensor:
            return Tensor(self.dtypes[number])

        def set_output_type(self, number: int, dtype: str) -> None:
            self.types[number] = dtype

    layers = [
        Layer("sq", "", "f32"),
        Layer("(Unnamed Layer* 3) [Shuffle]", "[ONNX Layer: sq]", "f32"),
        Layer("sqrt", "[ONNX Layer: sqrt]", "f32"),
        Layer("top", "[ONNX Layer: sq]", "f16", "i32"),
        Layer("shape", "[ONNX Layer: sq]", "i32"),
    ]

    class Network:
        num_layers = len(layers)

        def get_layer(self, index: int) -> Layer:
            return layers[index]

    trt = type(sys)("tensorrt")
    trt.float32, trt.float16 = "f32", "f16"  # type: ignore[attr-defined]
    names: dict[str, object] = {}
    sys.modules["tensorrt"], before = trt, sys.modules.get("tensorrt")
    try:
        exec(polygraphy_script(["sq"]), names)
        names["postprocess"](Network())  # type: ignore[operator]
    finally:
        sys.modules.pop("tensorrt")
        if before is not None:
            sys.modules["tensorrt"] = before
    assert [(layer.precision, layer.types) for layer in layers] == [
        *(("f32", {0: "f32"}), ("f32", {0: "f32"}), ("", {}), ("f32", {0: "f32"}), ("", {}))
    ]


def test_autocast_excludes_exactly_the_culprits(handed: tuple[Diagnosis, Path]) -> None:
    arguments = shlex.split(handed[0].recipes["autocast"])
    patterns = arguments[arguments.index("--nodes_to_exclude") + 1 :]
    names = [node.name for node in rmsnorm().nodes]
    matched = [name for name in names if any(re.fullmatch(pattern, name) for pattern in patterns)]
    assert matched == list(ISLAND)


def test_names_that_a_tool_cannot_take_are_left_out_of_its_recipe() -> None:
    nodes = [helper.make_node("Exp", ["x"], ["y"], name="a,b:c (d)")]
    model = load_model(graph_model(nodes, inputs={"x": [2]}, outputs={"y": [2]}))
    recipes = keep_fp32(model, Precision.FP16, ["a,b:c (d)"], Files("m.onnx", script="s.py"))
    assert "trtexec" not in recipes
    assert shlex.split(recipes["polygraphy"])[-1] == "a,b:c (d):float32"


def test_names_with_a_colon_stand_in_quotes_that_reach_trtexec() -> None:
    nodes = [helper.make_node("Exp", ["Input:0"], ["y"], name="tf/exp:0")]
    model = load_model(graph_model(nodes, inputs={"Input:0": ["n"]}, outputs={"y": ["n"]}))
    files = Files("m.onnx", script="s.py", shapes={"Input:0": ((1,), (2,), (3,))})
    recipes = keep_fp32(model, Precision.FP16, ["tf/exp:0"], files)
    words = shlex.split(recipes["trtexec"])
    assert "--maxShapes='Input:0':3" in words
    assert "--layerPrecisions='tf/exp:0':fp32" in words
    assert "--layerOutputTypes='tf/exp:0':fp32" in words
    assert "Input:0:[3]" in shlex.split(recipes["polygraphy"])


def test_a_name_that_begins_with_a_dash_is_no_argument_of_polygraphy() -> None:
    nodes = [helper.make_node("Exp", ["x"], ["y"], name="-exp")]
    model = load_model(graph_model(nodes, inputs={"x": [2]}, outputs={"y": [2]}))
    recipes = keep_fp32(model, Precision.FP16, ["-exp"], Files("m.onnx", script="s.py"))
    assert set(recipes) == {"trtexec", "autocast"}


def test_an_output_that_an_island_reads_is_cast_under_two_names(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["a"], name="first"),
        helper.make_node("Mul", ["a", "a"], ["b"], name="second"),
    ]
    model = load_model(graph_model(nodes, inputs={"x": [2]}, outputs={"a": [2], "b": [2]}))
    save_model(with_islands(model, Precision.FP16, ["second"]), tmp_path / "typed.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "typed.onnx")
    found = session.run(["a", "b"], {"x": np.array([3, 32], np.float32)})
    assert [value.tolist() for value in found] == [[9, 1024], [81, 1024**2]]


def test_recipes_of_dynamic_inputs_carry_the_shapes_of_the_case(tmp_path: Path) -> None:
    from polygraphy.tools.registry import TOOL_REGISTRY

    out = tmp_path / "out"
    diagnosis = diagnose_model(
        load_model(dynamic_model()), [{"x 1": np.ones((4, 8), np.float32)}], Precision.FP16, out=out
    )
    assert diagnosis.verdict is DiagnosisVerdict.PRECISION
    for tool in ("trtexec", "trtexec_strongly_typed"):
        arguments = shlex.split(diagnosis.recipes[tool])
        assert [word for word in arguments if "Shapes" in word] == [
            f"--{which}Shapes=x 1:4x8" for which in ("min", "opt", "max")
        ]
    tool = next(tool for tool in TOOL_REGISTRY if tool.name == "convert")
    parser = argparse.ArgumentParser()
    tool.setup_parser(parser.add_subparsers())
    parsed = parser.parse_args(shlex.split(diagnosis.recipes["polygraphy"])[1:])
    shapes = (parsed.trt_min_shapes, parsed.trt_opt_shapes, parsed.trt_max_shapes)
    assert shapes == ([["x 1:[4,8]"]],) * 3


def dynamic_model() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Mul", ["x 1", "k"], ["scaled"], name="scale"),
        helper.make_node("Mul", ["scaled", "scaled"], ["square"], name="sq"),
        helper.make_node("Sqrt", ["square"], ["y"], name="root"),
    ]
    constants = {"k": np.array(2000, np.float32)}
    return graph_model(nodes, inputs={"x 1": ["n", 8]}, outputs={"y": ["n", 8]}, weights=constants)


def test_ranges_of_a_profile_become_the_shapes_of_the_recipes() -> None:
    model = load_model(dynamic_model())
    files = Files(
        "m.onnx", "typed.onnx", "s.py", {"x 1": ((1, 8), (4, 8), (16, 8)), "mask": ((1,), (4,), (16,))}
    )
    recipes = keep_fp32(model, Precision.FP16, ["sq"], files)
    assert "--minShapes=x 1:1x8,mask:1" in shlex.split(recipes["trtexec"])
    assert "--maxShapes=x 1:16x8,mask:16" in shlex.split(recipes["trtexec_strongly_typed"])
    words = shlex.split(recipes["polygraphy"])
    place = words.index("--trt-opt-shapes")
    assert words[place : place + 3] == ["--trt-opt-shapes", "x 1:[4,8]", "mask:[4]"]


def test_without_a_folder_no_recipe_names_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a model.onnx"
    onnx.save(dynamic_model(), path)
    sample = [{"x 1": np.ones((4, 8), np.float32)}]
    diagnosis = diagnose_model(load_model(path), sample, Precision.FP16)
    assert set(diagnosis.recipes) == {"trtexec", "autocast"}
    assert f"--onnx={path}" in shlex.split(diagnosis.recipes["trtexec"])
    assert diagnosis.advice[0] == diagnosis.recipes["trtexec"]
    assert diagnosis.advice[1].startswith("for more recipes, a typed model and a repro: harness diagnose ")
    assert diagnosis.advice[1].endswith(" --precision fp16 --out DIR")
    in_memory = diagnose_model(load_model(dynamic_model()), sample, Precision.FP16)
    assert in_memory.recipes == {}
    assert in_memory.advice[0].startswith("for recipes and a repro: ")


def test_the_typed_model_is_valid_and_cures(handed: tuple[Diagnosis, Path]) -> None:
    diagnosis, out = handed
    proto = onnx.load(out / "typed.onnx")
    onnx.checker.check_model(proto, full_check=True)
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(proto).graph.value_info
    }
    assert kinds["b1_sq"] == onnx.TensorProto.FLOAT
    assert kinds["b1_up"] == onnx.TensorProto.FLOAT16
    session = onnxruntime.InferenceSession(out / "typed.onnx", providers=["CPUExecutionProvider"])
    values = session.run(None, feeds(rmsnorm())[0])[0]
    assert np.isfinite(values).all()
    assert any("the typed model runs in ONNX Runtime" in each.text for each in diagnosis.evidence)


def test_a_notebook_shows_what_is_wrong_and_what_to_do(handed: tuple[Diagnosis, Path]) -> None:
    diagnosis, _ = handed
    shown = html.unescape(diagnosis._repr_html_())
    assert all(text in shown for text in (diagnosis.summary, *diagnosis.culprits, *diagnosis.advice))
    assert "<script>" not in replace(diagnosis, summary="<script>")._repr_html_()


def test_the_repro_is_the_one_node_where_it_starts(handed: tuple[Diagnosis, Path]) -> None:
    diagnosis, out = handed
    assert diagnosis.repro is not None
    assert diagnosis.repro.shows
    assert diagnosis.repro.nodes == 1
    about = json.loads((out / "repro" / "repro.json").read_text())
    assert about["nodes"] == ["b1_sq"]
    assert about["signature"]["b1_sq"]["nonfinite"] > 0


def test_the_repro_needs_nothing_of_harness_and_ends_with_1(handed: tuple[Diagnosis, Path]) -> None:
    folder = handed[1] / "repro"
    imported = re.findall(r"^\s*(?:import|from) (\w+)", (folder / "repro.py").read_text(), re.MULTILINE)
    assert set(imported) <= {*sys.stdlib_module_names, "numpy", "onnxruntime", "tensorrt"}
    blocked = (
        "import sys; sys.modules['harness'] = None; sys.argv = ['repro.py']; "
        "import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", blocked], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "elements not finite" in done.stdout
    assert "THE FAULT SHOWS" in done.stdout


def test_the_repro_says_what_is_missing_for_an_engine(handed: tuple[Diagnosis, Path]) -> None:
    command = [sys.executable, "repro.py", "--tensorrt"]
    done = subprocess.run(command, cwd=handed[1] / "repro", capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cannot run: No module named 'tensorrt'" in done.stderr


def test_a_part_is_cut_out_with_the_tensors_that_are_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.diagnosis.context import cut

    model = rmsnorm()
    bench = make_bench(model, feeds(model))
    subject = Subject(bench, Precision.FP16, bench.emulator)
    computed = bench.reference_tensors(0, tuple(model.float_tensors), copies=1)
    monkeypatch.setattr(bench.reference, "run", lambda *given: pytest.fail("it is computed again"))
    part = cut(subject, ["b1_sq", "b1_mean"], 0)
    for tensors in (part.feeds, part.expected):
        assert tensors
        assert all(tensors[name] is computed[name] for name in tensors)


def test_a_repro_that_does_not_show_the_fault_says_so(tmp_path: Path) -> None:
    model = rmsnorm()  # nothing is wrong with it
    bench = make_bench(model, feeds(model))
    from harness.diagnosis.context import cut

    part = cut(Subject(bench, Precision.FP16, bench.emulator), ["b1_sq"], 0)
    ticket = ReproInfo("sound", Precision.FP16, "nothing", emulated=True, limits={"b1_sq": 1e-2})
    signature = {"b1_sq": ReproOutput(5, 0.1)}
    with repro_under_way(tmp_path / "repro", part, ticket, signature) as finish:
        repro = finish()
    assert not repro.shows
    assert repro.note == "run in a clean process, it does not show the fault"


def test_a_repro_that_fails_in_another_way_says_so(tmp_path: Path) -> None:
    model = rmsnorm(scale=600.0)
    bench = make_bench(model, feeds(model))
    from harness.diagnosis.context import cut

    part = cut(Subject(bench, Precision.FP16, bench.emulator), ["b1_sq"], 0)
    ticket = ReproInfo("other", Precision.FP16, "something", emulated=True, limits={"b1_sq": 1e-2})
    with repro_under_way(tmp_path / "repro", part, ticket, {"b1_sq": ReproOutput(0, 0.1)}) as finish:
        repro = finish()
    assert not repro.shows
    assert "in another way" in repro.note


@pytest.fixture
def overflowing() -> GraphPart:
    model = rmsnorm(scale=600.0)
    bench = make_bench(model, feeds(model))
    return cut(Subject(bench, Precision.FP16, bench.emulator), ["b1_sq"], 0)


def test_a_repro_that_was_begun_is_run_once_and_says_what_is_known_later(
    tmp_path: Path, overflowing: GraphPart, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    start = repro_module._start
    monkeypatch.setattr(repro_module, "_start", lambda folder: started.append(folder) or start(folder))
    signature = {"b1_sq": ReproOutput(5, 0.1)}
    info = ReproInfo("sound", Precision.FP16, "", emulated=True, limits={"b1_sq": 1e-2})
    begun = ReproRun(tmp_path / "repro", overflowing, info, signature)
    with repro_under_way(
        tmp_path / "repro", overflowing, replace(info, what="squares overflow"), signature, begun
    ) as finish:
        assert finish().folder == tmp_path / "repro"
    assert len(started) == 1
    assert json.loads((tmp_path / "repro" / "repro.json").read_text())["what"] == "squares overflow"
    assert [path.name for path in tmp_path.iterdir()] == ["repro"]


def test_a_repro_of_something_else_that_was_begun_is_ended(tmp_path: Path, overflowing: GraphPart) -> None:
    signature = {"b1_sq": ReproOutput(5, 0.1)}
    info = ReproInfo("sound", Precision.FP16, "what", emulated=True, limits={"b1_sq": 1e-2})
    begun = ReproRun(tmp_path / "repro", overflowing, info, signature)
    limits = replace(info, limits={"b1_sq": 1e-3})
    with repro_under_way(tmp_path / "repro", overflowing, limits, signature, begun) as finish:
        assert begun._process is not None
        assert begun._process.poll() is not None
        finish()
    about = json.loads((tmp_path / "repro" / "repro.json").read_text())
    assert about["limits"] == {"b1_sq": 1e-3}
    assert [path.name for path in tmp_path.iterdir()] == ["repro"]


def test_a_repro_that_was_begun_and_is_not_handed_over_leaves_nothing(
    tmp_path: Path, overflowing: GraphPart
) -> None:
    info = ReproInfo("sound", Precision.FP16, "", emulated=True, limits={"b1_sq": 1e-2})
    begun = ReproRun(tmp_path / "out" / "repro", overflowing, info, {})
    begun.close()
    assert begun._process is not None
    assert begun._process.poll() is not None
    assert list((tmp_path / "out").iterdir()) == []


def test_whoever_waits_is_told_once_when_no_engine_is_asked_for_any_more(tmp_path: Path) -> None:
    for out in (None, tmp_path / "out"):
        idle: list[int] = []
        engine = FakeEngine(rmsnorm(scale=600.0), "b1_up", never)
        bench = make_bench(engine.model, feeds(engine.model))
        subject = Subject(bench, Precision.FP16, engine, lambda model: FakeEngine(model, "b1_up", never))
        context = Context(subject, out=out, idle=lambda: idle.append(len(engine.plans)))  # noqa: B023
        investigate(context, DiagnosisOptions())
        assert idle == [len(engine.plans)]


def nearly_tied_classes() -> Model:
    """Scores 1e-3 apart at 10, where FP16 has steps of 7.8e-3: which is the largest is lost."""
    nodes = [
        helper.make_node("Mul", ["x", "narrow"], ["scaled"], name="scaled"),
        helper.make_node("Add", ["scaled", "ten"], ["scores"], name="shift"),
        helper.make_node("ArgMax", ["scores"], ["class"], name="choose", axis=1, keepdims=0),
    ]
    proto = graph_model(
        nodes,
        inputs={"x": [8, 32]},
        outputs={"class": [8]},
        weights={"narrow": np.float32(1e-3), "ten": np.float32(10.0)},
        dtypes={"class": TensorProto.INT64},
    )
    return load_model(proto, name="classes")


def test_the_repro_of_integers_runs_and_asks_for_equal_ones(tmp_path: Path) -> None:
    model = nearly_tied_classes()
    diagnosis = diagnose_model(model, feeds(model), Precision.FP16, out=tmp_path)
    assert diagnosis.repro is not None
    assert diagnosis.repro.shows, diagnosis.repro.note
    about = json.loads((tmp_path / "repro" / "repro.json").read_text())
    assert about["nodes"] == ["shift", "choose"]
    assert about["limits"] == {"class": 0.0}
    emulated = onnx.load(tmp_path / "repro" / "emulated.onnx")
    assert emulated.graph.output[0].type.tensor_type.elem_type == TensorProto.INT64


def test_a_repro_that_breaks_off_does_not_end_as_if_the_fault_showed(
    handed: tuple[Diagnosis, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "repro"
    shutil.copytree(handed[1] / "repro", folder)
    (folder / "emulated.onnx").write_bytes(b"no model")
    done = subprocess.run(
        [sys.executable, "repro.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("cannot run: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_repro_that_prints_something_else_could_not_be_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "script.py"
    script.write_text("print('Segmentation fault')\nraise SystemExit(1)\n")
    monkeypatch.setattr("harness.diagnosis.handover.repro.SCRIPT", script)
    model = rmsnorm(scale=600.0)
    diagnosis = diagnose_model(model, feeds(model), Precision.FP16, out=tmp_path / "out")
    assert diagnosis.repro is not None
    assert not diagnosis.repro.shows
    assert diagnosis.repro.note.startswith("it could not be run in a clean process")


def test_what_goes_wrong_with_the_repro_never_costs_the_diagnosis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise ZeroDivisionError("nobody thought of it")

    monkeypatch.setattr("harness.diagnosis.handover.files.repro_under_way", fail)
    model = rmsnorm(scale=600.0)
    diagnosis = diagnose_model(model, feeds(model), Precision.FP16, out=tmp_path)
    assert diagnosis.verdict is DiagnosisVerdict.PRECISION
    assert diagnosis.repro is None
    assert any("there is no repro: ZeroDivisionError: nobody" in each.text for each in diagnosis.evidence)
    assert (tmp_path / "diagnosis.json").is_file()


def test_a_part_is_grown_until_it_fails_and_shrunk_while_it_does() -> None:
    # 0 / 0 in padded rows: neither the epsilon nor the root is wrong by itself; the quotient of both is.
    rows = np.arange(6).reshape(-1, 1) % 2
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("Mul", ["r", "rows"], ["m"], name="mask"),
        helper.make_node("Mul", ["m", "m"], ["sq"], name="sq"),
        helper.make_node("ReduceMean", ["sq"], ["mean"], name="mean", axes=[-1], keepdims=1),
        helper.make_node("Add", ["mean", "eps"], ["shifted"], name="addeps"),
        helper.make_node("Sqrt", ["shifted"], ["root"], name="sqrt"),
        helper.make_node("Div", ["m", "root"], ["norm"], name="norm"),
        helper.make_node("Neg", ["norm"], ["y"], name="neg"),
    ]
    weights = {"rows": rows.astype(np.float32), "eps": np.float32(1e-10)}
    proto = graph_model(nodes, inputs={"x": [6, 8]}, outputs={"y": [6, 8]}, weights=weights, opset=13)
    model = load_model(proto, name="epsilon")
    x = np.abs(np.random.default_rng(0).standard_normal((6, 8))).astype(np.float32)
    diagnosis = diagnose_model(model, [{"x": x}], Precision.FP16)
    assert diagnosis.culprits == ("addeps", "sqrt")
    assert "becomes 0 in FP16" in diagnosis.origins[0].why
    bench = make_bench(model, [{"x": x}])
    subject = Subject(bench, Precision.FP16, bench.emulator)
    shrunk = shrink(subject, diagnosis.culprits, 0, fails_emulated(subject))
    assert shrunk is not None
    assert len(shrunk.nodes) == 2
    assert shrunk.nodes[-1] == "norm"  # nothing is wrong before the division


def test_a_part_that_cannot_be_built_is_passed_over() -> None:
    model = rmsnorm(scale=600.0)
    bench = make_bench(model, feeds(model))
    subject = Subject(bench, Precision.FP16, bench.emulator)
    tried: list[int] = []

    def fails(part: GraphPart) -> bool:
        tried.append(len(part.model.nodes))
        if tried[-1] == 1:
            raise CandidateError("no engine of a single node")
        return fails_emulated(subject)(part)

    shrunk = shrink(subject, ["b1_sq", "b1_mean"], 0, fails)
    assert shrunk is not None
    assert (tried[:3], len(shrunk.nodes)) == ([1, 1, 2], 2)


def test_an_output_in_a_part_is_compared_with_the_gates_of_outputs() -> None:
    model = rmsnorm()
    (output,) = (info.name for info in model.outputs)
    last = model.producer(output)
    assert last is not None
    for name, passes in ((output, True), ("other", False)):
        bench = make_bench(model, feeds(model), tolerances=[Tolerance(output=name, nrmse=0.5)])
        subject = Subject(bench, Precision.FP16, bench.emulator)
        part = cut(subject, [last.name], 0)
        values = {tensor: reference * np.float32(1.1) for tensor, reference in part.expected.items()}
        assert holds(subject, values, part, Precision.FP16) is passes


def test_the_emulation_in_the_repro_rounds_as_the_emulator_does() -> None:
    from harness.backends import Emulator

    model = rmsnorm()
    proto = emulated_model(model, Precision.BF16, ["b2_add"])
    assert [value.name for value in proto.graph.input] == ["x"]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    sample = feeds(model)[0]
    expected = Emulator(model).run(sample, Precision.BF16)["b2_add"]
    np.testing.assert_array_equal(session.run(None, sample)[0], expected)
    np.testing.assert_array_equal(round_array(expected, Precision.BF16), expected)


def test_a_fault_of_an_engine_alone_gets_a_repro_that_its_engine_was_seen_to_fail(tmp_path: Path) -> None:
    model = rmsnorm()

    def engine_for(part):  # type: ignore[no-untyped-def]
        inside = any(node.name == "b1_up" for node in part.nodes)
        return FakeEngine(
            part,
            "b1_up" if inside else part.nodes[0].name,
            when_lowered("b1_up") if inside else lambda build: False,
        )

    engine = FakeEngine(model, "b1_up", when_lowered("b1_up"))
    diagnosis = diagnose_model(
        model, feeds(model), Precision.FP16, candidate=engine, engine_for=engine_for, out=tmp_path / "out"
    )
    assert diagnosis.verdict is DiagnosisVerdict.PRECISION
    assert diagnosis.repro is not None
    assert not diagnosis.repro.shows  # nobody could run it without the GPU
    assert "on an engine only" in diagnosis.repro.note
    about = json.loads((tmp_path / "out" / "repro" / "repro.json").read_text())
    assert about["nodes"] == ["b1_up"]
    assert about["emulated"] is False


def test_the_repro_is_compared_with_the_tolerances_of_the_case(tmp_path: Path) -> None:
    model = rmsnorm()
    tight = [Tolerance(nrmse=1e-4)]
    diagnosis = diagnose_model(model, feeds(model), Precision.FP16, tolerances=tight, out=tmp_path)
    assert diagnosis.repro is not None
    assert diagnosis.repro.shows
    limits = json.loads((tmp_path / "repro" / "repro.json").read_text())["limits"]
    assert list(limits.values()) == [1e-4]


def test_without_engines_for_parts_a_fusion_has_no_repro_and_says_so(tmp_path: Path) -> None:
    model = rmsnorm()
    engine = FakeEngine(model, "b1_up", when_fused("b1_up", "b1_up"))
    diagnosis = diagnose_model(model, feeds(model), Precision.FP16, candidate=engine, out=tmp_path)
    assert diagnosis.verdict is DiagnosisVerdict.FUSION
    assert diagnosis.repro is None
    assert diagnosis.recipes == {}
    assert any("there is no repro" in each.text for each in diagnosis.evidence)


def test_nodes_without_a_name_are_named_in_a_copy_that_the_commands_use(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Exp", ["x"], ["e"]),
        helper.make_node("Mul", ["e", "w"], ["y"]),
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4]) for name in ("x", "y")]
    weight = numpy_helper.from_array(np.full(4, 1e-5, np.float32), "w")
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], [weight])
    file = tmp_path / "unnamed.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    model = load_model(file)
    assert own_file(model, [model.nodes[0].name]) is None
    feeds = [{"x": np.full((2, 4), 12.0, np.float32)}]
    diagnosis = diagnose_model(model, feeds, Precision.FP16, out=tmp_path / "out")
    assert diagnosis.culprits
    known = {node.name for node in onnx.load(tmp_path / "out" / "model.onnx").graph.node}
    assert known >= set(diagnosis.culprits)
    for tool in ("trtexec", "polygraphy", "autocast"):
        assert str(tmp_path / "out" / "model.onnx") in diagnosis.recipes[tool]
        assert "unnamed.onnx" not in diagnosis.recipes[tool]
