"""`harness drift` and `harness history` on real, tiny cases."""

from __future__ import annotations

import datetime
import json
import shlex
import signal
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from harness.cli.history import doubt_age
from harness.errors import HistoryError
from harness.history import load_history
from harness.history.store.schema import METADATA_KEY
from harness.report import short

OLD, NEW = "emulator:fp16,noise=0.2,seed=1", "emulator:fp16,noise=0.2,seed=2"
FAULTY = f"{NEW},plant=square@bf16"


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.delenv("CI", raising=False)
    return tmp_path


def drift(harness, *arguments: object, new: str = NEW, repeats: int = 2):
    return harness("drift", "cases", "-e", OLD, "-e", new, "-k", repeats, *arguments)


def test_releases_within_noise_exit_with_0_and_leave_a_run(tiny_cases, harness) -> None:
    tiny_cases("clean")
    status, out, errors = drift(harness)
    assert status == 0
    assert "≈ within noise" in out
    assert f"Nothing moved beyond noise on {short(NEW, 28)}." in out
    assert errors.splitlines()[0].startswith(f"[1/4] clean at fp16 on {OLD} build 1: pass, nrmse ")
    assert len(list(Path("reports/history").glob("*.parquet"))) == 1


def test_a_fault_exits_with_1_and_names_node_and_command(tiny_cases, harness) -> None:
    tiny_cases("clean")
    status, out, _ = drift(harness, new=FAULTY, repeats=3)
    assert status == 1
    assert "square (Mul)" in out
    assert "  next  " not in out, "the plain emulator has no such fault"
    status, out, _ = drift(harness, new="emulator:bf16")
    assert status == 1
    assert "  next  " not in out, "a diagnosis has other gates at bf16 than the drift at fp16"


def test_the_next_command_shows_the_same_fault(tiny_cases, harness) -> None:
    tiny_cases("failing")
    status, out, _ = harness("drift", "cases", "-e", "emulator:fp32", "-e", "emulator:fp16", "-p", "fp16")
    assert status == 1
    (line,) = [line for line in out.splitlines() if line.startswith("  next")]
    status, out, _ = harness(*shlex.split(line.removeprefix("  next"))[1:])
    assert status == 1
    assert "it starts at square (Mul)" in out


def test_every_report_is_written_and_no_temporary_file_stays(tiny_cases, harness, tmp_path: Path) -> None:
    tiny_cases("clean")
    files = ["d.html", "d.md", "d.json", "d.csv", "d.parquet"]
    drift(
        harness, "--html", "d.html", "--markdown", "d.md", "--json", "d.json", "--table", "d.csv",
        "--table", "d.parquet", new=FAULTY, repeats=3,
    )  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["cases", "reports", *files])
    assert json.loads(Path("d.json").read_text())["schema"] == "harness.drift/2"
    csv, parquet = pd.read_csv("d.csv"), pd.read_parquet("d.parquet")
    assert list(csv.columns) == list(parquet.columns)
    assert len(csv) == len(parquet) > 0


def test_json_on_stdout_stands_alone(tiny_cases, harness) -> None:
    tiny_cases("clean")
    _, out, errors = drift(harness, "--json", "-", "--quiet")
    assert json.loads(out)["exit_code"] == 0
    assert "Nothing moved" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["drift", "cases", "-e", OLD, "-e", OLD], "named twice"),
        (["drift", "cases", "-e", "emulator:fp17"], "is not a precision"),
        (["drift", "cases", "-e", "trt-8.6", "-e", OLD], "trt-8.6"),
        (["drift", "cases", "-e", OLD, "-e", NEW, "--repeats", "0"], "at least once"),
        (["drift", "cases", "-e", OLD, "-e", NEW, "--html", "cases"], "is a folder"),
        (["drift", "cases", "-e", OLD, "-e", NEW, "--table", "x.xlsx"], "name a .csv or a .parquet"),
        (["drift", "cases", "-e", OLD, "-e", NEW, "--min-effect", "-1"], "0 or more"),
        (["drift", "cases", "-e", OLD, "-e", NEW, "--resume"], "no interrupted run"),
        (["drift", "cases", "-e", OLD, "-e", NEW, "--baseline-update"], "one release"),
        (["history", "list"], "holds no history"),
        (["history", "show", "--env", "x"], "add --last 30"),
        (["history", "export", "x.txt"], "name a .csv or a .parquet"),
    ],
)
def test_mistakes_exit_with_2_and_run_nothing(
    tiny_cases, harness, arguments: list[str], message: str
) -> None:
    tiny_cases("clean")
    status, out, errors = harness(*arguments)
    assert status == 2
    assert message in errors
    assert out == ""
    assert not Path("reports/history").exists() or not list(Path("reports/history").iterdir())


def test_annotations_are_printed_in_github_actions_or_when_asked(tiny_cases, harness, monkeypatch) -> None:
    tiny_cases("clean")
    _, out, _ = drift(harness, new=FAULTY, repeats=3)
    assert "::error" not in out
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    _, out, _ = drift(harness, new=FAULTY, repeats=3)
    assert "\n::error file=cases/clean.case.yaml,line=3,title=" in out
    _, out, _ = drift(harness, "--no-annotate", new=FAULTY, repeats=3)
    assert "::error" not in out


@pytest.mark.parametrize(("number", "ended"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_how_to_continue_and_resumes(
    tiny_cases, harness, monkeypatch, number, ended
) -> None:
    tiny_cases("clean", "failing")
    from harness.judge import Judge

    run, seen = Judge.run, []

    def stop(self, case, *arguments):
        if case.name == "failing" and not seen:
            seen.append(case.name)
            signal.raise_signal(number)
        return run(self, case, *arguments)

    monkeypatch.setattr(Judge, "run", stop)
    status, _, errors = drift(harness)
    assert status == ended
    assert "continue with --resume" in errors
    assert harness("history", "show")[0] == 2, "no run is finished"
    (interrupted,) = (
        line.split()[0] for line in harness("history", "list")[1].splitlines() if "interrupted" in line
    )
    status, out, errors = harness("history", "show", interrupted)
    assert (status, "clean" in out, "failing" in out) == (0, True, False)
    assert "was interrupted" in errors
    status, _, errors = drift(harness, "--resume")
    assert status == 0
    assert "clean at" not in errors
    assert "failing at" in errors


def test_baselines_are_written_compared_and_refused_in_ci(tiny_cases, harness, monkeypatch) -> None:
    tiny_cases("clean")
    status, out, _ = harness("drift", "cases", "-e", "emulator:fp16")
    assert (status, "there is no baseline; --baseline-update writes one" in out) == (5, True)
    status, out, errors = harness("drift", "cases", "-e", "emulator:fp16", "--baseline-update")
    assert status == 0
    assert "there is no baseline; it is written now" in out
    assert "golden/clean/emulator/fp16.json" in errors
    assert harness("drift", "cases", "-e", "emulator:fp16")[0] == 0
    assert harness("drift", "cases", "-e", "emulator:bf16", "-p", "fp16")[0] == 1
    monkeypatch.setenv("CI", "true")
    status, _, errors = harness("drift", "cases", "-e", "emulator:bf16", "-p", "fp16", "--baseline-update")
    assert (status, "where CI is set" in errors) == (2, True)
    monkeypatch.delenv("CI")
    assert harness("drift", "cases", "-e", "emulator:bf16", "-p", "fp16", "--baseline-update")[0] == 0
    assert harness("drift", "cases", "-e", "emulator:bf16", "-p", "fp16")[0] == 0


def test_history_is_listed_shown_and_exported(tiny_cases, harness) -> None:
    tiny_cases("clean")
    drift(harness, new=FAULTY, repeats=3)
    drift(harness)
    status, out, _ = harness("history", "list")
    assert status == 0
    runs = [line.split()[0] for line in out.splitlines() if "finished" in line]
    assert len(runs) == 2
    status, out, _ = harness("history", "show", runs[0][:19], "--html", "again.html")
    assert status == 1
    assert "square (Mul)" in out
    assert Path("again.html").stat().st_size > 20_000
    assert harness("history", "show")[0] == 0, "the newest"
    assert harness("history", "show", "reports/history")[1] == harness("history", "show")[1], "of a folder"
    assert harness("history", "show", "2")[0] == 2, "the beginning of two"
    assert harness("history", "show", "1999")[0] == 2
    status, out, errors = harness("history", "export", "all.csv", "--column", "case", "--column", "error")
    assert status == 0
    frame = pd.read_csv("all.csv")
    assert list(frame.columns) == ["case", "error"]
    assert errors.startswith(f"wrote {len(frame)} rows of reports/history to ")
    assert harness("history", "export", "one.parquet", "--last", "1", "--case", "cl*")[0] == 0
    assert len(pd.read_parquet("one.parquet")) < len(frame)
    for command in (("export", "none.csv"), ("show",)):
        assert harness("history", *command, "--last", "0")[0] == 2, "not all of them"
    with pytest.raises(HistoryError, match="at least 1"):
        load_history(last=0)
    status, _, errors = harness("history", "export", "none.csv", "--case", "other")
    assert (status, "the cases are clean" in errors) == (5, True)


def test_a_history_without_a_row_that_can_be_read_is_not_exported(tiny_cases, harness) -> None:
    tiny_cases("clean")
    drift(harness)
    (path,) = Path("reports/history").glob("*.parquet")
    pq.write_table(pq.read_table(path).drop_columns(["p99_ulp"]), path)
    for options in ((), ("--case", "cl*")):
        status, out, errors = harness("history", "export", "rows.csv", *options)
        assert (status, out) == (2, "")
        assert "reports/history: holds no row that this version of harness reads" in errors
        assert not Path("rows.csv").exists()


def test_nightly_runs_of_one_release_are_compared_with_those_before(tiny_cases, harness) -> None:
    tiny_cases("clean")
    for expected in ("The first run on emulator:fp16 in this history: ", "Nothing moved"):
        status, out, _ = harness("drift", "cases", "-e", "emulator:fp16", "-k", 1, "--against", "history")
        assert (status, expected in out) == (0, True)
    status, out, _ = harness("history", "show", "--last", "30", "--html", "night.html")
    assert status == 0
    assert "compared with the run before" in out
    assert "Night by night" in Path("night.html").read_text()
    status, _, errors = harness("history", "show")
    assert (status, "compare it with earlier ones: --last 30" in errors) == (2, True)


def move_run(path: Path, run: str) -> None:
    """Rename a finished run, as if its machine's clock had said something else."""
    table = pq.read_table(path)
    described = json.loads(table.schema.metadata[METADATA_KEY]) | {"run": run}
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(described)}), path.with_stem(run))
    path.unlink()


def worsen(path: Path) -> None:
    """Make all errors of a finished run ten times as large."""
    table = pq.read_table(path)
    place = table.schema.get_field_index("error")
    errors = pa.array(np.float32(10) * table["error"].to_numpy())
    hashes = pa.array([None if text is None else f"{text}*" for text in table["hash"].to_pylist()])
    table = table.set_column(place, "error", errors)
    pq.write_table(table.set_column(table.schema.get_field_index("hash"), "hash", hashes), path)


def test_a_newest_run_that_is_not_from_tonight_gets_a_warning(tiny_cases, harness) -> None:
    tiny_cases("clean")

    def tonight() -> tuple[Path, str]:
        _, out, _ = harness("drift", "cases", "-e", "emulator:fp16", "-k", 1, "--against", "history")
        (path,) = (path for path in Path("reports/history").glob("*.parquet") if path.stem in out)
        return path, out

    path, out = tonight()
    assert f"Run {path.stem} of {path.stem[:4]}-{path.stem[4:6]}-{path.stem[6:8]} " in out
    assert harness("history", "show", "--last", 30)[2] == ""
    move_run(path, "20990102T030400000Z-aaaaaa")
    status, out, errors = harness("history", "show", "--last", 30)
    assert (status, "Run 20990102T030400000Z-aaaaaa of 2099-01-02 03:04 UTC" in out) == (0, True)
    assert "20990102T030400000Z-aaaaaa, the newest run, began in the future, at 2099-01-02 03:04" in errors
    path, out = tonight()
    assert "The first run on emulator:fp16" in out, "that of the future is no earlier night"
    for kept in Path("reports/history").iterdir():
        kept.unlink()
    path, _ = tonight()
    move_run(path, "20260102T030400000Z-aaaaaa")
    assert (
        "days ago: if there should be one from today, it did not finish"
        in harness("history", "show", "--last", 30)[2]
    )


def test_an_age_beyond_the_slack_of_clocks_and_schedulers_gets_a_warning() -> None:
    now = datetime.datetime(2026, 1, 31, 2, 0, tzinfo=datetime.UTC)
    for hours, doubted in ((0, False), (-0.05, False), (-1, True), (22, False), (23.9, True), (200, True)):
        assert bool(doubt_age(now - datetime.timedelta(hours=hours), now)) == doubted


def test_a_stray_file_in_the_history_prevents_no_report(tiny_cases, harness) -> None:
    tiny_cases("clean")
    stray = Path("reports/history/20250101T000000000Z-aaaaaa.parquet")
    stray.parent.mkdir(parents=True)
    stray.touch()
    status, _, errors = drift(harness, "--html", "d.html", "--json", "d.json")
    assert (status, "skipped" in errors) == (0, False), "no other file is looked at"
    assert Path("d.html").stat().st_size > 20_000
    (tonight,) = (path for path in stray.parent.glob("*.parquet") if path != stray)
    assert harness("history", "show", tonight)[0] == 0
    for command in (["list"], ["show"], ["show", "--last", 1], ["export", "all.csv"]):
        status, _, errors = harness("history", *command)
        assert status == 0
        if command != ["show", "--last", 1]:
            assert errors.count(f"warning: {stray}: is not a file of the history: ") == 1
    (stray.parent / "20990101T000000000Z-aaaaaa.parquet").touch()
    status, _, errors = harness("history", "show", "--last", 30)
    assert status == 0
    assert errors.count("warning: ") == 2, "each is printed once"
    assert harness("history", "show", stray)[0] == 2


@pytest.mark.parametrize(
    ("expires", "status", "said"),
    [
        (None, 1, "regressed"),
        ("2999-12-31", 0, "except for 1 waived run"),
        ("2026-01-01", 1, "expired"),
    ],
)
def test_runs_shown_later_apply_the_waivers_of_the_case_files(
    tiny_cases, harness, expires: str | None, status: int, said: str
) -> None:
    case = tiny_cases("clean") / "clean.case.yaml"
    for _ in range(2):
        assert harness("drift", "cases", "-e", "emulator:fp16", "-k", 2, "--against", "history")[0] == 0
    worsen(max(Path("reports/history").glob("*.parquet")))
    if expires is not None:
        waiver = f"\nwaivers:\n  - reason: fixed in the next release\n    expires: {expires}\n"
        case.write_text(case.read_text() + waiver)
    found, out, _ = harness("history", "show", "--last", 30)
    assert (found, said in out) == (status, True), out


def test_comparing_nothing_is_not_a_success(tiny_cases, harness) -> None:
    tiny_cases("skipped")
    assert harness("drift", "cases", "-e", "emulator:fp16", "-k", 1, "--against", "history")[0] == 5
    status, out, _ = drift(harness, repeats=1)
    assert status == 5
    assert "Nothing could be compared: " in out
    assert "needs a_package_that_is_nowhere" in out
    tiny_cases("clean")
    assert drift(harness, repeats=1)[0] == 0, "one case was compared"


def test_a_single_release_without_anything_older_says_what_to_try(
    tiny_cases, harness, tmp_path: Path
) -> None:
    tiny_cases("clean")
    status, out, _ = harness("drift", "cases", "-e", OLD, "-k", 1)
    text = " ".join(out.split())
    assert status == 5
    assert "try a second --env; --against golden with --baseline-update, which writes baselines; or" in text
    assert "or --against history, which compares with earlier runs" in text
    x, y = (make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy")
    model = tmp_path / "bare.onnx"
    graph = make_graph([make_node("Relu", ["x"], ["y"])], "bare", [x], [y])
    onnx.save(make_model(graph, ir_version=9, opset_imports=[make_opsetid("", 17)]), model)
    status, out, _ = harness("drift", model, "-e", OLD, "-k", 1)
    assert status == 5
    assert "try a second --env; or --against history" in " ".join(out.split()), (
        "it has no place for baselines"
    )
    for words in (("--against", "history"), ("-e", NEW), ("--baseline-update",)):
        status, out, _ = harness("drift", "cases", "-e", OLD, "-k", 1, *words)
        assert (status, "try a second" in out) == (0, False), words


@pytest.mark.parametrize(
    ("node", "hint"), [("sqare", "did you mean `square`?"), ("zzz", "such as scaled, square, root, y")]
)
def test_a_plant_without_a_node_is_refused_before_anything_is_run(
    tiny_cases, harness, node: str, hint: str
) -> None:
    tiny_cases("clean")
    status, out, errors = drift(harness, new=f"{NEW},plant={node}@bf16")
    assert (status, out) == (2, "")
    assert f"--env {NEW},plant={node}@bf16: no selected case has a node '{node}'" in errors
    assert hint in errors
    assert not Path("reports").exists()


def test_a_plant_may_sit_in_one_of_several_cases(tiny_cases, harness) -> None:
    folder = tiny_cases("clean", "skipped")
    models = (folder / "models.py").read_text()
    (folder / "others.py").write_text(models.replace('"square"', '"sq"'))
    (folder / "other.case.yaml").write_text("model: {builder: others:squares}\nruns: [fp16]\n")
    status, out, _ = drift(harness, new=FAULTY, repeats=3)
    assert status == 1
    assert "square (Mul)" in out
