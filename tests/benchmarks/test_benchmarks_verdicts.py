"""The benchmark of faults that a verdict can miss: its sets are fixed, and harness says what must be said of them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import onnx
import pytest

import harness
from benchmarks.verdicts.__main__ import numbers_of
from benchmarks.verdicts.engines import models, rows
from benchmarks.verdicts.models import build, specs
from benchmarks.verdicts.score import Score, score
from benchmarks.verdicts.truth import Group, Spec

ALL = list(specs())
FIRST = list({(spec.group, spec.variant, spec.planted): spec for spec in reversed(ALL)}.values())
SAMPLE = [spec for spec in FIRST if spec.planted and spec.group is not Group.TWO_FAULTS]
SAMPLE += [spec for spec in FIRST if spec.planted and spec.group is Group.TWO_FAULTS][::6]
SAMPLE += [spec for spec in FIRST if not spec.planted][::12]


def test_every_group_has_twenty_faults_and_clean_twins() -> None:
    planted = Counter(spec.group for spec in ALL if spec.planted)
    assert set(planted) == set(Group)
    assert min(planted.values()) >= 24
    assert {spec.group for spec in ALL if not spec.planted} == set(Group)
    assert len({spec.name for spec in ALL}) == len(ALL)


def test_the_same_specification_gives_the_same_bytes() -> None:
    for spec in FIRST[::7]:
        first, second = (hashlib.sha256(build(spec).model.SerializeToString()).digest() for _ in range(2))
        assert first == second


@pytest.mark.parametrize("spec", SAMPLE, ids=lambda spec: spec.name)
def test_harness_says_what_must_be_said(spec: Spec) -> None:
    found = score(spec)
    assert not found.error
    assert found.right, (found.run, found.diagnosis)
    assert found.named == found.reasons
    assert found.cured
    assert not found.told


def test_what_is_missed_counts() -> None:
    missed = Score("a", "near-tie", True, right=False, reasons=2, named=1, held=4)
    fitted = Score("b", "near-tie", True, right=True, reasons=2, named=2, held=4, fitted=True)
    numbers = numbers_of([missed, fitted], 1.0)
    assert numbers["verdict right"] == 0.5
    assert numbers["reasons named"] == 0.75
    assert numbers["cures that hold, or are said to be fitted"] == 0.5
    assert list(numbers["groups"]) == ["near-tie"]


def test_what_engines_choose_is_read_from_the_documents_of_runs(tmp_path: Path) -> None:
    every = models()
    for name in ("head640", "near-tie-topk-fault-mlp-0"):
        onnx.save(every[name], tmp_path / "model.onnx")
        report = harness.run(tmp_path / "model.onnx", precisions=["fp16", "bf16"])
        (tmp_path / f"{name}.json").write_text(json.dumps(report.to_dict()))
    found = {(row["model"], row["precision"]): row for row in rows(tmp_path)}
    assert all(row["right"] for row in found.values())
    assert [each["node"] for each in found["head640", "bf16"]["chooses"]] == ["choice"]
    assert found["near-tie-topk-fault-mlp-0", "fp16"]["verdict"] == "fail"
