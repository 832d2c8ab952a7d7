"""Names in cases that only the model can confirm: reported with their place, before anything is run."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from graphs import graph_model, norm_chain
from onnx import TensorProto, helper

from harness.case import Case, ModelSource, Tolerance, load_case
from harness.cli import main
from harness.errors import CaseFileError, UsageError
from harness.judge import Judge, Verdict, run

CASE = "model: {path: m.onnx}\ninputs: {x: [5, 16]}\nruns: [fp32, fp16]\n"


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(norm_chain(), "m.onnx")

    def write(extra: str, name: str = "c") -> Path:
        path = Path(f"{name}.case.yaml")
        path.write_text(CASE + extra)
        return path

    return write


def mistakes(*paths: Path) -> list[str]:
    with pytest.raises(CaseFileError) as caught:
        run(paths)
    return [str(mistake) for mistake in caught.value.mistakes]


def test_patterns_that_match_nothing_are_all_listed_with_place_and_nearest_name(case) -> None:
    rules = """tolerances:
  - {layer: "nrm*", nrmse: 1e-2}
  - {output: yy, nrmse: 1e-2}
  - layer: [sq, "?zz", meen]
    nrmse: 1e-2
"""
    assert mistakes(case(rules)) == [
        "c.case.yaml:5:13: tolerances[0].layer: 'nrm*' matches no node and no tensor of the model, "
        "did you mean `norm`?",
        "c.case.yaml:6:14: tolerances[1].output: 'yy' matches no output of the model, did you mean `y`?",
        "c.case.yaml:7:17: tolerances[2].layer[1]: '?zz' matches no node and no tensor of the model; "
        "there are y, scaled, sq, mean, root, …",
        "c.case.yaml:7:24: tolerances[2].layer[2]: 'meen' matches no node and no tensor of the model, "
        "did you mean `mean`?",
    ]


def test_wrong_names_of_all_cases_are_listed_and_no_case_is_run(case, capsys) -> None:
    case("", "sound")
    case("tolerances: [{layer: sqq, nrmse: 1e-2}]\n", "one")
    case("tolerances: [{layer: prj, nrmse: 1e-2}]\n", "two")
    assert main(["run", ".", "--json", "all.json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.split(":")[0] for line in captured.err.splitlines()] == ["one.case.yaml", "two.case.yaml"]
    assert not Path("all.json").exists()


@pytest.mark.parametrize("glob", ["y", "n?rm", "[ps]*", "w*"])
def test_nodes_and_their_tensors_are_matched_and_weights_are_not_compared(case, glob: str) -> None:
    path = case(f'tolerances: [{{layer: "{glob}", nrmse: 1e-2}}]\n')
    if glob == "w*":
        assert "'w*' matches no node and no tensor" in mistakes(path)[0]
    else:
        assert run(path).exit_code == 0


def test_what_exists_and_is_not_compared_has_a_message_of_its_own(case) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["size"], name="count"),
        helper.make_node("Relu", ["x"], ["y"], name="relu"),
    ]
    proto = graph_model(
        nodes, inputs={"x": [5, 16]}, outputs={"y": [5, 16], "size": [2]}, dtypes={"size": TensorProto.INT64}
    )
    del proto.graph.output[1]
    onnx.save(proto, "m.onnx")
    (message,) = mistakes(case("tolerances: [{layer: count, nrmse: 1e-2}]\n"))
    assert "'count' matches only what is not compared: constants, shapes and integers" in message


def test_an_origin_that_is_no_node_is_a_mistake(case) -> None:
    path = case("")
    path.write_text(
        CASE.replace("fp16", "{precision: fp16, expect: fail, reason: squares overflow, origin: squ}")
    )
    assert mistakes(path) == ["c.case.yaml:3:80: runs[1].origin: no node is named 'squ', did you mean `sq`?"]


def test_a_judge_of_one_run_checks_names_too(case) -> None:
    with Judge() as judge:
        loaded = load_case(case("tolerances: [{layer: sqq, nrmse: 1e-2}]\n"))
        result = judge.run(loaded, loaded.runs[1])
    assert (result.verdict, result.mistake, result.outputs) == (Verdict.ERROR, True, ())
    assert "c.case.yaml:4:22: tolerances[0].layer: 'sqq'" in result.reason


def test_a_case_in_memory_names_itself(case) -> None:
    case("")
    rules = (Tolerance(layer=("sqq",), nrmse=1e-2),)
    made = Case(name="made", model=ModelSource(path="m.onnx"), tolerances=rules)
    with pytest.raises(UsageError, match=r"^made: 'sqq' matches no node and no tensor .* mean `sq`"):
        run(made)


def test_a_model_that_cannot_be_had_is_left_to_its_run(case) -> None:
    path = case("tolerances: [{layer: sqq, nrmse: 1e-2}]\n")
    Path("m.onnx").unlink()
    report = run(path)
    assert {result.verdict for result in report.results} == {Verdict.ERROR}
    assert "no such model file" in report.results[0].reason


@pytest.mark.parametrize("command", ["diagnose", "explore"])
def test_other_commands_refuse_such_a_case_as_well(case, command: str, capsys) -> None:
    path = case("tolerances: [{layer: sqq, nrmse: 1e-2}]\n")
    assert main([command, str(path), "--precision", "fp16"]) == 2
    assert "c.case.yaml:4:22" in capsys.readouterr().err


def test_drift_refuses_such_a_case_before_it_builds(case, capsys) -> None:
    path = case("tolerances: [{layer: sqq, nrmse: 1e-2}]\n")
    assert main(["drift", str(path), "-e", "emulator:fp16,seed=1", "-e", "emulator:fp16,seed=2"]) == 2
    assert "c.case.yaml:4:22" in capsys.readouterr().err
    assert not Path("reports").exists()
