"""The command line as a whole: what it imports, how it ends, what it says when something is wrong."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import harness
from harness import cli
from harness.cli import BROKEN_PIPE, COMMANDS, INTERRUPTED, TERMINATED, main, outputs
from harness.errors import (
    BudgetExhaustedError,
    CandidateError,
    HarnessError,
    InternalError,
    NothingSelectedError,
    UsageError,
)

HEAVY = (
    "numpy",
    "sympy",
    "torch",
    "onnx",
    "onnxruntime",
    "onnx_ir",
    "pandas",
    "matplotlib",
    "pydantic",
    "polygraphy",
    "jinja2",
)
HARNESS = [sys.executable, "-c", "import sys; from harness.cli import main; sys.exit(main())"]


def imported_by(code: str) -> set[str]:
    script = f"import sys, json\n{code}\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_imports_nothing_heavy() -> None:
    modules = imported_by("from harness.cli import main\nassert main(['--help']) == 0")
    assert "harness.cli" in modules
    assert not modules & set(HEAVY)
    assert not {
        name for name in modules if name.startswith("harness.") and not name.startswith("harness.cli")
    } - {"harness.errors"}


def test_help_lists_every_command_with_a_line(capsys) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, lazy in COMMANDS.items():
        assert name in text
        assert lazy.help[:20] in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_loaded_and_has_a_help(name: str, capsys) -> None:
    assert main([name, "--help"]) == 0
    assert f"harness {name}" in capsys.readouterr().out


def test_a_command_does_not_load_its_neighbours() -> None:
    modules = imported_by("from harness.cli import main\nassert main(['run', '--help']) == 0")
    assert "harness.cli.run" in modules
    assert not {"harness.cli.env", "harness.cli.case", "harness.cli.doctor"} & modules


def test_a_run_does_not_import_sympy_which_onnx_ir_has_for_sums_of_symbolic_sizes() -> None:
    assert "sympy.core" not in imported_by("import harness.judge.judge, harness.backends.tensorrt")
    code = "import harness.model.load, onnx_ir\nassert str(onnx_ir.SymbolicDim('N') + 1) == 'N + 1'"
    assert "sympy.core" in imported_by(code)


AT_SPAWN = """
import json, os, subprocess, sys
def spawn(self, *arguments, **more):
    print(json.dumps(sorted(sys.modules)), flush=True)
    os._exit(0)
subprocess.Popen.__init__ = spawn
from harness.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("line", ["diagnose m.onnx -p fp16 --env here", "run m.onnx -e here --json r.json"])
def test_the_worker_is_started_before_anything_else_is_imported(line: str, tmp_path: Path) -> None:
    (tmp_path / "harness.toml").write_text('[environments.here]\npython = "/usr/bin/python3"\n')
    command = [sys.executable, "-c", AT_SPAWN, *line.split()]
    variables = {**os.environ, "HARNESS_SCRATCH": str(tmp_path / "s")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=variables, check=True)
    modules = set(json.loads(done.stdout))
    assert "harness.environments.started" in modules
    early = {"harness.environments.config", "harness.case.schema", "harness.worker.protocol.messages"}
    assert not modules & {*HEAVY, *early, "rich", "asyncio"}


@pytest.mark.parametrize("line", ["diagnose --wrong -e here", "run --env here", "run --help -e here"])
def test_a_command_that_comes_to_nothing_leaves_no_worker(line: str, tmp_path: Path, monkeypatch) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho $$ >> {tmp_path}/pids\nsleep 100\n")
    python.chmod(0o755)
    (tmp_path / "harness.toml").write_text('[environments.here]\npython = "./python"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path / "s"))
    assert main(line.split()) == (0 if "--help" in line else 2)
    assert not list((tmp_path / "s").glob("harness/*"))
    pids = (tmp_path / "pids").read_text().split() if (tmp_path / "pids").exists() else []
    assert "--help" not in line or not pids
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()


def test_sigterm_while_the_line_is_read_ends_the_worker_too(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho $$ >> {tmp_path}/pids\nexec sleep 100\n")
    python.chmod(0o755)
    (tmp_path / "harness.toml").write_text('[environments.here]\npython = "./python"\n')
    code = (
        "import time, typer.main\n"
        "from harness import cli\n"
        "typer.main.get_command = lambda app: print('started', flush=True) or time.sleep(60)\n"
        "cli.main(['run', 'm.onnx', '--env', 'here'])\n"
    )
    variables = {**os.environ, "HARNESS_SCRATCH": str(tmp_path / "s")}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=variables) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        assert len(list((tmp_path / "s").glob("harness/*"))) == 2  # a folder and its lock
        process.terminate()
    assert process.returncode == -signal.SIGTERM
    assert not list((tmp_path / "s").glob("harness/*"))
    for pid in (tmp_path / "pids").read_text().split() if (tmp_path / "pids").exists() else ():
        assert not Path(f"/proc/{pid}").exists()


def test_no_cycles_are_collected_at_exit_which_takes_longer_than_the_rest_of_the_end() -> None:
    code = (
        "from harness.cli import main\n"
        "class Held:\n"
        "    def __del__(self):\n"
        "        print('collected')\n"
        "held = Held()\n"
        "held.itself = held\n"
        "{}\n"
    )

    def said_by(last: str) -> str:
        end = [sys.executable, "-c", code.format(last)]
        return subprocess.run(end, capture_output=True, text=True, check=True).stdout

    assert "collected" in said_by("")
    assert "collected" not in said_by("main(['env', 'list'])")


def test_without_arguments_the_help_is_shown_as_a_mistake() -> None:
    assert main([]) == 2


@pytest.mark.parametrize(
    "name", sorted(COMMANDS.keys() - {"quantize"})
)  # whose formats and methods are its own
def test_the_help_of_a_command_needs_no_model(name: str) -> None:
    modules = imported_by(f"from harness.cli import main\nassert main([{name!r}, '--help']) == 0")
    assert not modules & ({*HEAVY, "asyncio"} - {"pydantic"})


PAGES = ("matplotlib", "jinja2")


@pytest.mark.parametrize(
    ("line", "more"),
    [
        ("run clean.case.yaml --json r.json", (*PAGES, "asyncio")),
        ("run clean.case.yaml --html r.html", ("asyncio",)),
        ("diagnose failing.case.yaml -p fp16 --json d.json", (*PAGES, "asyncio")),
        ("diagnose failing.case.yaml -p fp16 --out out", ("asyncio",)),
        ("check clean.case.yaml", PAGES),
        ("check clean.case.yaml --html c.html", ("matplotlib",)),
    ],
)
def test_a_command_imports_only_what_its_outputs_need(line: str, more, tiny_cases, monkeypatch) -> None:
    monkeypatch.chdir(tiny_cases("clean", "failing"))
    modules = imported_by(f"from harness.cli import main\nassert main({line.split()!r}) in (0, 1)")
    assert "onnxruntime" in modules
    assert not modules & {
        "pandas",
        "pyarrow",
        "sympy.core",
        "torch",
        "rich.progress",
        "onnx.reference",
        *more,
    }


def test_the_version_is_that_of_the_package(capsys) -> None:
    from importlib.metadata import version

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"harness {version('harness')}\n"
    assert harness.__version__ == version("harness")


def test_a_copy_that_is_not_installed_has_no_version(monkeypatch) -> None:
    from importlib import metadata

    def no_version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", no_version)
    assert getattr(harness, "__version__", None) is None


def test_a_misspelt_command_gets_a_suggestion(capsys) -> None:
    assert main(["rnu"]) == 2
    assert "Did you mean 'run'?" in capsys.readouterr().err


def test_an_unknown_option_is_a_mistake(capsys) -> None:
    assert main(["run", "--presicion", "fp16", "x"]) == 2
    assert "--precision" in capsys.readouterr().err


@pytest.fixture
def command(monkeypatch):
    """Replace all commands by a function."""

    def install(act) -> None:
        app = typer.Typer(add_completion=False)
        app.command()(act)
        monkeypatch.setattr(cli.LazyCommand, "load", lambda self, name: typer.main.get_command(app))

    return install


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (
            UsageError("is odd", where="a.yaml:3:1", hint="make it even"),
            2,
            "error: a.yaml:3:1: is odd\n  hint: make it even\n",
        ),
        (NothingSelectedError("nothing matches"), 5, "error: nothing matches\n"),
        (BudgetExhaustedError("spent"), 4, "error: spent\n"),
        (
            CandidateError("the worker died", evidence=("signal 11",)),
            3,
            "error: the worker died\n  | signal 11\n",
        ),
    ],
)
def test_an_error_is_one_message_and_its_own_status(
    error: HarnessError, status, text, command, capsys
) -> None:
    def act() -> None:
        raise error

    command(act)
    assert main(["run"]) == status
    assert capsys.readouterr().err == text


def test_traceback_works_anywhere_on_the_line(command, capsys) -> None:
    def act() -> None:
        raise UsageError("is odd")

    command(act)
    assert main(["run", "--traceback"]) == 2
    text = capsys.readouterr().err
    assert "Traceback (most recent call last)" in text
    assert text.endswith("error: is odd\n")


def test_a_bug_is_reported_as_one(command, capsys) -> None:
    def act() -> None:
        raise KeyError("surprise")

    command(act)
    assert main(["run"]) == InternalError.exit_code == 70
    text = capsys.readouterr().err
    assert "KeyError: 'surprise'" in text
    assert "--traceback" in text
    assert "Traceback (" not in text


def test_every_exit_status_is_documented(capsys) -> None:
    errors = (HarnessError, CandidateError, BudgetExhaustedError, NothingSelectedError, InternalError)
    statuses = {0, 1, INTERRUPTED, BROKEN_PIPE, TERMINATED, *(error.exit_code for error in errors)}
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    table = readme.split("## Exit statuses")[1].split("\n## ")[0]
    assert {int(status) for status in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == statuses
    assert main(["--help"]) == 0
    listed = " ".join(capsys.readouterr().out.split()).split("Exit status: ")[1]
    assert {int(status) for status in re.findall(r"\b\d+\b", listed)} == statuses


def test_the_readme_activates_the_environment_before_it_counts_on_it() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    activated = readme.index("`. .venv/bin/activate`")
    plain = re.search(r"^(?:\$ )?(?:harness|pytest|python) ", readme, re.MULTILINE)
    assert plain
    assert activated < plain.start()
    setups = [match.start() for match in re.finditer(r"^python3 -m venv \.venv && ", readme, re.MULTILINE)]
    assert len(setups) == 2
    assert setups[-1] < activated, "it is made first"


def test_an_interruption_ends_with_130(command, capsys) -> None:
    def act() -> None:
        raise KeyboardInterrupt

    command(act)
    assert main(["run"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_interruption_before_a_command_begins_ends_with_130(monkeypatch, capsys) -> None:
    def interrupted(arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.cli._start_worker", interrupted)
    assert main(["run", "--env", "here"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_change_the_answer(closed: str, tiny_cases) -> None:
    command = f"{shlex.join([*HARNESS, 'run', str(tiny_cases('clean'))])} {closed}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_closed_pipe_is_not_an_error(tiny_cases) -> None:
    folder = tiny_cases("clean")
    process = subprocess.Popen(
        [*HARNESS, "run", str(folder), "--details"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 141
    assert "Error" not in errors
    assert "Traceback" not in errors


def test_sigterm_is_handled_by_commands_that_save_their_results(command, capsys) -> None:
    handled: list[bool] = []

    def act() -> None:
        handled.append(signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL)

    command(act)
    for name in ("run", "diagnose", "drift", "explore", "env"):
        assert main([name]) == 0
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert handled == [True, True, True, False, False]


def test_a_second_sigterm_does_not_stop_the_cleaning_up(command, capsys) -> None:
    def act() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            signal.raise_signal(signal.SIGTERM)
            print("cleaned up")
            raise

    command(act)
    assert main(["run"]) == 143
    assert capsys.readouterr() == ("cleaned up\n", "terminated\n")


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_ctrl_c_and_sigterm_show_what_was_done(tiny_cases, number, status, word) -> None:
    folder = tiny_cases("clean")
    for place in range(40):
        (folder / f"more{place}.case.yaml").write_text((folder / "clean.case.yaml").read_text())
    process = subprocess.Popen(
        [
            *HARNESS,
            "run",
            str(folder),
            "--json",
            str(folder / "run.json"),
            "--html",
            str(folder / "run.html"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    process.send_signal(number)
    out, errors = process.communicate(timeout=60)
    assert "clean at fp32: pass" in first
    assert process.returncode == status
    assert "Traceback" not in errors
    assert errors.rstrip().endswith(word)
    assert " pass, 0 unexpected" in out.splitlines()[-1]
    assert "123 runs" not in out
    document = json.loads((folder / "run.json").read_text())
    assert document["interrupted"]
    assert 0 < len(document["results"]) < 123
    assert not (folder / "run.html").exists()


def test_the_json_is_there_whatever_ends_the_runs(tiny_cases, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(outputs, "KEEP_SECONDS", 0.0)
    path, before = tmp_path / "run.json", []
    write = outputs.Outputs.write

    def look(self, **makers) -> None:
        before.append(json.loads(path.read_text()))
        write(self, **makers)

    monkeypatch.setattr(outputs.Outputs, "write", look)
    assert main(["run", str(tiny_cases("clean")), "--quiet", "--json", str(path)]) == 0
    assert [len(document["results"]) for document in before] == [2]
    assert before[0]["interrupted"]
    assert "interrupted" not in json.loads(path.read_text())


CHATTY = """
import logging, warnings
from onnx import TensorProto, helper
import chatter

def net():
    warnings.warn("weights are old", stacklevel=1)
    logging.getLogger("onnx_ir").warning("raw of a library")
    chatter.warn()
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], "relu")], "g", value[:1], value[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
"""


def test_what_libraries_warn_and_log_is_not_shown_and_what_the_users_code_warns_is_one_line(tmp_path) -> None:
    (tmp_path / "nets.py").write_text(CHATTY)
    library = tmp_path / "site-packages"
    library.mkdir()
    (library / "chatter.py").write_text("import warnings\ndef warn(): warnings.warn('raw of another')\n")
    (tmp_path / "net.case.yaml").write_text("model: {builder: 'nets:net'}\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(library), *sys.path[:1], os.getcwd()])}

    def said(*options: str) -> str:
        command = [sys.executable, *options, "-m", "harness", "check", "net.case.yaml"]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
        ).stderr

    assert [line for line in said().splitlines() if not line.startswith("[")] == [
        f"warning: {tmp_path / 'nets.py'}:7: weights are old"
    ]
    assert "raw of another" in said("-W", "default")
