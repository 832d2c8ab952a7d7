"""Golden baselines and waivers: written on purpose, never in CI, with where they come from; and what they let pass."""

from __future__ import annotations

import contextlib
import datetime
import json
from pathlib import Path

import pytest
from history_rows import engine_rows, frame, tensor_rows, typed

import harness
from harness.case import Waiver, load_case
from harness.errors import GoldenError, UsageError
from harness.golden import Baseline, BaselineStore, sm_of
from harness.history import DriftOptions, DriftReport, DriftStatus, DriftVerdict, Floors
from harness.history.api import compare_with_baselines
from harness.history.judgement.runs import compare_pair, pairs_of
from harness.history.store.files import MatrixPlan, RunWriter, list_runs, read_runs
from harness.judge import MadeWith
from harness.tensors import Precision

CALM, NOISY, FAULTY = "emulator:fp16", "emulator:fp16,noise=0.2,seed=7", "emulator:fp16,plant=square@bf16"
TODAY = datetime.date(2026, 6, 1)


@pytest.fixture
def drift(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("CI", raising=False)

    def run(release: str, **options):
        return harness.drift(
            tmp_path / "cases",
            environments=[release],
            precisions=["fp16"],
            history=tmp_path / "h",
            **{"options": DriftOptions(repeats=3), **options},
        )

    return run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "golden" / "clean" / "emulator" / "fp16.json"


def test_without_a_baseline_there_is_nothing_to_compare_and_nothing_is_written(
    tiny_cases, drift, path
) -> None:
    tiny_cases("clean")
    report = drift(CALM)
    (run,) = report.runs
    assert (run.verdict, report.exit_code) == (None, 5)
    assert "no baseline; --baseline-update writes one" in run.reason
    assert not path.exists()


def test_a_baseline_is_written_on_purpose_and_holds_what_it_comes_from(tiny_cases, drift, path: Path) -> None:
    tiny_cases("clean")
    report = drift(CALM, baseline_update=True)
    assert report.written == (str(path),)
    document = json.loads(path.read_text())
    assert (document["case"], document["precision"], document["sm"]) == ("clean", "fp16", "emulator")
    source = document["provenance"]
    assert source["release"] == CALM
    assert source["onnxruntime"]
    assert source["date"] == datetime.datetime.now(datetime.UTC).date().isoformat()
    assert source["run"] == report.run
    lines = path.read_text().splitlines()
    assert sum('"tensor":' in line for line in lines) == len(document["tensors"]), "a line for each tensor"
    assert {len(tensor["errors"]) for tensor in document["tensors"]} == {3}


def test_a_release_is_compared_with_its_baseline(tiny_cases, drift, path: Path) -> None:
    tiny_cases("clean")
    drift(CALM, baseline_update=True)
    report = drift(CALM)
    assert [run.verdict for run in report.runs] == [DriftVerdict.SAME]
    assert report.old.startswith("baseline of emulator:fp16, ")
    report = drift(FAULTY)
    (run,) = report.runs
    assert (run.status, report.exit_code) == (DriftStatus.FAIL, 1)
    assert [origin.node for origin in run.origins] == ["square"]


def test_an_update_rewrites_what_drifted_with_its_past_and_leaves_noise_alone(
    tiny_cases, drift, path: Path
) -> None:
    tiny_cases("clean")
    drift("emulator:fp16,noise=0.2,seed=1", baseline_update=True)
    first = path.read_text()
    assert drift(NOISY, baseline_update=True).written == ()
    assert path.read_text() == first
    assert drift("emulator:bf16", baseline_update=True).written == (str(path),)
    baseline = Baseline.model_validate_json(path.read_text())
    assert baseline.provenance.release == "emulator:bf16"
    (change,) = baseline.changes
    assert change.replaced.release == "emulator:fp16,noise=0.2,seed=1"
    assert "error" in change.because
    for number in range(60):
        baseline = baseline.replacing(baseline, str(number))
    assert [change.because for change in baseline.changes] == [str(number) for number in range(10, 60)]


def test_in_ci_nothing_is_built_for_an_update(
    tiny_cases, drift, path: Path, monkeypatch, tmp_path: Path
) -> None:
    tiny_cases("clean")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(GoldenError, match="where CI is set"):
        drift(CALM, baseline_update=True)
    assert not (tmp_path / "h").exists()
    drift(CALM)  # comparing is allowed


def test_the_store_itself_writes_nothing_in_ci(
    tiny_cases, drift, path: Path, monkeypatch, tmp_path: Path
) -> None:
    tiny_cases("clean")
    drift(CALM, baseline_update=True)
    store = BaselineStore(tmp_path / "golden")
    baseline = store.load("clean", "emulator", "fp16")
    assert baseline is not None
    monkeypatch.setenv("CI", "1")
    before = path.read_bytes()
    with pytest.raises(GoldenError, match="where CI is set"):
        store.write(baseline.model_copy(update={"sm": "sm90"}))
    assert path.read_bytes() == before
    assert not (path.parent.parent / "sm90").exists()


def test_baselines_are_those_of_one_release(tiny_cases) -> None:
    with pytest.raises(UsageError, match="one release"):
        harness.drift(tiny_cases("clean"), environments=[CALM, NOISY], baseline_update=True)


def test_a_baseline_of_another_case_fails_the_run_until_it_is_rewritten(
    tiny_cases, drift, path: Path
) -> None:
    folder = tiny_cases("clean")
    drift(CALM, baseline_update=True)
    case = folder / "clean.case.yaml"
    case.write_text(case.read_text() + "seed: 5\n")
    report = drift(CALM)
    assert (report.runs[0].status, report.exit_code) == (DriftStatus.FAIL, 1)
    assert "the case has changed since the baseline" in report.runs[0].reason
    assert report.runs[0].verdict is None, "errors of other inputs are not compared"
    drift(CALM, baseline_update=True)
    assert drift(CALM).exit_code == 0
    case.write_text(case.read_text() + "description: another\ntolerances: [{nrmse: 0.5}]\n")
    assert drift(CALM).exit_code == 0, "neither changes a number"


def test_a_damaged_baseline_is_named(tiny_cases, drift, path: Path) -> None:
    tiny_cases("clean")
    drift(CALM, baseline_update=True)
    path.write_text(path.read_text()[:-30])
    with pytest.raises(GoldenError, match=r"damaged.*fp16\.json|fp16\.json.*damaged"):
        drift(CALM)


@pytest.mark.parametrize("value", [None, [], [True], {}, "x", 3])
@pytest.mark.parametrize("name", ["errors", "passed", "hashes", "tensor", "sample"])
def test_a_damaged_value_of_a_baseline_is_one_error_or_still_a_baseline(
    tiny_cases, drift, path: Path, name: str, value: object
) -> None:
    tiny_cases("clean")
    drift(CALM, baseline_update=True)
    document = json.loads(path.read_text())
    document["tensors"][0][name] = value
    path.write_text(json.dumps(document))
    allowed = {"tensor": value == "x", "sample": value == 3}
    with (
        contextlib.nullcontext()
        if allowed.get(name)
        else pytest.raises(GoldenError, match=r"fp16\.json: the baseline is damaged")
    ):
        drift(CALM)


def test_numbers_without_end_survive(tmp_path: Path, tiny_cases, drift, monkeypatch) -> None:
    tiny_cases("failing")
    drift(CALM, baseline_update=True)
    store = BaselineStore(tmp_path / "golden")
    baseline = store.load("failing", "emulator", "fp16")
    assert baseline is not None
    assert float("inf") in {error for tensor in baseline.tensors for error in tensor.errors}
    assert [run.verdict for run in drift(CALM).runs] == [DriftVerdict.SAME]


def test_architectures_and_names_of_folders(tmp_path: Path) -> None:
    assert (sm_of("9.0"), sm_of("12.1"), sm_of(None)) == ("sm90", "sm121", "emulator")
    with pytest.raises(GoldenError, match="cannot be the name"):
        BaselineStore(tmp_path).path("../evil", "sm90", "fp16")


# --- waivers ------------------------------------------------------------------------------------------------


def judged(*waivers: Waiver, today: datetime.date = TODAY, new: list[float] | None = None, **engine):
    table = frame(
        engine_rows("old"),
        engine_rows("new", tensorrt="10.13.3", **engine),
        tensor_rows("old", [1e-3, 1.01e-3, 0.99e-3]),
        tensor_rows("new", new or [3e-3] * 3),
    )
    (pair,) = pairs_of(table, ("old", "new"))
    (run,) = compare_pair(table, pair, floors=Floors(), waivers={"net": waivers}, today=today).runs
    return run


def waiver(**changes) -> Waiver:
    return Waiver.model_validate(
        {"reason": "known, fixed in 10.14", "expires": "2026-12-31", "tensorrt": "==10.13.*", **changes}
    )


def test_a_waiver_turns_a_known_drift_into_an_expected_one() -> None:
    assert judged().status is DriftStatus.FAIL
    run = judged(waiver())
    assert (run.status, run.verdict) == (DriftStatus.XFAIL, DriftVerdict.REGRESSED)
    assert "waived until 2026-12-31: known, fixed in 10.14" in run.reason


def test_an_expired_waiver_is_a_failure_that_says_so() -> None:
    assert judged(waiver(), today=datetime.date(2026, 12, 31)).status is DriftStatus.XFAIL
    run = judged(waiver(), today=datetime.date(2027, 1, 1))
    assert run.status is DriftStatus.FAIL
    assert "the waiver expired on 2026-12-31: known" in run.reason


@pytest.mark.parametrize("other", [{"tensorrt": ">=10.14"}, {"precision": "bf16"}, {"environment": "trt-9*"}])
def test_a_waiver_of_something_else_changes_nothing(other: dict[str, str]) -> None:
    run = judged(waiver(**other))
    assert (run.status, run.waived) == (DriftStatus.FAIL, None)


def test_a_waiver_may_cover_an_engine_that_cannot_be_built() -> None:
    broken = {"verdict": "error", "reason": "no implementation"}
    assert judged(**broken).status is DriftStatus.ERROR
    assert judged(waiver(), **broken).status is DriftStatus.XFAIL


def test_a_waiver_without_a_drift_is_not_mentioned() -> None:
    run = judged(waiver(), new=[1e-3, 1e-3, 1.01e-3])
    assert run.status is DriftStatus.PASS
    assert "waive" not in run.reason


def with_failed_builds(tmp_path: Path, folder: Path, *failed: int, update: bool) -> DriftReport:
    """The newest run of the history once more, with some of its builds failed, against its baseline."""
    info = list_runs(tmp_path / "h")[-1]
    rows = read_runs([info]).to_pylist()
    for row in rows:
        row["run"] = "20300101T000000Z-000000"
        if row["build"] in failed and row["kind"] == "engine":
            row |= {"verdict": "error", "reason": "the builder failed"}
    rows = [row for row in rows if row["build"] not in failed or row["kind"] == "engine"]
    plan = MatrixPlan(releases=(CALM,), repeats=3, cases={"clean": ""})
    with RunWriter(tmp_path / "h", plan) as writer:
        writer.write("clean", typed(rows))
        writer.finish(MadeWith())
    newest = list_runs(tmp_path / "h")[-1]
    return compare_with_baselines(
        newest, [load_case(folder / "clean.case.yaml")], Floors(), {}, update=update
    )


def test_no_baseline_is_written_of_builds_that_failed(tiny_cases, drift, path: Path, tmp_path: Path) -> None:
    folder = tiny_cases("clean")
    drift(CALM)
    report = with_failed_builds(tmp_path, folder, 1, update=True)
    (run,) = report.runs
    assert (run.status, report.written, path.exists()) == (DriftStatus.ERROR, (), False)
    assert run.reason.endswith("; no baseline is written, as builds failed")
    report = with_failed_builds(tmp_path, folder, 1, update=False)
    assert "no baseline is written" not in report.runs[0].reason


def test_a_baseline_of_fewer_builds_does_not_mention_a_time_limit(tiny_cases, drift, path: Path) -> None:
    tiny_cases("clean")
    drift(CALM, baseline_update=True, options=DriftOptions(repeats=2))
    (run,) = drift(CALM).runs
    assert run.reason.endswith(": 2 of 3 builds")


def test_one_name_need_not_be_in_a_list(tiny_cases, tmp_path: Path) -> None:
    folder = tiny_cases("clean")
    (case,) = harness.load_cases(str(folder))
    for target in (str(folder), folder, case, [case]):
        report = harness.run(target, precisions="fp32", environments="emulator", tags=case.tags[0])
        assert [(result.case, result.precision) for result in report.results] == [("clean", Precision.FP32)]
    assert len(harness.run(folder, precisions=Precision.BF16).results) == 1
    history = tmp_path / "history"
    drifted = harness.drift(
        str(folder), environments=CALM, precisions="fp16", tags=case.tags[0], history=str(history)
    )
    assert drifted.releases[-1] == CALM
    assert [run.precision for run in drifted.runs] == [Precision.FP16]
    assert harness.load_history(str(history), columns="release").columns.tolist() == ["release"]
