"""What trips people up who use harness for the first time: paths, quotes, misspelt names, what to type next."""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

AWKWARD = "yolo dynamo ü"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch) -> Path:
    """An empty folder to be in, and a home beside it."""
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("HARNESS_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def save_model(path: Path, shape: list[int | str]) -> Path:
    """Squares that overflow float16."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    nodes = [
        helper.make_node("Constant", [], ["big"], "big", value_float=3e4),
        helper.make_node("Mul", ["x", "big"], ["scaled"], "scaled"),
        helper.make_node("Mul", ["scaled", "scaled"], ["y"], "square"),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


# --- paths ------------------------------------------------------------------------------------------------------------


def test_a_tilde_is_the_home_folder_in_every_path(home: Path, harness) -> None:
    save_model(home / "m.onnx", [2])
    releases = ["-e", "emulator:fp32", "-e", "emulator:fp16", "-k", "1"]
    for command in (
        ["case", "new", "~/m.onnx", "--out=~/made.case.yaml"],
        ["case", "check", "~/made.case.yaml"],
        ["case", "schema", "--out=~/case.schema.json"],
        ["doctor", "--no-probe", "--json=~/doctor.json"],
        ["run", "~/made.case.yaml", "--json=~/r.json", "--html=~/r.html", "--markdown=~/r.md", "--plot=~/r"],
        ["drift", "~/m.onnx", *releases, "--history=~/runs", "--table=~/t.csv", "--html=~/d.html"],
        ["history", "list", "--history=~/runs"],
        ["history", "show", "~/runs"],
        ["history", "export", "~/all.csv", "--history=~/runs"],
        ["diagnose", "~/m.onnx", "-p", "fp16", "--out=~/diagnosis", "--max-seconds", "30"],
    ):
        assert harness(*command)[0] in (0, 1), command
    assert not Path("~").exists()
    names = ["made.case.yaml", "case.schema.json", "doctor.json", "r.json", "r.html", "r.md", "r", "runs"]
    names += ["t.csv", "d.html", "all.csv", "diagnosis"]
    assert {path.name for path in home.iterdir()} >= set(names)


def test_a_new_case_spells_the_name_of_its_model_as_it_is(harness) -> None:
    save_model(Path("modèle 😀.onnx"), [2])
    assert harness("case", "new", "modèle 😀.onnx")[0] == 0
    assert 'path: "modèle 😀.onnx"' in Path("modèle 😀.case.yaml").read_text("utf-8")
    assert harness("run", "modèle 😀.case.yaml", "-p", "fp32")[0] == 0


def test_a_missing_target_has_no_line(harness) -> None:
    assert harness("run", "nowhere.case.yaml")[2].strip() == "nowhere.case.yaml: no such file or folder"


def test_a_tilde_is_the_home_folder_at_the_prompt_of_explore(home: Path, harness, monkeypatch) -> None:
    save_model(Path("m.onnx"), [2])
    monkeypatch.setattr(sys, "stdin", io.StringIO("keep square\nplot ~/growth.png\nexport ~/exported\n"))
    assert harness("explore", "m.onnx", "-p", "fp16")[0] == 1
    assert (home / "growth.png").is_file()
    assert (home / "exported" / "recipes.sh").is_file()
    assert not Path("~").exists()


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("run cases -p fp61", "cannot be 'fp61' | did you mean `fp16`? | fp32, tf32, fp16, bf16, fp8, int8"),
        ("run cases -p int4", "cannot be 'int4' | int8 | fp32"),
        ("run cases -p int8", "no case asks for int8 | the case has runs at fp32, fp16, bf16"),
        ("drift cases -p int8 -e trt-10", "no case asks for int8 | the case has runs at fp32, fp16, bf16"),
        ("diagnose cases/clean.case.yaml -p fp61", "did you mean `fp16`?"),
        ("explore cases/clean.case.yaml -p fp61", "did you mean `fp16`?"),
        ("run cases --observe typd", "did you mean `typed`? | none, typed, debug, prefix"),
        ("drift cases -e a -e b --layers frist", "did you mean `first`? | auto, all, first, none"),
        ("drift cases -e a -e b --timing-cache wiht", "did you mean `with`? | both, with, without"),
        ("drift cases -e a --against goldn", "did you mean `golden`? | golden, history"),
        ("run cases --tag sond", "no case has the tag sond | did you mean `sound`? | the tags are"),
        ("run cases --tag xyz", "no case has the tag xyz | the tags are"),
        ("run cases --env trt-86", "no environment is called 'trt-86' | did you mean 'trt-8.6'? | trt-10"),
        ("env check trt-86", "did you mean 'trt-8.6'? | trt-10"),
        ("diagnose cases/clean.case.yaml --env trt-86", "did you mean 'trt-8.6'? | trt-10"),
        ("run cases/clen.case.yaml", "did you mean `clean.case.yaml`?"),
    ],
)
def test_a_misspelt_name_gets_the_nearest_and_what_exists(
    arguments: str, words: str, tiny_cases, harness
) -> None:
    folder = tiny_cases("clean")
    folder.rename("cases")
    save_model(Path("cases/model.onnx"), [2])
    Path("harness.toml").write_text('[environments]\n"trt-8.6".python = "a"\ntrt-10.python = "b"\n')
    status, out, errors = harness(*shlex.split(arguments))
    assert status in (2, 5)
    assert out == ""
    assert "Value error" not in errors
    text = " ".join(errors.split()).casefold()
    for word in words.split(" | "):
        assert word.casefold() in text


def test_a_missing_file_is_one_error(harness) -> None:
    status, out, errors = harness("run", "gone.onnx")
    assert (status, out.count("ERROR"), "1 could not be judged" in out) == (2, 1, True)
    assert errors.splitlines()[-1] == "error: gone.onnx: no such model file"
    status, out, errors = harness("diagnose", "gone.onnx")
    assert (status, out) == (2, "")
    assert errors.splitlines()[-1] == "error: gone.onnx: no such model file"


# --- what to type next ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [[2, 4], ["batch", 4]], ids=["fixed", "dynamic"])
def test_a_new_case_runs_with_the_command_that_is_shown(shape: list[int | str], harness) -> None:
    save_model(Path(f"{AWKWARD}.onnx"), shape)
    status, out, _ = harness("case", "new", f"{AWKWARD}.onnx")
    assert status == 0
    assert "first" not in out, "the file runs as it is"
    assert ("guesses" in out) == (shape[0] == "batch")
    shown = out.splitlines()[-1].removeprefix("Run it: ")
    status, _, errors = harness(*shlex.split(shown)[1:])
    assert (status, "error" in errors) == (1, False)


def test_a_hint_quotes_what_was_typed(tiny_cases, harness) -> None:
    _, _, errors = harness("run", tiny_cases("clean"), "--env", "my env")
    assert "`harness env add 'my env' --python PATH`" in errors


def test_a_new_case_without_a_shape_says_what_to_set(harness) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), "m.onnx")
    assert "Set the shape of x first" in harness("case", "new", "m.onnx")[1]


def test_every_command_that_is_shown_for_a_model_keeps_its_shapes_and_its_quotes(
    harness, monkeypatch
) -> None:
    name, shape = f"{AWKWARD}.onnx", "x:[2,4]"
    save_model(Path(name), ["batch", 4])
    given = (name, "--input", shape)
    releases = ("-e", "emulator:fp32", "-e", "emulator:fp16", "-p", "fp16", "-k", "1")
    monkeypatch.setattr(sys, "argv", ["harness", "diagnose", *given, "-p", "fp16"])
    texts = [
        harness("run", *given, "--html", "r.html", "--markdown", "r.md", "--json", "r.json")[1],
        harness("drift", *given, *releases, "--html", "d.html", "--markdown", "d.md")[1],
        harness("history", "show")[1],
        harness("diagnose", *given, "-p", "fp16", "--html", "g.html", "--markdown", "g.md")[1],
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO("try\n"))
    harness("explore", *given, "-p", "fp16", "--out", "o")
    texts += [Path(file).read_text() for file in ("r.md", "d.md", "g.md")]
    commands = [
        line
        for text in texts
        for line in re.findall(r"(?:harness (?:diagnose|explore)) .*", text)
        if "…" not in line
    ]
    assert len(commands) >= 6
    for command in commands:
        words = shlex.split(command.split("`")[0])
        assert name in words, command
        assert words[words.index("--input") + 1] == shape, command
    assert "interrupted" not in json.loads(Path("r.json").read_text())


def test_a_misspelt_emulator_and_its_precision_are_answered_with_the_nearest_name(harness) -> None:
    save_model(Path("m.onnx"), [2])
    assert "did you mean `emulator`?" in harness("run", "m.onnx", "--env", "emulater")[2]
    error = harness("drift", "m.onnx", "-e", "emulator:fp32", "-e", "emulator:fp61")[2]
    assert "did you mean `fp16`? Or choose from fp32, tf32" in error
