"""Every option that names what is written, onto places where nothing can be: one message, exit status 2, no file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from harness.cli import COMMANDS, main

OPTIONS = {
    "check": ("mlp.onnx", {"--fix": ".onnx", "--split": "", "--json": "", "--html": "", "--markdown": ""}),
    "run": (
        "mlp.onnx",
        {
            "--plot": ".png",
            "--save-outputs": ".npz",
            "--json": "",
            "--html": "",
            "--markdown": "",
        },
    ),
    "compare": ("mlp.onnx mlp.onnx", {"--plot": ".svg", "--json": "", "--html": "", "--markdown": ""}),
    "diagnose": ("mlp.onnx", {"--out": "", "--json": "", "--html": "", "--markdown": ""}),
    "quantize": ("mlp.onnx", {"--out": ".onnx", "--write-cache": "", "--json": "", "--html": ""}),
    "explore": ("mlp.onnx", {"--out": ""}),
    "drift": (
        "mlp.onnx -e emulator:fp32 -e emulator:fp16",
        {"--history": "", "--table": ".csv", "--json": "", "--html": "", "--markdown": ""},
    ),
    "doctor": ("", {"--json": ""}),
    "history show": ("", {"--json": "", "--html": "", "--markdown": ""}),
    "env list": ("", {"--json": ""}),
    "env check": ("", {"--json": ""}),
    "case new": ("mlp.onnx", {"--out": ".case.yaml"}),
    "case schema": ("", {"--out": ""}),
}
"""By command: what it is about, and the options that name what it writes, each with a suffix that it takes."""

MORE = {"check": "--env compiler", "quantize": "--out quantised.onnx"}
READ = {"--data", "--reference", "--cache", "--python", "--history"}
"""Options with a path that is read."""


def places() -> Iterator[tuple[str, str, str]]:
    for name, (_, options) in OPTIONS.items():
        for option, suffix in options.items():
            for place in ("notes.txt/out", "/proc/out"):
                yield name, option, place + suffix


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tensor = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"], "fc")],
        "mlp",
        [onnx.helper.make_tensor_value_info("x", tensor, [2, 4])],
        [onnx.helper.make_tensor_value_info("y", tensor, [2, 4])],
        [onnx.helper.make_tensor("w", tensor, [4, 4], [0.5] * 16)],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), "mlp.onnx")
    Path("notes.txt").write_text("notes")
    Path("harness.toml").write_text('[environments.compiler]\npython = "/usr/bin/false"\n')
    return tmp_path


@pytest.mark.parametrize(("name", "option", "place"), [*places()])
def test_a_place_that_cannot_be_written_is_one_message(
    folder: Path, capfd: pytest.CaptureFixture[str], name: str, option: str, place: str
) -> None:
    if place.startswith("/proc") and not os.path.isdir("/proc/self"):
        pytest.skip("there is no /proc")
    before = sorted(os.listdir(folder))
    more = "" if option == "--out" else MORE.get(name, "")
    status = main([*name.split(), *OPTIONS[name][0].split(), *more.split(), option, place])
    said = capfd.readouterr().err
    assert status == 2, said
    assert said.startswith(f"error: {place}: cannot be written: "), said
    assert said.count("error") == 1
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize("command", ["check --fix", "quantize --out"])
def test_a_model_is_not_written_through_a_device(
    folder: Path, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    os.mkfifo("pipe.onnx")
    name, option = command.split()
    assert main([name, "mlp.onnx", option, "pipe.onnx"]) == 2
    assert "pipe.onnx: is a device; name a file to write" in capfd.readouterr().err
    assert Path("pipe.onnx").is_fifo()


@pytest.mark.parametrize("command", ["diagnose", "explore"])
def test_a_working_folder_that_keeps_no_journal_is_one_message(
    folder: Path, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    Path(".harness").write_text("a file")
    assert main([command, "mlp.onnx", "-p", "fp16"]) == 2
    said = capfd.readouterr().err
    assert "error: .harness/diagnose/mlp-fp16-emulator: cannot be made: " in said
    assert "--out" in said


def test_every_option_that_names_a_file_or_a_folder_is_tried() -> None:
    known = {(name, option) for name, (_, options) in OPTIONS.items() for option in options}
    found = {each for name, lazy in COMMANDS.items() for each in written(lazy.load(name), (name,))}
    assert found <= known, found - known


def written(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Each command and option with a path that is not read."""
    commands = getattr(command, "commands", {})
    for name, inner in commands.items():
        yield from written(inner, (*path, name))
    for option in () if commands else command.params:
        name = option.opts[0]
        if (
            name.startswith("--")
            and name not in READ
            and option.metavar in ("FILE", "DIR", "PATH", "OUT.onnx")
        ):
            yield " ".join(path), name
