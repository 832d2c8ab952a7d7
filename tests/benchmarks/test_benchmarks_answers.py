import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import answers
from benchmarks.answers import SHAPES, check, differences, find, rows_of
from benchmarks.record import RESULTS


def result(**changes: Any) -> dict[str, Any]:
    """One result as `harness run --json` writes it, as far as the answers read it."""
    gates = [{"metric": "nrmse", "passed": True}, {"metric": "nonfinite", "passed": True}]
    return {
        "case": "mlp",
        "precision": "fp16",
        "verdict": "pass",
        "outputs": [
            {"metrics": {"nrmse": 0.001234}, "gates": gates},
            {"metrics": {"nrmse": 2e-4}, "gates": gates},
        ],
        "layers": [{"node": "a", "origin": False}],
        **changes,
    }


def run_of(*results: dict[str, Any], status: int = 0) -> dict[str, Any]:
    columns = " | ".join([*SHAPES["run"].columns, "exit status"])
    return {"columns": columns, "rows": rows_of("run", "bundled cases", {"results": [*results]}, status)}


def test_a_row_has_the_verdict_the_failed_gates_the_origins_the_worst_error_and_the_exit_status() -> None:
    gates = [{"metric": "nrmse", "passed": False}, {"metric": "rmse", "passed": True}]
    failing = result(
        verdict="fail",
        outputs=[{"metrics": {"nrmse": "inf"}, "gates": gates}, {"metrics": {"nrmse": 0.5}, "gates": gates}],
        layers=[{"node": node, "origin": node != "a"} for node in "cab"],
    )
    assert run_of(result())["rows"] == {"mlp fp16": "pass | - | - | 0.0012 | 0"}
    assert run_of(failing, status=1)["rows"] == {"mlp fp16": "fail | nrmse | b c | inf | 1"}


def test_an_error_that_is_not_a_number_is_the_worst() -> None:
    outputs = [{"metrics": {"nrmse": value}, "gates": []} for value in ("inf", "nan", 0.1)]
    assert run_of(result(outputs=outputs))["rows"] == {"mlp fp16": "pass | - | - | nan | 0"}


def test_a_command_that_writes_no_document_answers_with_its_exit_status_alone() -> None:
    assert rows_of("run", "no such file", None, 2) == {"no such file": "- | - | - | - | 2"}


def test_a_field_that_the_json_has_no_more_is_an_error() -> None:
    with pytest.raises(KeyError, match="verdict"):
        find({"results": [{"outcome": "pass"}]}, "results[].verdict")


@pytest.mark.parametrize(
    ("now", "difference"),
    [
        (run_of(result(verdict="fail")), ("verdict", "pass", "fail")),
        (run_of(result(layers=[{"node": "a", "origin": True}])), ("origins", "-", "a")),
        (run_of(result(), status=1), ("exit status", "0", "1")),
        (run_of(), ("row", "pass | - | - | 0.0012 | 0", "missing")),
    ],
)
def test_a_changed_answer_is_a_difference(now: dict[str, Any], difference: tuple[str, ...]) -> None:
    assert ("run", "mlp fp16", *difference) in differences("run", run_of(result()), now)


def test_the_same_answers_are_no_difference_and_a_new_row_is_one() -> None:
    both = run_of(result(), result(precision="bf16"))
    assert differences("run", both, both) == []
    assert differences("run", run_of(result()), both) == [
        ("run", "mlp bf16", "row", "missing", "pass | - | - | 0.0012 | 0")
    ]


@pytest.mark.parametrize(("verdict", "status"), [("pass", 0), ("fail", 1)])
def test_a_check_fails_and_shows_what_differs(
    verdict: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recorded = tmp_path / "answers.json"
    recorded.write_text(json.dumps({"parts": {"run": run_of(result())}}), encoding="utf-8")
    monkeypatch.setattr(answers, "answers", lambda part, jobs, scheduler: run_of(result(verdict=verdict)))
    assert check(["run"], 1, recorded) == status
    assert ("verdict  pass → fail" in capsys.readouterr().out) == (status == 1)


def test_the_recorded_answers_have_every_part_with_its_columns() -> None:
    recorded = json.loads((RESULTS / "answers.json").read_text(encoding="utf-8"))["parts"]
    assert recorded.keys() == answers.PARTS.keys()
    for part, kept in recorded.items():
        assert kept["columns"] == " | ".join([*SHAPES[part].columns, "exit status"])
