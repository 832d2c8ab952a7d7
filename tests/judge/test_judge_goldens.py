"""Golden references in runs: what changed the answer is said, and an update is made on purpose."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import norm_chain

from harness.case import load_case
from harness.errors import GoldenError
from harness.golden import golden_root, prune_goldens
from harness.judge import JudgeOptions, run

UPDATE = JudgeOptions(golden_update=True)


@pytest.fixture(autouse=True)
def no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)


@pytest.fixture
def case(tmp_path: Path) -> Path:
    folder = tmp_path / "cases"
    folder.mkdir()
    onnx.save(norm_chain(), folder / "m.onnx")
    path = folder / "norm.case.yaml"
    path.write_text("model: {path: m.onnx}\ninputs: {x: [5, 16]}\nruns: [fp32, fp16]\n")
    return path


def test_goldens_lie_beside_the_folder_of_the_cases(case: Path, tmp_path: Path) -> None:
    assert golden_root(load_case(case)) == tmp_path / "golden"
    shutil.copy(case, tmp_path / "other.case.yaml")
    assert golden_root(load_case(tmp_path / "other.case.yaml")) == tmp_path / "golden"
    assert golden_root(load_case(case).model_copy(update={"path": None})) is None


def test_where_nobody_keeps_goldens_nothing_is_said(case: Path, tmp_path: Path) -> None:
    report = run(case)
    assert [result.golden for result in report.results] == [None, None]
    assert not (tmp_path / "golden").exists()


def test_an_updated_golden_is_the_same_afterwards(case: Path) -> None:
    assert [result.golden for result in run(case, options=UPDATE).results] == ["missing", "missing"]
    report = run(case)
    assert [result.golden for result in report.results] == ["same", "same"]
    assert not any(result.warnings for result in report.results)


def change_model(case: Path) -> None:
    weights = norm_chain()
    for tensor in weights.graph.initializer:
        if tensor.name == "w":
            tensor.raw_data = (np.frombuffer(tensor.raw_data, dtype=np.float32) * 1.01).tobytes()
    onnx.save(weights, case.parent / "m.onnx")


def test_a_changed_model_fails_every_run_and_says_what_changed(case: Path) -> None:
    run(case, options=UPDATE)
    change_model(case)
    report = run(case)
    assert [result.verdict.value for result in report.results] == ["fail", "fail"]
    assert report.exit_code == 1
    assert "not the golden one any more" in report.results[0].reason
    assert "model" in report.results[0].reason
    run(case, options=UPDATE)
    assert run(case).exit_code == 0


def test_a_waiver_covers_a_changed_golden_until_it_expires(case: Path) -> None:
    run(case, options=UPDATE)
    change_model(case)
    sound = case.read_text()
    for expires, verdict in (("2999-01-01", "xfail"), ("2000-01-01", "fail")):
        case.write_text(sound + f"waivers: [{{reason: the model is being replaced, expires: {expires}}}]\n")
        for result in run(case).results:
            assert (result.verdict.value, result.golden) == (verdict, "changed")
            assert "not the golden one any more" in result.reason
            assert result.reason.endswith(f" {expires}: the model is being replaced")


def test_a_case_without_a_golden_is_warned_of_where_others_have_one(case: Path) -> None:
    run(case, options=UPDATE)
    other = case.with_name("other.case.yaml")
    shutil.copy(case, other)
    (result, _) = run(other).results
    assert (result.verdict.value, result.golden) == ("pass", "missing")
    assert "--golden-update writes one" in result.warnings[0]


def test_pruning_removes_only_what_no_case_file_has(case: Path, tmp_path: Path) -> None:
    other = case.with_name("other.case.yaml")
    shutil.copy(case, other)
    run([case, other], options=UPDATE)
    gone = load_case(case)
    other.unlink()
    assert prune_goldens([gone]) == [tmp_path / "golden" / "other"]
    assert (tmp_path / "golden" / "norm").is_dir()


def test_ci_refuses_to_rewrite_and_to_remove(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(case, options=UPDATE)
    root = golden_root(load_case(case))
    assert root is not None
    shutil.copytree(root / "norm", root / "gone")
    monkeypatch.setenv("CI", "true")
    (result,) = run(case, options=UPDATE).results
    assert result.mistake
    assert "where CI is set" in result.reason
    with pytest.raises(GoldenError, match="not removed where CI is set"):
        prune_goldens([load_case(case)])
    assert (root / "gone").is_dir()
