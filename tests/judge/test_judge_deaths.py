"""Functions of users that end their process, or never return: an error of that run, and of no other."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import norm_chain
from onnx import TensorProto, helper
from test_judge_operators import power_chain

from harness.case import load_case, load_operators
from harness.errors import BuilderError
from harness.judge import Verdict, run

ENDINGS = """
import ctypes
import os
import re
import signal


def exits():
    os._exit(3)


def leaves_c():
    ctypes.CDLL(None).exit(4)


def aborts():
    os.abort()


def crashes():
    os.kill(os.getpid(), signal.SIGSEGV)


def is_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def reads_null():
    ctypes.string_at(0)


def loops():
    number = 0
    while True:
        number += 1


def loops_in_c():
    return sum(iter(int, 1))


def leaves_a_child():
    if os.fork() == 0:
        signal.pause()
    os._exit(5)
"""
DEATHS = {
    "exits": ("ended its process with exit status 3", 9),
    "leaves_c": ("ended its process with exit status 4", None),
    "aborts": ("ended its process with SIGABRT (aborted)", 17),
    "crashes": ("ended its process with SIGSEGV (segmentation fault)", 21),
    "is_killed": ("ended its process with SIGKILL (killed)", 25),
    "reads_null": ("ended its process with SIGSEGV (segmentation fault)", 29),
    "leaves_a_child": ("ended its process with exit status 5", 45),
}

USERS = """
import onnx
from onnx.reference.op_run import OpRun

import endings


def build(ending):
    getattr(endings, ending)()


def score(reference, candidate, ending):
    getattr(endings, ending)()


class Power(OpRun):
    op_domain = "our.ops"
    ending = ""

    def _run(self, x, scale, power=None):
        getattr(endings, self.ending)()
"""


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("endings.py").write_text(ENDINGS)
    endings = "".join(
        f"\n\ndef ops_{name}():\n    Power.ending = '{name}'\n    return Power\n"
        for name in (*DEATHS, "loops", "loops_in_c")
    )
    Path("users.py").write_text(USERS + endings)
    onnx.save(power_chain(), "power.onnx")
    onnx.save(norm_chain(), "m.onnx")
    Path("b.case.yaml").write_text("model: {path: m.onnx}\ninputs: {x: [5, 16]}\nruns: [fp16]\n")


def judge(kind: str, ending: str):
    """The run of a case whose function ends like that, between others that are in order."""
    text = {
        "builder": f"model: {{builder: users:build, args: {{ending: {ending}}}}}\nruns: [fp16]\n",
        "metric": "model: {path: m.onnx}\ninputs: {x: [5, 16]}\nruns: [fp16]\n"
        f"metric: {{function: users:score, args: {{ending: {ending}}}}}\n",
        "ops": f"model: {{path: power.onnx}}\nruns: [fp16]\nops: users:ops_{ending}\n",
    }
    Path("a.case.yaml").write_text(text[kind])
    first, second = run(["a.case.yaml", "b.case.yaml"]).results
    assert second.verdict is Verdict.PASS
    assert first.verdict is Verdict.ERROR
    return first


@pytest.mark.parametrize("kind", ["builder", "metric", "ops"])
@pytest.mark.parametrize("ending", DEATHS)
def test_a_function_that_ends_its_process_is_an_error_of_that_run_with_its_line(
    kind: str, ending: str
) -> None:
    said, line = DEATHS[ending]
    result = judge(kind, ending)
    assert said in result.reason
    assert result.reason.split(": ", 1)[1].startswith(f"{kind} users:")
    if line is not None:
        assert result.error.where == f"endings.py:{line}"
    else:  # the C library ends the process, and tells nobody: the function that was called is named
        assert result.error.where.startswith("users.py:")


@pytest.mark.parametrize("kind", ["builder", "metric", "ops"])
@pytest.mark.parametrize(("ending", "lines"), [("loops", (34, 35)), ("loops_in_c", (39,))])
def test_a_function_that_never_returns_is_ended_where_it_is(
    kind: str, ending: str, lines: tuple[int, ...], monkeypatch
) -> None:
    Path("harness.toml").write_text("[functions]\nseconds = 0.5\n")
    monkeypatch.setenv("HARNESS_CONFIG", str(Path("harness.toml").absolute()))
    began = time.monotonic()
    result = judge(kind, ending)
    assert time.monotonic() - began < 30
    assert "did not return within 0.5 s" in result.reason
    assert result.error.where in {f"endings.py:{line}" for line in lines}


def test_a_module_that_ends_the_process_when_it_is_imported_is_named_with_its_line() -> None:
    Path("users.py").write_text("import os\n\nos._exit(7)\n")
    result = judge("builder", "none")
    assert (result.error.where, "exit status 7" in result.reason) == ("users.py:3", True)


def test_operators_are_loaded_again_after_one_of_them_ended_its_process() -> None:
    once = "if not os.path.exists('once'):\n            open('once', 'w').close()\n            os._exit(3)\n"
    Path("users.py").write_text(
        USERS.replace("getattr(endings, self.ending)()", f"{once}        return (x * scale,)", 3).replace(
            "import onnx\n", "import os\n\nimport onnx\n", 1
        )
        + "\n\ndef ops():\n    return Power\n"
    )
    Path("a.case.yaml").write_text("model: {path: power.onnx}\nruns: [fp16]\nops: users:ops\n")
    operators = load_operators(load_case("a.case.yaml"))
    x, s, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xsy")
    node = helper.make_node("Power", ["x", "s"], ["y"], "power", domain="our.ops")
    opsets = [helper.make_opsetid("our.ops", 1)]
    model = helper.make_model(helper.make_graph([node], "g", [x, s], [y]), opset_imports=opsets)
    given = {"x": np.float32([1, 2]), "s": np.float32([3])}
    with pytest.raises(BuilderError, match="ended its process with exit status 3"):
        operators.compute(model.SerializeToString(), "power", given, {"y": "float32"})
    found = operators.compute(model.SerializeToString(), "power", given, {"y": "float32"})
    assert found["y"].tolist() == [3.0, 6.0]


def test_what_functions_print_and_change_stays_in_their_process(capfd) -> None:
    Path("users.py").write_text(
        "import ctypes, os, sys\nimport numpy as np\nimport onnx\n\n\ndef build():\n"
        "    print('to stdout')\n    os.write(1, b'written')\n    os.chdir('/')\n"
        "    os.environ['CHANGED'] = '1'\n    return onnx.load(os.environ['HERE'] + '/m.onnx')\n"
    )
    os.environ["HERE"] = str(Path.cwd())
    try:
        Path("a.case.yaml").write_text("model: {builder: users:build}\ninputs: {x: [5, 16]}\nruns: [fp32]\n")
        before = Path.cwd()
        for _ in range(2):
            (result,) = run("a.case.yaml").results
            assert result.verdict is Verdict.PASS, result.reason
    finally:
        del os.environ["HERE"]
    assert Path.cwd() == before
    assert "CHANGED" not in os.environ
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.count("to stdout") == 2


def test_the_process_of_functions_ends_with_harness_also_in_a_loop_in_c(tmp_path: Path) -> None:
    Path("users.py").write_text(
        "import os\n\n\ndef build():\n    with open('pid', 'w') as file:\n        file.write(f'{os.getpid()}\\n')\n"
        "    return sum(iter(int, 1))\n"
    )
    Path("a.case.yaml").write_text("model: {builder: users:build}\nruns: [fp32]\n")
    command = [sys.executable, "-c", "import harness; harness.run('a.case.yaml')"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as started:
        until = time.monotonic() + 60
        while not (Path("pid").exists() and Path("pid").read_text().endswith("\n")):
            assert time.monotonic() < until
            time.sleep(0.05)
        started.kill()
    number = int(Path("pid").read_text())
    until = time.monotonic() + 10
    while Path(f"/proc/{number}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    state = Path(f"/proc/{number}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"
