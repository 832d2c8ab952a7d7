"""The race's own parts: contenders with a time limit, results kept one by one, and one result of them all."""

import json
import sys
import time
from pathlib import Path

import pytest

from benchmarks import race_polygraphy as race
from benchmarks.race_contenders import CONTENDERS, precision_command, reduce_command, run

ROOT = Path(__file__).parents[2]
ADAPTER = ROOT / "tests" / "diagnosis" / "emulated_worker.py"

# The environment's Python: a worker gets engines that are emulated, and polygraphy is a double that offers the check
# an engine three times. It passes at the last.
PYTHON = f"""
import json, os, subprocess, sys

arguments = sys.argv[1:]
if arguments[0] == "-c":
    with open("asked.json", "w") as file:
        json.dump(arguments, file)
    check = arguments[arguments.index("--check") + 1:]
    while subprocess.run(check).returncode:
        pass
    print("[I] To achieve acceptable accuracy, try running the first 17 layer(s) in higher precision")
elif arguments[0] == "check.py":
    log = open("checks.jsonl", "a+")
    log.seek(0)
    passed = len(log.readlines()) == 2
    log.write(json.dumps({{"passed": passed, "rmse": {{}}, "max_abs": 0.25}}) + chr(10))
    sys.exit(not passed)
else:
    os.execv(sys.executable, [sys.executable, *arguments, "--adapter", {str(ADAPTER)!r}])
"""


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "python.py").write_text(PYTHON)
    command = json.dumps([sys.executable, str(tmp_path / "python.py")])
    config = tmp_path / "harness.toml"
    config.write_text(f"[environments.double]\ncommand = {command}\n")
    for name, value in {
        "HARNESS_CONFIG": config,
        "HARNESS_SCRATCH": tmp_path / "s",
        "XDG_CACHE_HOME": tmp_path / "c",
        "COUNTER": tmp_path / "counter",
        "PYTHONPATH": ROOT,
    }.items():
        monkeypatch.setenv(name, str(value))
    return "double"


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["race_polygraphy", *map(str, arguments)])
    return race.main()


def test_each_contender_leaves_its_result_and_they_make_one(environment, monkeypatch, capsys, tmp_path):
    out = tmp_path / "out"
    asked = ["--env", environment, "--model", "rmsnorm-overflow", "--out", out]
    asked += [f"--contender={who}" for who in CONTENDERS if who != "polygraphy reduce"]
    assert command(monkeypatch, *asked) == 0
    assert len(list(out.glob("*.json"))) == 4
    assert command(monkeypatch, "--merge", out, "--out", tmp_path / "race.json") == 0
    document = json.loads((tmp_path / "race.json").read_text())
    rows = document["models"]["rmsnorm-overflow"]
    assert list(rows) == ["harness cold", "harness warm", "polygraphy forward", "polygraphy reverse"]
    for who, builds in (("harness cold", 3), ("harness warm", 1)):
        row = rows[who]
        assert (row["verdict"], row["confirmed"], row["kept_in_fp32"]) == ("precision", True, 4)
        assert row["builds"] == builds
    assert 0 < rows["harness warm"]["final_max_abs"] < 0.1
    assert document["environments"]["double"]["tensorrt"] == "8.6.0"
    for direction in ("forward", "reverse"):
        row = rows[f"polygraphy {direction}"]
        assert (row["builds"], row["kept_in_fp32"], row["final_max_abs"]) == (3, 17, 0.25)
        assert row["pinned"]
    assert "| rmsnorm-overflow: polygraphy reverse | 3 |" in capsys.readouterr().out


def test_what_is_there_is_not_raced_again_and_what_no_time_is_left_for_waits(
    environment, monkeypatch, capsys, tmp_path
):
    raced = []
    monkeypatch.setattr(
        race, "CONTENDERS", {name: lambda track, name=name: raced.append(name) or {} for name in ("a", "b")}
    )
    asked = ["--env", environment, "--model", "accumulated", "--out", tmp_path / "out"]
    assert command(monkeypatch, *asked, "--total", 0) == 1
    assert raced == []
    assert "goes on there" in capsys.readouterr().out
    assert command(monkeypatch, *asked) == command(monkeypatch, *asked) == 0
    assert raced == ["a", "b"]


def test_a_contender_that_raises_is_a_result(environment, monkeypatch, tmp_path):
    def broken(track):
        raise RuntimeError("lost")

    monkeypatch.setattr(race, "CONTENDERS", {"a": broken})
    assert command(monkeypatch, "--env", environment, "--model", "attention", "--out", tmp_path / "out") == 0
    (path,) = (tmp_path / "out").glob("*.json")
    assert json.loads(path.read_text())["row"] == {"error": "RuntimeError: lost"}


def test_at_the_limit_a_contender_ends_with_all_that_it_started(tmp_path):
    program = "import subprocess, time; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); time.sleep(60)"
    ran = run([sys.executable, "-c", program], tmp_path, 3.0)
    assert ran.exit is None
    assert 3.0 <= ran.seconds < 20.0
    child = int(ran.said.split()[-1])
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)  # it was killed, but not by its parent, who would wait for it
    assert not alive(child)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_contender_may_get_variables_of_its_own(tmp_path):
    program = "import os; print(os.environ['XDG_CACHE_HOME'], 'PATH' in os.environ)"
    assert run([sys.executable, "-c", program], tmp_path, 60.0, XDG_CACHE_HOME="/none").said == "/none True\n"


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_polygraphy_takes_the_command_lines(direction, tmp_path):
    pytest.importorskip("polygraphy")
    tool = [sys.executable]
    model = race.write_case("attention", tmp_path).parent / "model.onnx"
    for line in (
        [*precision_command(tool, model, direction, tmp_path), "--tactic-sources", "CUBLAS"],
        reduce_command(model, tmp_path / "reduced.onnx"),
    ):
        said = run([*line, "--check", "false"], tmp_path, 60.0).said
        # Without TensorRT it goes no further than this; a mistake in the arguments ends it before.
        assert "is required but could not be imported" in said or "RUNNING" in said
        assert "usage:" not in said
        assert "unrecognized" not in said
