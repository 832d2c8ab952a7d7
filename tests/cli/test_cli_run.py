"""`harness run` on real, tiny cases."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from harness.cli import outputs
from harness.cli.options import parse_shapes
from harness.cli.progress import RunProgress
from harness.errors import UsageError
from harness.judge import RunEvent, RunResult, Verdict
from harness.tensors import Precision


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


@pytest.mark.parametrize(
    ("cases", "status"),
    [
        (["clean"], 0),
        (["clean", "expected"], 0),
        (["clean", "skipped"], 0),
        (["skipped"], 5),
        (["clean", "failing"], 1),
        (["cured"], 1),
        (["clean", "mistaken"], 2),
        (["failing", "mistaken"], 2),
    ],
)
def test_the_exit_status_says_how_it_ended(cases: list[str], status: int, tiny_cases, harness) -> None:
    assert harness("run", tiny_cases(*cases))[0] == status


def test_the_table_and_the_summary_go_to_stdout_and_progress_to_stderr(tiny_cases, harness) -> None:
    tiny_cases("clean", "expected")
    status, out, errors = harness("run", "cases")
    assert status == 0
    assert "○ xfail inf" in out
    assert "square (Mul)" in out
    assert out.splitlines()[-1].startswith("2 cases, 5 runs: 4 pass, 1 failed as expected, 0 unexpected, ")
    assert errors.splitlines()[0].startswith("[1/5] clean at fp32: pass, nrmse 0 (")
    assert len(errors.splitlines()) == 5


def test_quiet_prints_the_summary_alone_when_all_is_well(tiny_cases, harness) -> None:
    tiny_cases("clean")
    _, out, errors = harness("run", "cases", "--quiet")
    assert len(out.splitlines()) == 1
    assert errors == ""


def test_a_skip_says_why_even_in_quiet_if_nothing_else_was_judged(tiny_cases, harness) -> None:
    why = "skipped skipped: needs a_package_that_is_nowhere, which is not installed"
    tiny_cases("clean", "skipped")
    assert why in harness("run", "cases")[1].splitlines()
    assert why not in harness("run", "cases", "--quiet")[1]
    assert why in harness("run", "cases/skipped.case.yaml", "--quiet", "--markdown", "s.md")[1].splitlines()
    assert "- skipped skipped: needs a" in Path("s.md").read_text()


def test_a_failure_names_tensor_metric_origin_and_next_command(tiny_cases, harness) -> None:
    tiny_cases("failing")
    _, out, _ = harness("run", "cases")
    assert "✗ FAIL failing at fp16: y: 30 of 32 elements are not finite" in out
    assert (
        "node square (Mul): 30 of 32 elements overflow; the reference reaches 3.5e6, 53.1× the largest" in out
    )
    assert "cases/failing.case.yaml --precision fp16" in out


def test_a_mistake_in_one_case_does_not_stop_the_others(tiny_cases, harness) -> None:
    tiny_cases("clean", "mistaken")
    status, out, errors = harness("run", "cases")
    assert status == 2
    assert "3 pass, 1 could not be judged" in out
    messages = [line for line in errors.splitlines() if line.startswith("error:")]
    assert len(messages) == 1, "one message although it stops two runs"
    assert "mistaken.case.yaml" in messages[0]
    assert "did you mean `scale`?" in messages[0]


def test_all_mistakes_in_case_files_are_reported_and_nothing_runs(tiny_cases, harness, tmp_path) -> None:
    folder = tiny_cases("clean")
    (folder / "a.case.yaml").write_text("modle: {path: x.onnx}\nruns: [fp17]\n")
    (folder / "b.case.yaml").write_text("model: {path: x.onnx}\nseed: soon\n")
    status, out, errors = harness("run", "cases", "--json", "all.json")
    assert status == 2
    assert out == ""
    assert "a.case.yaml:1:1" in errors
    assert "did you mean" in errors
    assert "a.case.yaml:2:" in errors
    assert "b.case.yaml:2:" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "all.json").exists()


def test_json_on_stdout_stands_alone(tiny_cases, harness) -> None:
    tiny_cases("expected")
    status, out, errors = harness("run", "cases", "--precision", "fp16", "--json", "-")
    document = json.loads(out)
    assert status == 0
    assert document["schema"] == "harness.run/1"
    (result,) = document["results"]
    assert (result["case"], result["precision"], result["candidate"]) == ("expected", "fp16", "emulator")
    assert result["verdict"] == "xfail"
    assert [layer["node"] for layer in result["layers"] if layer["origin"]] == ["square"]
    assert result["outputs"][0]["metrics"]["nrmse"] in ("inf", "nan")
    assert "1 failed as expected" in errors, "the person still gets the table"


def test_quiet_json_leaves_only_the_summary_on_stderr(tiny_cases, harness) -> None:
    tiny_cases("clean")
    _, out, errors = harness("run", "cases", "--json", "-", "--quiet")
    json.loads(out)
    assert len(errors.splitlines()) == 1


def test_every_report_is_written_and_no_temporary_file_stays(tiny_cases, harness, tmp_path) -> None:
    tiny_cases("failing")
    status, _, _ = harness(
        "run",
        *("cases", "--json", "out/run.json", "--html", "out/run.html", "--markdown", "out/run.md"),
        *("--plot", "out/growth"),
    )
    assert status == 1
    written = sorted(str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.*"))
    assert written == ["growth/failing.fp16.png", "growth/failing.fp32.png", "run.html", "run.json", "run.md"]
    assert json.loads((tmp_path / "out/run.json").read_text())["results"][1]["verdict"] == "fail"
    assert "1 of 2 runs failed." in (tmp_path / "out/run.html").read_text()
    assert (tmp_path / "out/run.md").read_text().startswith("## 1 of 2 runs failed.")


@pytest.mark.parametrize("name", ["growth.png", "growth.svg", "GROWTH.SVG"])
def test_one_run_is_drawn_into_the_named_file(name: str, tiny_cases, harness, tmp_path) -> None:
    tiny_cases("expected")
    assert harness("run", "cases", "-p", "fp16", "--plot", name)[0] == 0
    assert (tmp_path / name).stat().st_size > 5000


def test_several_runs_do_not_fit_one_picture(tiny_cases, harness, tmp_path) -> None:
    tiny_cases("clean")
    status, out, errors = harness("run", "cases", "--plot", "growth.png")
    assert status == 2
    assert "3 runs are selected" in errors
    assert "--precision" in errors
    assert out == "", "found before anything is run"
    assert not (tmp_path / "growth.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "growth.jpeg"], "name a .png, a .svg or a folder"),
        (["--json", "."], "is a folder"),
        (["--html", "cases"], "is a folder"),
        (["--env", "nowhere"], "no environment is called 'nowhere'"),
        (["--input", "x:[1,2]"], "case file has its own inputs"),
    ],
)
def test_impossible_requests_are_refused_before_anything_runs(
    arguments, message, tiny_cases, harness
) -> None:
    tiny_cases("clean")
    status, out, errors = harness("run", "cases", *arguments)
    assert status == 2
    assert message in errors
    assert out == ""
    assert "[1/3]" not in errors


def test_an_unwritable_report_is_one_message(tiny_cases, harness, tmp_path) -> None:
    tiny_cases("clean")
    (tmp_path / "file").write_text("")
    for option, path in (
        ("--json", "file/run.json"),
        ("--html", "file/page.html"),
        ("--plot", "file/pictures"),
    ):
        status, out, errors = harness("run", "cases", option, path)
        assert status == 2
        assert out == "", "nothing is run whose result cannot be kept"
        (line,) = errors.splitlines()
        assert line.startswith(f"error: {path}: cannot be written: ")


def test_the_last_result_is_written_with_the_report_and_not_before(tiny_cases, harness, monkeypatch) -> None:
    monkeypatch.setattr("harness.cli.outputs.KEEP_SECONDS", 0.0)
    written, write = [], outputs.write_json
    monkeypatch.setattr(
        outputs, "write_json", lambda *given: (written.append(len(given[1]["results"])), write(*given))
    )
    tiny_cases("clean")
    assert harness("run", "cases", "-p", "fp32", "-p", "fp16", "--json", "run.json")[0] == 0
    assert written == [1, 2]


def test_a_report_to_a_fifo_or_a_link_goes_through_it(tiny_cases, harness, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("harness.cli.outputs.KEEP_SECONDS", 0.0)
    tiny_cases("clean")
    fifos = [tmp_path / "json", tmp_path / "markdown"]
    for fifo in fifos:
        os.mkfifo(fifo)
    (tmp_path / "page").symlink_to(tmp_path / "there.html")
    readers = [os.open(fifo, os.O_RDONLY | os.O_NONBLOCK) for fifo in fifos]
    try:
        options = ["--json", "json", "--markdown", "markdown", "--html", "page"]
        status, _, errors = harness("run", "cases", "-p", "fp32", *options)
        assert (status, "error" in errors) == (0, False)
        document, markdown = (os.read(reader, 1 << 16).decode() for reader in readers)
    finally:
        for reader in readers:
            os.close(reader)
    assert "interrupted" not in json.loads(document), "one document, none of those kept meanwhile"
    assert "fp32" in markdown
    assert all(stat.S_ISFIFO(fifo.lstat().st_mode) for fifo in fifos)
    assert (tmp_path / "page").is_symlink()
    assert "<html" in (tmp_path / "there.html").read_text()


@pytest.mark.parametrize(
    "arguments", [["--tag", "nobody"], ["--precision", "fp8"], ["empty"]], ids=["tag", "precision", "folder"]
)
def test_an_empty_selection_ends_with_5(arguments, tiny_cases, harness, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    targets = [] if arguments == ["empty"] else [tiny_cases("clean")]
    status, _, errors = harness("run", *targets, *arguments)
    assert status == 5
    assert errors.startswith("error: ")


def test_tags_and_precisions_select(tiny_cases, harness) -> None:
    tiny_cases("clean", "expected", "failing")
    status, out, _ = harness("run", "cases", "--tag", "sound", "-p", "fp32", "-p", "bf16")
    assert status == 0
    assert "1 case, 2 runs: 2 pass" in out


def test_an_unknown_precision_lists_those_that_exist(tiny_cases, harness) -> None:
    status, _, errors = harness("run", tiny_cases("clean"), "--precision", "fp17")
    assert status == 2
    assert "bf16" in errors


def test_details_list_the_layers(tiny_cases, harness) -> None:
    tiny_cases("expected")
    _, out, _ = harness("run", "cases", "-p", "fp16", "-v")
    assert [word for word in out.split() if word in ("scaled", "square", "root")].count("square") >= 1
    assert "ORIGIN, overflow, out of range" in out


def test_observe_none_judges_the_outputs_alone(tiny_cases, harness) -> None:
    tiny_cases("clean")
    _, out, _ = harness("run", "cases", "--observe", "none", "--json", "-")
    assert all(result["layers"] == [] for result in json.loads(out)["results"])


def test_golden_references_are_written_checked_and_pruned(tiny_cases, harness, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    folder, golden = tiny_cases("clean"), tmp_path / "golden"
    assert harness("run", "cases")[0] == 0
    assert not golden.exists(), "nobody asked for golden references"
    assert harness("run", "cases", "--golden-update")[0] == 0
    assert [path.name for path in golden.iterdir()] == ["clean"]

    models = folder / "models.py"
    models.write_text(models.read_text().replace('"Sqrt", ["square"]', '"Neg", ["square"]'))
    status, out, _ = harness("run", "cases", "-p", "fp32")
    assert status == 1
    assert "FAIL clean at fp32: the reference is not the golden one any more: output 'y' of sample 0" in out
    assert "model: " in out, "and why"
    assert "harness run cases/clean.case.yaml --golden-update" in out
    assert harness("run", "cases", "--golden-update")[0] == 0
    assert harness("run", "cases")[0] == 0

    changed = models.read_text()
    tiny_cases("expected")
    models.write_text(changed)
    status, out, _ = harness("run", "cases")
    assert status == 0
    assert out.count("warning expected: there is no golden reference yet") == 1
    (folder / "clean.case.yaml").unlink()
    status, _, errors = harness("run", "cases", "--golden-prune")
    assert status == 0
    assert f"deleted {golden / 'clean'}" in errors
    assert not (golden / "clean").exists()


@pytest.mark.parametrize("flag", ["--golden-update", "--golden-prune"])
def test_golden_references_are_left_alone_in_ci(
    flag: str, tiny_cases, harness, tmp_path, monkeypatch
) -> None:
    tiny_cases("clean")
    monkeypatch.setenv("CI", "true")
    status, out, errors = harness("run", "cases", flag)
    assert status == 2
    assert errors.startswith("error: golden references are not")
    assert out == ""
    assert not (tmp_path / "golden").exists()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    x = helper.make_tensor_value_info("input:0", TensorProto.FLOAT, ["n", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph([helper.make_node("Relu", ["input:0"], ["y"], "relu")], "g", [x], [y])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8),
        tmp_path / "m.onnx",
    )
    return tmp_path / "m.onnx"


def test_a_model_is_judged_without_a_case_file(model: Path, harness) -> None:
    status, out, _ = harness("run", model, "--input", "input:0:[5,3]")
    assert status == 0
    assert "1 case, 2 runs: 2 pass" in out


def test_the_next_command_names_the_model_where_there_is_no_case_file(tmp_path, harness) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    nodes = [
        helper.make_node("Constant", [], ["big"], "big", value_float=1e9),
        helper.make_node("Mul", ["x", "big"], ["y"]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    onnx.save(model, tmp_path / "my model.onnx")
    status, out, _ = harness("run", "my model.onnx", "-p", "fp16")
    assert status == 1
    assert "'my model.onnx' --precision fp16" in out


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "m.onnx"), (b"not a model", "m.onnx"), (None, "m.onnx")],
    ids=["empty", "not onnx", "missing"],
)
def test_a_broken_model_is_one_message(content: bytes | None, message: str, tmp_path, harness) -> None:
    if content is not None:
        (tmp_path / "m.onnx").write_bytes(content)
    status, _, errors = harness("run", "m.onnx")
    assert status == 2
    messages = [line for line in errors.splitlines() if line.startswith("error:")]
    assert len(messages) == 1
    assert message in messages[0]


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("x:[1,3,224,224]", {"x": [1, 3, 224, 224]}),
        (" x : [ 1 , 3 ] ", {"x": [1, 3]}),
        ("input:0:[2]", {"input:0": [2]}),
        ("scalar:[]", {"scalar": []}),
    ],
)
def test_shapes_are_read(text: str, shape: dict[str, list[int]]) -> None:
    assert parse_shapes([text]) == shape


@pytest.mark.parametrize(
    "texts",
    [["x"], ["x:1,3"], ["x:[1,-3]"], ["x:[1,,3]"], ["x:[a]"], [":[1]"], ["x:[1]", "x:[2]"], ["x:[1.5]"]],
)
def test_a_shape_that_cannot_be_read_says_how_to_write_it(texts: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        parse_shapes(texts)
    assert caught.value.exit_code == 2
    assert "'x" in str(caught.value) or "name:[1,3,224,224]" in str(caught.value)


@pytest.mark.parametrize(("faithful", "said"), [(True, False), (None, False), (False, True)])
def test_progress_says_when_observing_changed_an_engine(faithful: bool | None, said: bool, capsys) -> None:
    result = RunResult("mlp", Precision.FP16, "trt-8.6", Verdict.XFAIL, faithful=faithful)
    progress = RunProgress(sys.stderr)
    progress(RunEvent("done", 0, 2, "mlp", Precision.FP16, "trt-8.6", result=result))
    assert ("perturbed by observation" in capsys.readouterr().err) == said


def test_progress_reminds_of_a_run_that_takes_long(capsys) -> None:
    seen = ""
    with RunProgress(sys.stderr, first_reminder=0.02) as progress:
        progress(RunEvent("start", 1, 20, "mlp", Precision.FP16, "trt-8.6"))
        progress(RunEvent("stage", 1, 20, "mlp", Precision.FP16, "trt-8.6", "candidate"))
        until = time.monotonic() + 30
        while seen.count("so far") < 2 and time.monotonic() < until:
            seen += capsys.readouterr().err
        result = RunResult("mlp", Precision.FP16, "trt-8.6", Verdict.PASS)
        progress(RunEvent("done", 1, 20, "mlp", Precision.FP16, "trt-8.6", result=result))
        capsys.readouterr()
        time.sleep(0.1)
        assert capsys.readouterr().err == ""
    lines = seen.splitlines()
    assert all(line.startswith("[ 2/20] mlp at fp16 on trt-8.6") for line in lines)
    assert ": candidate, " in lines[-1]
