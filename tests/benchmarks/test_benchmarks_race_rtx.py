"""The race on TensorRT for RTX: its models fail as they should, its bisection ends at the smallest k, its table."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import onnx
import pytest

from benchmarks import race_rtx as race
from benchmarks.race_contenders import Track
from benchmarks.race_rtx_models import MODELS
from harness.backends import Assumed
from harness.case import load_case
from harness.diagnosis import Subject
from harness.environments import Environment
from harness.judge import Workbench
from harness.model import load_model
from harness.tensors import Accumulate, Precision

RTX = os.environ.get("HARNESS_RTX_PYTHON")


def subject(name: str, folder: Path, accumulate: Accumulate) -> Subject:
    bench = Workbench(load_case(race.write_case(name, folder)), memory_budget=1 << 30)
    bench.assumed = Assumed(accumulate)
    return Subject(bench, Precision.FP16, bench.emulator)


def passes(found: Subject) -> bool:
    values = found.bench.emulator.attempt(found.bench.feeds[0], Precision.FP16)
    judged = found.judge(values, 0, found.plan())
    return all(output.passed for output in judged)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_fails_at_fp16_and_two_of_them_for_their_sums_alone(name: str, tmp_path: Path) -> None:
    assert not passes(subject(name, tmp_path, Accumulate.FP16))
    assert passes(subject(name, tmp_path, Accumulate.FP32)) == (name in ("opposed-sums", "deep-mlp"))


class Pretending:
    """In place of the process of polygraphy's loaders: a graph passes whose node computes in FP32."""

    def __init__(self, track: Track, work: Path) -> None:
        self.builds: list[dict[str, Any]] = []

    def build(self, path: Path) -> dict[str, Any]:
        passed = load_model(path).dtypes["b3_norm"] == "float32"
        self.builds.append({"passed": passed, "max_abs": 0.1, "nrmse": 1e-3})
        return self.builds[-1]

    def close(self) -> None:
        pass


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_bisection_ends_at_the_smallest_k(
    direction: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "Typed", Pretending)
    case = race.write_case("rmsnorm-overflow", tmp_path)
    row = race.bisection(Track(case, Environment("rtx", ("python",)), 60), direction)
    assert row["finished"]
    assert row["builds"] <= 9  # all, then halves of 132
    place = [node.name for node in onnx.load(tmp_path / "model.onnx").graph.node].index("b3_norm")
    assert row["culprits"][-1 if direction == "forward" else 0] == "b3_norm"
    assert min(each["kept"] for each in row["checks"] if each["passed"]) in (place + 1, 132 - place)
    assert row["kept_in_fp32"] == min(each["kept"] for each in row["checks"] if each["passed"])


@pytest.mark.skipif(RTX is None, reason="HARNESS_RTX_PYTHON names no Python with TensorRT for RTX")
def test_the_loaders_of_polygraphy_build_typed_graphs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RACE_BUILDS_ONLY", "1")
    case = race.write_case("rmsnorm-overflow", tmp_path)
    row = race.bisection(Track(case, Environment("rtx", (str(RTX),)), 60), "forward")
    assert [(each["passed"], each["note"]) for each in row["checks"]] == [(False, "built, not run")]
    assert row["checks"][0]["bytes"] > 10_000


@pytest.mark.parametrize(("kept", "words"), [(["b3_norm"], "1 node"), ([], "0 nodes, and fails")])
def test_what_autocast_keeps_is_built_and_checked_once(
    kept: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "Typed", Pretending)
    monkeypatch.setattr(race, "kept_by_autocast", lambda name: {"kept": kept, "seconds": 3.0})
    case = race.write_case("rmsnorm-overflow", tmp_path)
    row = race.autocast(Track(case, Environment("rtx", ("python",)), 60))
    assert (row["builds"], row["finished"]) == (1, bool(kept))
    assert row["seconds"] > 3.0
    race.result(tmp_path, "rmsnorm-overflow", "AutoCast").write_text(json.dumps({"row": row}))
    assert f"| {words} |" in race.table(race.read(tmp_path))[2]


@pytest.mark.parametrize("name", MODELS)
def test_what_autocast_keeps_of_a_model_are_nodes_of_it(name: str, tmp_path: Path) -> None:
    race.write_case(name, tmp_path)
    model = load_model(tmp_path / "model.onnx")
    found = race.kept_by_autocast(name)
    assert found is not None
    assert found["nodes"] == len(model.lowerable)
    assert set(found["kept"]) <= {node.name for node in model.lowerable}
    assert found["gone"] == []


def test_the_table_counts_products_between_casts_apart(tmp_path: Path) -> None:
    rows = {
        "harness cold": {"builds": 3, "seconds": 4.2, "fp32_sums": ["p", "q"], "kept_in_fp32": 0},
        "bisection forward": {"builds": 8, "seconds": 20.0, "kept_in_fp32": 120},
        "latency": {"harness cold": {"ratio": 1.0, "nrmse": 1e-3}, "bisection forward": {"ratio": 2.5}},
        "AutoCast": {"skipped": "not installed"},
    }
    for who, row in rows.items():
        document = {"row": row}
        race.result(tmp_path, "deep-mlp", who).write_text(json.dumps(document))
    lines = race.table(race.read(tmp_path))
    assert lines[2:] == [
        "| deep-mlp: harness cold | 3 | 4.2 | no node; 2 products between Casts | 0.001 | 1.00 |",
        "| deep-mlp: bisection forward | 8 | 20.0 | 120 nodes | – | 2.50 |",
    ]
