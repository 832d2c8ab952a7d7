"""`harness diagnose` where a kernel is wrong: named, proved, pinned away, or honestly left open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from doubles import CASE, environment

from harness.cli import main
from harness.diagnosis.stages.tactics import _by_source
from harness.search import Outcome
from harness.tactics import Axis, Sample


def diagnose(*arguments: str) -> tuple[int, dict[str, Any]]:
    code = main(["diagnose", "norm.case.yaml", "--env", "trt", "--json", "d.json", *arguments])
    return code, json.loads(Path("d.json").read_text())


@pytest.mark.parametrize("release", ["8.6.0", "10.13.3.9", "11.4.0.106"])
def test_a_kernel_that_is_always_chosen_and_wrong_is_named_and_pinned_away(
    folder: Path, release: str, capsys: Any
) -> None:
    environment(folder, release, WRONG="root=0@HALF")
    code, answer = diagnose("--out", "out")
    assert (code, answer["verdict"]) == (1, "tactic"), answer["evidence"]
    assert answer["culprits"] == ["root"]
    assert answer["confirmed"]
    assert answer["minimal"]
    (origin,) = answer["origins"]
    assert "computes it wrongly at root" in origin["why"]
    assert origin["why"] in answer["summary"]
    hunt = next(each["facts"] for each in answer["evidence"] if "not_taken" in each["facts"])
    assert hunt["verdict"] == "found"
    assert [proof["outcome"] for proof in hunt["proof"]] == ["fail", "pass"]
    assert hunt["confirmations"] >= 1
    assert hunt["culprits"][0]["layer"] == "root"
    assert answer["cost"]["builds"] < 40
    assert "pins" in answer["advice"][0]

    pins = Path(answer["recipes"]["pins"])
    assert pins.is_file()
    assert (pins.parent / "timing.cache").exists() == (release != "8.6.0")
    (folder / "norm.case.yaml").write_text(CASE + f"build: {{pins: {pins}}}\n")
    assert main(["run", "norm.case.yaml", "--env", "trt", "--observe", "none"]) == 0


def test_a_kernel_that_is_chosen_now_and_then_is_named_too(folder: Path) -> None:
    named = set()
    for seed in range(4):
        environment(folder, "8.6.0", NOISE=0.5, WRONG="root=1@HALF", SEED=seed)
        _, answer = diagnose()
        if answer["verdict"] == "none":
            continue  # the engine that was diagnosed happens to be right
        assert answer["verdict"] == "tactic", answer["summary"]
        named.update(answer["culprits"])
        assert any("--out DIR writes the tactics" in line for line in answer["advice"])
    assert named == {"root"}


def test_a_wrong_kernel_in_fp32_is_distinguished_from_a_wrong_conversion(folder: Path) -> None:
    environment(folder, "8.6.0", WRONG="root=0")
    code, answer = diagnose("--precision", "fp32")
    assert (code, answer["verdict"], answer["culprits"]) == (1, "tactic", ["root"])


def test_only_the_tactic_sources_of_the_environment_are_switched_off(folder: Path) -> None:
    environment(folder, "8.6.0", WRONG="root=0@HALF")
    with (folder / "harness.toml").open("a") as file:
        file.write('build = { tactic_sources = ["edge_mask_convolutions", "jit_convolutions"] }\n')
    _, answer = diagnose()
    hunt = next(each["facts"] for each in answer["evidence"] if "not_taken" in each["facts"])
    tried = [sample["name"] for sample in hunt["samples"] if sample["axis"] == "tactic source"]
    assert tried == ["without edge_mask_convolutions", "without jit_convolutions"]
    assert hunt["verdict"] == "found"


def test_a_source_without_which_it_passes_is_named() -> None:
    def sample(name: str, axis: Axis, outcome: Outcome) -> Sample:
        return Sample(name, axis, outcome)

    fails = [sample("build 1", Axis.NOISE, Outcome.FAIL), sample("without cublas", Axis.SOURCE, Outcome.FAIL)]
    cured = sample("without cudnn", Axis.SOURCE, Outcome.PASS)
    assert _by_source([*fails, cured]) == "; it passes without cudnn"
    assert _by_source(fails) == ""
    by_chance = sample("build 2", Axis.NOISE, Outcome.PASS)
    assert _by_source([*fails, by_chance, cured]) == "", "it passes now and then with all sources"


def test_a_kernel_that_cannot_be_forced_is_not_named(folder: Path) -> None:
    verdicts = set()
    for seed in range(4):
        environment(folder, "8.6.0", NOISE=0.5, WRONG="root=1@HALF", DEAF="root", SEED=seed)
        _, answer = diagnose()
        verdicts.add(answer["verdict"])
        if answer["verdict"] == "tactic":
            assert answer["culprits"] == ["root"]
    assert verdicts & {"nondeterministic", "unresolved", "tactic"}
    assert "precision" not in verdicts


def test_builds_are_counted_against_the_limit(folder: Path) -> None:
    environment(folder, "8.6.0", WRONG="root=0@HALF")
    code, answer = diagnose("--max-builds", "8")
    assert code == 4
    assert answer["verdict"] == "unresolved"
    assert answer["cost"]["builds"] <= 8


def test_a_stopped_diagnosis_goes_on_with_the_builds_it_has(folder: Path) -> None:
    environment(folder, "8.6.0", WRONG="root=0@HALF")
    diagnose("--max-builds", "14")
    _, first = diagnose("--max-builds", "60", "--resume")
    assert first["verdict"] == "tactic"
    spent = first["cost"]["builds"]
    _, again = diagnose("--max-builds", "60", "--resume")
    assert again["verdict"] == "tactic"
    assert again["cost"]["builds"] - spent < spent / 2, "samples and trials are not built again"
