"""harness.toml: what it may say, where it is found, and every mistake in it with what was meant."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.case import BuildOptions, find_config
from harness.environments import (
    WorkerLimits,
    add_environment,
    check_name,
    load,
    remove_environment,
    select,
)
from harness.environments.command import gpu_variables
from harness.environments.config import parse
from harness.errors import EnvironmentConfigError

WHOLE = """
# The machines of the lab.
[environments.trt-8_6]
python = "envs/8.6/bin/python"
gpu = 1
variables = { LD_LIBRARY_PATH = "/opt/cuda/lib64" }
build = { tactic_sources = ["jit_convolutions", "edge_mask_convolutions"], workspace_mib = 512 }
limits = { build = 60 }

[environments."trt-10.13"]
command = ["docker", "run", "--gpus", "device={gpu}", "python3"]
"""


def written(text: str) -> Path:
    path = Path("harness.toml")
    path.write_text(text)
    return path.absolute()


def test_a_file_becomes_environments(tmp_path: Path) -> None:
    path = written(WHOLE)
    first, second = load().values()

    assert first.name == "trt-8_6"
    assert first.command == (str(tmp_path / "envs/8.6/bin/python"),)
    assert first.gpu == 1
    assert first.variables == (("LD_LIBRARY_PATH", "/opt/cuda/lib64"),)
    assert first.build == BuildOptions(
        tactic_sources=("jit_convolutions", "edge_mask_convolutions"), workspace_mib=512
    )
    assert first.build.model_fields_set == {"tactic_sources", "workspace_mib"}
    assert first.limits == WorkerLimits(build=60)
    assert first.source == path
    assert second.command[1:] == ("run", "--gpus", "device={gpu}", "python3")
    assert (second.gpu, second.build, second.limits) == (0, BuildOptions(), WorkerLimits())
    assert len({first, second}) == 2  # hashable


@pytest.mark.parametrize(
    ("python", "command"),
    [
        ("sh", "/bin/sh"),
        ("no-such-python", "no-such-python"),
        ("~/env/bin/python", "HOME/env/bin/python"),
        ("./bin/python", "FOLDER/bin/python"),
        ("/opt/x/bin/python", "/opt/x/bin/python"),
    ],
)
def test_programs_are_found_on_path_or_from_the_files_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: str, command: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("PATH", "/bin")
    path = tmp_path / "deep" / "harness.toml"
    found = parse(f"[environments.e]\npython = {python!r}\n", path)["e"].command
    assert found == (command.replace("HOME", "/home/me").replace("FOLDER", str(path.parent)),)


def test_the_link_of_a_venv_is_not_followed(tmp_path: Path) -> None:
    link = tmp_path / "venv" / "python"
    link.parent.mkdir()
    link.symlink_to(sys.executable)
    assert parse("[environments.e]\npython = 'venv/python'\n", tmp_path / "harness.toml")["e"].command == (
        str(link),
    )


def test_the_file_is_searched_for_upwards_and_a_variable_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_config() is None
    assert load() == {}
    path = written(WHOLE)
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert find_config() == path

    other = tmp_path / "other.toml"
    other.write_text("[environments.e]\npython = 'sh'\n")
    monkeypatch.setenv("HARNESS_CONFIG", str(other))
    assert list(load()) == ["e"]
    monkeypatch.setenv("HARNESS_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(EnvironmentConfigError, match="correct or unset HARNESS_CONFIG"):
        load()


def test_a_file_that_another_user_can_write_is_refused_unless_a_variable_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(WHOLE)
    path.chmod(0o646)
    with pytest.raises(EnvironmentConfigError, match=r"other users.*chmod go-w it, or set HARNESS_CONFIG"):
        load()
    monkeypatch.setenv("HARNESS_CONFIG", str(path))
    assert load()
    monkeypatch.delenv("HARNESS_CONFIG")
    path.chmod(0o644)
    assert load()
    monkeypatch.setattr("os.geteuid", lambda: path.stat().st_uid + 1)
    if path.stat().st_uid != 0:  # what root wrote, root may run
        with pytest.raises(EnvironmentConfigError, match="belongs to another user"):
            load()


def test_all_mistakes_are_reported_at_once_with_line_and_what_was_meant() -> None:
    path = written(
        """[environment.a]
python = "x"

[environments.b]
pyhton = "x"

[environments.c]
python = "x"
command = ["y"]

[environments.d]
python = "x"
gpu = -1
build = { tactic_sources = ["cudn"], workspace = 3 }
limits = { build = 0, infer = 3 }

[environments."e e"]
python = "x"

[environments.emulator]
python = "x"

[environments.f]
python = 3
variables = { A = 1 }
"""
    )
    with pytest.raises(EnvironmentConfigError) as caught:
        load()
    lines = str(caught.value).splitlines()

    expected = [
        f"{path}:1: environment: unknown key 'environment' (did you mean 'environments'?)",
        f"{path}:5: environments.b.pyhton: unknown key 'pyhton' (did you mean 'python'?)",
        f"{path}:7: environments.c: needs either `python` or `command`, has both",
        f"{path}:13: environments.d.gpu: Input should be greater than or equal to 0",
        f"{path}:14: environments.d.build.tactic_sources.0: unknown value 'cudn' (did you mean 'cudnn'?)",
        f"{path}:14: environments.d.build.workspace: unknown key 'workspace' (did you mean 'workspace_mib'?)",
        f"{path}:15: environments.d.limits.build: Input should be greater than 0",
        f"{path}:15: environments.d.limits.infer: unknown key 'infer' (did you mean 'inference'?)",
        f"{path}:17: environments.e e: 'e e' cannot be the name of an environment",
        f"{path}:20: environments.emulator: 'emulator' cannot be the name of an environment",
        f"{path}:24: environments.f.python: Input should be a valid string",
        f"{path}:25: environments.f.variables.A: Input should be a valid string",
    ]
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[environments", "not TOML"),
        ("environments = 3", "must be tables"),
        ("[environments]\na = 3", "valid dictionary"),
    ],
)
def test_a_file_of_another_format_is_reported(text: str, said: str) -> None:
    written(text)
    with pytest.raises(EnvironmentConfigError, match=said):
        load()


def test_a_name_that_is_not_there_is_answered_with_the_nearest() -> None:
    with pytest.raises(EnvironmentConfigError, match=r"harness env add trt-8\.6 --python PATH"):
        select("trt-8.6")
    written(WHOLE)
    with pytest.raises(EnvironmentConfigError, match=r"did you mean 'trt-10.13'\?"):
        select("trt-10.12")
    with pytest.raises(EnvironmentConfigError, match=r"there are: trt-8_6, trt-10\.13"):
        select("x")
    assert select("trt-8_6").gpu == 1


@pytest.mark.parametrize("name", ["", ".hidden", "-x", "a/b", "a b", "emulator", "ä"])
def test_names_that_cannot_be_used_everywhere_are_refused(name: str) -> None:
    with pytest.raises(EnvironmentConfigError):
        check_name(name)


@pytest.mark.parametrize(
    ("gpu", "caller", "seen"),
    [
        (0, {}, "0"),
        (3, {}, "3"),
        (0, {"CUDA_VISIBLE_DEVICES": "3,5"}, "3"),
        (1, {"CUDA_VISIBLE_DEVICES": "3, 5"}, "5"),
        (1, {"CUDA_VISIBLE_DEVICES": "GPU-aa,MIG-bb"}, "MIG-bb"),
        (0, {"CUDA_VISIBLE_DEVICES": "2,-1,1"}, "2"),
    ],
)
def test_the_gpu_counts_in_the_callers_own_list(gpu: int, caller: dict[str, str], seen: str) -> None:
    assert gpu_variables(gpu, caller)["CUDA_VISIBLE_DEVICES"] == seen


@pytest.mark.parametrize(("gpu", "listed"), [(2, "3,5"), (0, ""), (0, "-1"), (1, "2,-1,1")])
def test_a_gpu_that_the_caller_does_not_see_is_refused(gpu: int, listed: str) -> None:
    with pytest.raises(EnvironmentConfigError, match="unset CUDA_VISIBLE_DEVICES"):
        gpu_variables(gpu, {"CUDA_VISIBLE_DEVICES": listed})


def test_an_environment_is_added_and_the_rest_of_the_file_stays_as_it_is() -> None:
    path = written(WHOLE)
    added = add_environment(
        "trt-8.5",
        python="/bin/sh",
        gpu=2,
        variables={"A": "b"},
        build={"tactic_sources": ["cudnn"]},
    )
    assert path.read_text().startswith(WHOLE)
    assert load()["trt-8.5"] == added
    assert (added.gpu, added.variables) == (2, (("A", "b"),))
    assert added.build == BuildOptions(tactic_sources=("cudnn",))


def test_paths_are_taken_from_the_working_folder_wherever_the_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(WHOLE)
    (tmp_path / "deep" / "bin").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep")
    for program in ("bin/python", "run"):
        Path(program).symlink_to("/bin/sh")
    assert add_environment("a", python="./bin/python").command == (str(tmp_path / "deep/bin/python"),)
    assert add_environment("b", command=["./run", "./python"]).command == (
        str(tmp_path / "deep/run"),
        "./python",
    )


def test_a_first_environment_makes_the_file() -> None:
    add_environment("a", command=["env", "docker", "run", "python3"])
    assert (
        Path("harness.toml").read_text()
        == '[environments.a]\ncommand = ["env", "docker", "run", "python3"]\n'
    )


def test_what_cannot_be_started_is_not_added() -> None:
    for start in ({"python": "/nowhere/python"}, {"command": ["no-such-program", "run"]}):
        with pytest.raises(EnvironmentConfigError, match="there is no such program"):
            add_environment("a", **start)
    assert not Path("harness.toml").exists()


def test_an_environment_is_removed_and_the_rest_of_the_file_stays_as_it_is() -> None:
    path = written(WHOLE)
    assert remove_environment("trt-10.13").command[1] == "run"
    assert path.read_text() == WHOLE[: WHOLE.index('[environments."trt-10.13"]')]
    remove_environment("trt-8_6")
    assert load() == {}
    assert "machines of the lab" in path.read_text()
    add_environment("again", python="sh")
    assert list(load()) == ["again"]


def test_edits_that_cannot_be_made_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvironmentConfigError, match="no environment is called"):
        remove_environment("x")
    for hint in ("there is no harness.toml", "it has no environments"):
        with pytest.raises(EnvironmentConfigError) as caught:
            remove_environment("x")
        assert hint in (caught.value.hint or "")
        assert "env add" not in (caught.value.hint or "")
        written("")
    path = written(WHOLE)
    with pytest.raises(EnvironmentConfigError, match="harness env remove trt-8_6"):
        add_environment("trt-8_6", python="sh")
    with pytest.raises(EnvironmentConfigError, match="did you mean 'cudnn'"):
        add_environment("a", python="sh", build={"tactic_sources": ["cudn"]})
    with pytest.raises(EnvironmentConfigError, match=r"did you mean 'trt-8_6'"):
        remove_environment("trt-8.6")
    assert path.read_text() == WHOLE
    with pytest.raises(EnvironmentConfigError, match="cannot be written"):
        add_environment("a", python="sh", path=tmp_path / "nowhere" / "harness.toml")
