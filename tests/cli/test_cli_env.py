"""`harness env` and `harness doctor` as a person and as a script use them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

MISBEHAVING = Path(__file__).parents[1] / "worker" / "misbehaving.py"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HARNESS_CONFIG", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower().split("_")[1]))
    # With the name of the test in it, under xdist, its path would leave a socket no room.
    monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path_factory.mktemp("s")))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def python(place: Path) -> str:
    """A Python in which a worker finds an adapter, as if TensorRT were there."""
    wrapper = place / "python-trt"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} "$@" --adapter {MISBEHAVING}\n')
    wrapper.chmod(0o755)
    return str(wrapper)


def test_an_environment_is_added_listed_checked_and_removed(harness, python: str, place: Path) -> None:
    status, out, _ = harness("env", "list")
    assert (status, "harness env add NAME --python PATH" in out) == (0, True)

    status, out, _ = harness(
        "env", "add", "trt-8.6", "--python", python, "--set", "A=b=c", "--tactic-source", "cudnn"
    )
    assert status == 0
    assert f"{place}/harness.toml: added 'trt-8.6'" in out
    assert "harness env check trt-8.6" in out

    status, out, _ = harness("env", "list", "--json", "-")
    assert json.loads(out) == {
        "schema": "harness.environments/1",
        "environments": [
            {
                "name": "trt-8.6",
                "command": [python],
                "gpu_index": 0,
                "variables": {"A": "b=c"},
                "build": {"tactic_sources": ["cudnn"]},
            }
        ],
    }
    assert python in harness("env", "list")[1]

    status, out, err = harness("env", "check")
    assert (status, err) == (0, "")
    assert out.splitlines()[1].split() == [
        *("trt-8.6", "TensorRT", "8.6.0", "12.0", "580.159", "No", "GPU", "at", "all", "9.0", "0.9", "GiB"),
        *("builds", "and", "runs"),
    ]

    status, out, _ = harness("env", "remove", "trt-8.6")
    assert (status, "removed" in out) == (0, True)
    assert json.loads(harness("env", "list", "--json", "-")[1])["environments"] == []


def test_a_check_of_a_python_without_tensorrt_fails_with_its_reason(harness, place: Path) -> None:
    harness("env", "add", "bare", "--python", sys.executable)
    status, out, err = harness("env", "check", "bare", "--json", str(place / "check.json"))
    assert status == 3
    assert "bare: TensorRT cannot be loaded: No module named 'tensorrt'" in err
    assert "ModuleNotFoundError" in err
    assert out.splitlines()[1].split()[0] == "bare"
    (checked,) = json.loads((place / "check.json").read_text())["environments"]
    assert (checked["passed"], checked["hint"] is not None) == (False, True)


LIBRARY = "libtensorrt_rtx.so.1: cannot open shared object file: No such file or directory"


def test_bindings_without_their_library_cost_their_runs_alone_and_say_what_to_do(
    harness, place: Path, tiny_cases: Callable[..., Path]
) -> None:
    (place / "site" / "tensorrt_rtx").mkdir(parents=True)
    (place / "site" / "tensorrt_rtx" / "__init__.py").write_text(f"raise ImportError({LIBRARY!r})\n")
    engines = Path(__file__).parents[1] / "backends" / "cpu_engine.py"
    wrapper = place / "python-cpu"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} "$@" --adapter {engines}\n')
    wrapper.chmod(0o755)
    harness("env", "add", "broken", "--python", sys.executable, "--set", f"PYTHONPATH={place / 'site'}")
    harness("env", "add", "cpu", "--python", str(wrapper))
    status, _, err = harness("env", "check", "broken")
    assert status == 3
    said = (
        f"broken: TensorRT cannot be loaded: {LIBRARY}. Install the bindings and the libraries of one release"
    )
    assert err.count(said) == 1
    words = ("run", str(tiny_cases("clean")), "--precision", "fp16", "--env", "broken", "--env", "cpu")
    status, out, _ = harness(*words, "--json", "-")
    broken, right = json.loads(out)["results"]
    assert (status, broken["verdict"], right["verdict"]) == (3, "error", "pass")
    assert LIBRARY in broken["reason"]


def test_a_compiler_without_a_gpu_builds_and_says_that_it_runs_nothing(harness, place: Path) -> None:
    """With the real adapter on the double of a release that needs no GPU."""
    doubled = MISBEHAVING.with_name("doubled.py")
    wrapper = place / "python-rtx"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} "$@" --adapter {doubled}\n')
    wrapper.chmod(0o755)
    harness("env", "add", "rtx", "--python", str(wrapper), "--set", "RELEASE=1.7.1.116", "--set", "GPU=none")
    status, out, err = harness("env", "check", "--json", str(place / "check.json"))
    assert (status, err) == (0, "")
    assert "TensorRT for RTX 1.7.1.116" in out
    assert "builds here; no GPU: cannot run" in out
    (checked,) = json.loads((place / "check.json").read_text())["environments"]
    assert (checked["passed"], checked["product"], checked["tensorrt"]) == (
        True,
        "TensorRT for RTX",
        "1.7.1.116",
    )
    assert "TensorRT for RTX 1.7.1.116: builds here; no GPU: cannot run" in harness("doctor")[1]
    harness("env", "remove", "rtx")
    harness(
        "env",
        "add",
        "rtx",
        "--python",
        str(wrapper),
        "--set",
        "RELEASE=1.7.1.116",
        "--set",
        "GPU=UNSUPPORTED_CC",
    )
    assert "builds here; refuses this GPU: compute capability 9.0" in harness("env", "check")[1]


def test_where_no_environment_is_the_doctor_offers_a_compiler(harness) -> None:
    assert "harness env add rtx --install tensorrt-rtx==1.7.1.116" in harness("doctor")[1]


def test_the_json_of_a_check_is_all_that_is_on_stdout(harness, python: str) -> None:
    harness("env", "add", "a", "--python", python)
    harness("env", "add", "b", "--command", f"{python} -u", "--gpu", "1")
    status, out, _ = harness("env", "check", "--json", "-")
    assert status == 0
    assert [item["name"] for item in json.loads(out)["environments"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("add", "a"), 2, "exactly one of --python, --install and --command"),
        (("add", "a", "--python", "x", "--command", "y"), 2, "exactly one of"),
        (("add", "a b", "--python", "x"), 2, "cannot be the name"),
        (("add", "a", "--python", "x", "--set", "A"), 2, "write it as NAME=VALUE"),
        (("add", "a", "--python", "x", "--tactic-source", "cudn"), 2, "did you mean 'cudnn'"),
        (("add", "a", "--install", "torch"), 2, "is not a TensorRT package"),
        (("check",), 5, "there are no environments"),
        (("check", "x"), 2, "harness env add x"),
        (("remove", "x"), 2, "no environment is called 'x'"),
    ],
)
def test_mistakes_are_reported_and_change_nothing(
    harness, place: Path, arguments: tuple[str, ...], status: int, said: str
) -> None:
    found, out, err = harness("env", *arguments)
    assert found == status
    assert said in err
    assert out == ""
    assert not (place / "harness.toml").exists()


def test_a_name_that_is_taken_is_refused_before_anything_is_installed(harness, python: str) -> None:
    harness("env", "add", "a", "--python", python)
    status, _, err = harness("env", "add", "a", "--install", "tensorrt==8.6.1")
    assert status == 2
    assert "harness env remove a" in err


def test_the_doctor_says_what_works_and_what_to_do(
    harness, python: str, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    harness("env", "add", "good", "--python", python)
    status, out, _ = harness("doctor")
    assert status == 0
    assert "TensorRT 8.6.0, CUDA 12.0, No GPU at all: builds and runs" in out

    (place / "python").symlink_to("/bin/sh")
    harness("env", "add", "bad", "--python", "./python")
    (place / "python").unlink()
    status, out, _ = harness("doctor")
    assert status == 3
    assert "BROKEN" in out
    assert "try: correct `python` or `command` of bad" in out
    assert harness("doctor", "--no-probe")[0] == 0

    status, out, err = harness("doctor", "--json", "-")
    document = json.loads(out)
    assert (status, document["schema"], document["broken"]) == (3, "harness.doctor/1", True)
    assert "BROKEN" in err


def test_a_run_that_kills_its_worker_is_an_error_with_evidence_and_the_others_still_run(
    harness, place: Path, tiny_cases: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = Path(__file__).parents[1] / "backends" / "cpu_engine.py"
    wrapper = place / "python-cpu"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} "$@" --adapter {engines}\n')
    wrapper.chmod(0o755)
    harness("env", "add", "cpu", "--python", str(wrapper), "--set", "CRASH_MODELS=clean")
    cases = tiny_cases("clean", "cured")

    status, out, _ = harness("run", str(cases), "--precision", "fp16", "--env", "cpu", "--json", "-")

    crashed, cured = json.loads(out)["results"]
    assert (status, crashed["verdict"], cured["verdict"]) == (3, "error", "xpass")
    assert "killed by SIGSEGV during a build of clean at fp16" in crashed["reason"]
    assert "signal: SIGSEGV" in crashed["evidence"]
    assert any("cpu_engine.py" in line for line in crashed["evidence"])  # the stack of the worker
    assert list((Path(os.environ["HARNESS_SCRATCH"]) / "harness").iterdir()) == []
