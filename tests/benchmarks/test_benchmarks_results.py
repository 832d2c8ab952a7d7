"""Every kept result names a command that there is, with options that it takes."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.record import RESULTS, record
from harness.cli import COMMANDS

BENCHMARKS = RESULTS.parent


def kept() -> Iterator[tuple[str, str]]:
    """File and command of each result; of one that was put together, the command of each run."""
    for file in sorted(RESULTS.glob("*.json")):
        document = json.loads(file.read_text(encoding="utf-8"))
        for part in [document] if "command" in document else document["runs"]:
            yield file.stem, part["command"]


def problems(command: str) -> list[str]:
    """What is wrong with a command that a result keeps."""
    words = shlex.split(command)
    if words[0] == "harness":
        return _unknown(words[1:], _options_of(words[1]))
    if words[:2] != ["python", "-m"] or not words[2].startswith("benchmarks."):
        return ["it runs neither harness nor a module of benchmarks"]
    place = BENCHMARKS.joinpath(*words[2].split(".")[1:])
    files = sorted(place.glob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    main = place / "__main__.py" if place.is_dir() else files[0]
    if not main.is_file() or "__main__" not in main.read_text(encoding="utf-8"):
        return [f"{words[2]} is no module that runs"]
    text = "".join(file.read_text(encoding="utf-8") for file in (*files, BENCHMARKS / "spread.py"))
    known = set(re.findall(r'"(--[a-z][a-z-]*)"', text))
    if words[3:4] == ["diagnose"]:  # of harness, whose options follow
        known |= _options_of("diagnose")
    return _unknown(words[3:], known)


def _unknown(words: list[str], known: set[str]) -> list[str]:
    found = [f"{word} is no option" for word in words if re.fullmatch("-[a-z]|--[a-z-]+", word)]
    found = [each for each in found if each.split()[0] not in known]
    return found + [f"{word} is a path of one machine" for word in words if Path(word).is_absolute()]


def _options_of(name: str) -> set[str]:
    return {option for parameter in COMMANDS[name].load(name).params for option in parameter.opts}


@pytest.mark.parametrize(("name", "command"), sorted(set(kept())))
def test_the_command_that_a_result_keeps_exists(name: str, command: str) -> None:
    assert problems(command) == []


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        (
            "python -m benchmarks.faults_kernels --sample 60",
            "benchmarks.faults_kernels is no module that runs",
        ),
        ("python -m benchmarks.record", "benchmarks.record is no module that runs"),
        ("python -m benchmarks.scale --outs FILE", "--outs is no option"),
        ("harness check MODEL --pictures", "--pictures is no option"),
        ("python -m benchmarks.cures cure /somewhere/python", "/somewhere/python is a path of one machine"),
        ("everything, by hand", "it runs neither harness nor a module of benchmarks"),
    ],
)
def test_a_command_that_does_not_exist_is_seen(command: str, wrong: str) -> None:
    assert problems(command) == [wrong]


def test_a_kept_command_names_no_folder_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["it", "/somewhere/bin/python3", "--cases", "/somewhere/a.case.yaml", "--out", "x"]
    )
    kept_there = record("check_cost", {}, out=tmp_path / "check_cost.json")
    command = json.loads(kept_there.read_text(encoding="utf-8"))["command"]
    assert command == "python -m benchmarks.check_cost PYTHON --cases a.case.yaml"
