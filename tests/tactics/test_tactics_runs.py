"""`harness run` with repeated builds and with pins: the whole way from the command line to a double of TensorRT."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from doubles import CASE, environment

from benchmarks import planted_tactic
from benchmarks import tactics as benchmark
from harness.cli import main
from harness.cli.run import repeat_lines
from harness.environments import load
from harness.errors import EnvironmentConfigError
from harness.model import load_model
from harness.tactics import Repeats, TacticRecord, export_pins, load_record
from harness.tactics.repeats import ChangedLayer, Chosen, OutputSpread
from harness.tensors import Precision
from harness.worker.protocol import Choice, TacticReport


def run(*arguments: str) -> tuple[int, dict[str, Any]]:
    code = main(
        ["run", "norm.case.yaml", "--env", "trt", "--observe", "none", "--json", "out.json", *arguments]
    )
    return code, json.loads(Path("out.json").read_text())["results"][0]


def test_builds_that_differ_in_their_verdict_fail_the_run(folder: Path, capsys: Any) -> None:
    environment(folder, "8.6.0", NOISE=0.5, WRONG="root=1")
    code, result = run("--repeats", "5")
    repeats = result["facts"]["repeats"]
    assert code == 1
    assert repeats["builds"] == 5
    assert 0 < repeats["passes"] < 5
    assert result["reason"].startswith(f"{5 - repeats['passes']} of 5 builds: y: ")
    assert "root" in [layer["layer"] for layer in repeats["changed"]]
    printed = capsys.readouterr().out
    assert any(line.count("× tactic") == 2 for line in printed.splitlines()), (
        "a layer is one line, however long"
    )
    assert "5 builds: " in printed
    assert "root: " in printed
    assert "later builds differ, by up to 1" in printed


def test_builds_that_only_choose_otherwise_pass(folder: Path, capsys: Any) -> None:
    environment(folder, "11.4.0.106", NOISE=0.5)
    code, result = run("--repeats", "3")
    assert code == 0
    assert result["reason"] == "3 builds: all gates hold"
    assert result["facts"]["repeats"]["passes"] == 3
    assert "outputs are identical" in capsys.readouterr().out


def test_one_build_is_not_repeated(folder: Path) -> None:
    environment(folder, "8.6.0")
    _, result = run()
    assert "repeats" not in result["facts"]
    assert result["facts"]["tactics"] is None


def test_the_emulator_is_not_repeated(folder: Path, capsys: Any) -> None:
    assert main(["run", "norm.case.yaml", "--repeats", "3"]) == 2
    assert "the emulator builds none" in capsys.readouterr().err


def pin(folder: Path) -> TacticRecord:
    """Pin what a repeated run chose first."""
    _, result = run("--repeats", "2")
    facts = result["facts"]
    document = {
        "schema": "harness.tactics/1",
        "precision": "fp16",
        "model": load_model(folder / "m.onnx").sha256,
        "typing": facts["typing"],
        "build": facts["build"],
        "fingerprint": facts["fingerprint"],
        "profiles": facts["profiles"],
        **facts["tactics"],
    }
    record = TacticRecord.from_dict(document)
    export_pins(record, folder / "pins")
    (folder / "norm.case.yaml").write_text(CASE + "build: {pins: pins}\n")
    return record


def test_a_pinned_case_is_built_with_its_pins(folder: Path) -> None:
    environment(folder, "8.6.0", NOISE=0.5)
    record = pin(folder)
    environment(folder, "8.6.0", NOISE=0.5, SEED=9)
    code, result = run()
    assert code == 0
    assert result["facts"]["pins"] == {"file": "pins/pins.json", "choices": len(record.choices)}
    code, result = run("--repeats", "4")
    assert result["facts"]["repeats"]["changed"] == []


def test_a_pinned_case_that_was_built_without_is_an_error(folder: Path) -> None:
    environment(folder, "8.6.0", NOISE=0.5, SEED=2)
    record = pin(folder)
    chosen = {choice.layer: int(choice.tactic, 16) for choice in record.choices}
    assert chosen["root"] == 1
    environment(folder, "8.6.0", DEAF="root")  # without noise it takes 0, the fastest
    code, result = run()
    assert (code, result["verdict"]) == (3, "error")
    assert "built without 1 of its pinned tactics: root: tactic 0x1" in result["reason"]
    assert len(result["evidence"]) == 1


def test_pins_of_another_release_are_left_out_with_a_warning(folder: Path) -> None:
    environment(folder, "8.6.0")
    pin(folder)
    environment(folder, "8.5.3.1")
    code, result = run()
    assert code == 0
    assert any("no pins are of TensorRT 8.5.3.1" in warning for warning in result["warnings"])


def test_pins_that_are_not_there_are_a_mistake_in_the_case(folder: Path, capsys: Any) -> None:
    environment(folder, "8.6.0")
    (folder / "norm.case.yaml").write_text(CASE + "build: {pins: nowhere}\n")
    code, result = run()
    assert code == 2
    assert "nowhere" in result["reason"]


def test_pins_do_not_belong_to_an_environment(folder: Path) -> None:
    environment(folder, "8.6.0")
    with (folder / "harness.toml").open("a") as file:
        file.write('build = { pins = "pins" }\n')
    with pytest.raises(EnvironmentConfigError, match="belong to a case"):
        load(folder / "harness.toml")


def test_many_changed_layers_are_cut_short_and_absent_ones_counted() -> None:
    changed = tuple(ChangedLayer(f"conv{number}", (), (Chosen("a", 2),), absent=1) for number in range(10))
    outputs = (OutputSpread("y", identical=1, max_abs=math.inf, nrmse=0.5),)
    repeats = Repeats(3, layers=10, changed=changed, copies=2, outputs=outputs)
    short = list(repeat_lines(repeats, most=8))
    assert short[0] == "  conv0: 2× a | 1× no such layer"
    assert "2 more layers" in short[8]
    assert short[9:] == [
        "  2 copies between formats changed, too",
        "  y: 1 of 2 later builds differ, by up to inf, nrmse 0.5",
    ]
    assert len(list(repeat_lines(repeats, most=None))) == 12
    assert "  … 1 more layer: --details shows it" in repeat_lines(repeats, most=9)


@pytest.mark.parametrize("release", ["8.6.0", "11.4.0.106"])
def test_the_benchmark_finds_what_it_plants(folder: Path, release: str, capsys: Any) -> None:
    environment(folder, release, NOISE=0.001)
    numbers = benchmark.main(["--env", "trt", "--case", "norm.case.yaml", "--out", "tactics.json"])
    (entry,) = numbers["runs"]
    assert not [name for name in benchmark.PARTS if "error" in entry[name]], entry
    exposed = entry["repeats"]["choices_exposed"]
    assert entry["repeats"]["repeats"]["builds"] == len(entry["repeats"]["builds"]) == 3
    assert entry["repeats"]["contradicted_by_inspector"] == []
    for replay in entry["replay"]["replays"]:
        assert replay["taken"] == replay["of"] == exposed
        assert all(output["identical"] for output in replay["outputs"].values())
        assert replay["missed"] == []
    assert all(each["avoided"] for each in entry["forbid"]["forbidden"])
    for each in entry["natural"]["swapped"]:
        assert each["honoured"]
        assert each["others_kept"] == each["of_others"]
    assert len(entry["planted"]["planted"]) == 3
    for planted in entry["planted"]["planted"]:
        assert planted["finding"] == "found", planted
        assert planted["right"]
        assert planted["builds"] <= planted["promised_builds"]
    kept = json.loads(Path("tactics.json").read_text())
    assert kept["runs"] == json.loads(json.dumps(numbers["runs"]))
    assert kept["command"].startswith("python -m benchmarks.tactics")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4].split() == [
        "replay",
        f"{exposed}",
        "of",
        f"{exposed}",
        ";",
        f"{exposed}",
        "of",
        f"{exposed}",
    ]
    assert lines[-2].count("found, the planted one") == 3


def test_a_benchmark_that_is_stopped_keeps_what_it_has(folder: Path) -> None:
    environment(folder, "8.6.0")
    benchmark.main(["--env", "trt", "--case", "norm.case.yaml", "--out", "tactics.json", "--seconds", "0"])
    (entry,) = json.loads(Path("tactics.json").read_text())["runs"]
    assert entry["repeats"] == {"stopped": "the allowed seconds were over"}


def test_a_planted_tactic_is_diagnosed_and_pinned_away(folder: Path, capsys: Any) -> None:
    environment(folder, "8.6.0", NOISE=0.001)
    arguments = ["diagnose", "norm.case.yaml", "--env", "trt", "--json", "d.json", "--out", "out"]
    assert planted_tactic.main(["--layer", "root", *arguments]) == 1
    assert "planted: " in capsys.readouterr().err
    answer = json.loads(Path("d.json").read_text())
    assert (answer["verdict"], answer["culprits"]) == ("tactic", ["root"])
    # Without the plant nothing is wrong; with it the pins make the case pass.
    assert main(["diagnose", "norm.case.yaml", "--env", "trt", "--quiet"]) == 0
    run = ["--layer", "root", "run", "norm.case.yaml", "--env", "trt", "--observe", "none"]
    assert planted_tactic.main(run) == 1
    bad = json.loads(Path("out/pins/pins.json").read_text())["choices"]
    (folder / "norm.case.yaml").write_text(CASE + "build: {pins: out/pins}\n")
    assert main(["run", "norm.case.yaml", "--env", "trt", "--observe", "none"]) == 0
    assert {choice["layer"] for choice in bad} >= {"root"}


def test_a_record_without_choices_is_no_pins(tmp_path: Path) -> None:
    record = TacticRecord(TacticReport("selector", (Choice("conv", "0x1", "0x2"),)), Precision.FP16)
    path = export_pins(record, tmp_path)
    assert load_record(path).choices == record.choices
    assert sorted(file.name for file in tmp_path.iterdir()) == ["build_pinned.py", "pins.json"]
