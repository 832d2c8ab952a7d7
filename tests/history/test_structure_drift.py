"""Drift of structure: what compilers make of models, without a GPU and without tensors.

The real adapter runs on the double of TensorRT for RTX; `tests/compiler` asks the real builder.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from harness.cli import main
from harness.history import DriftOptions, DriftStatus, DriftVerdict, drift
from harness.report.drift.words import summary


@pytest.fixture
def model(doubled_environments, chain) -> Path:
    """A product and what follows it, beside a harness.toml of compilers."""
    doubled_environments(
        {
            "old": ["GPU=none", "RELEASE=1.4.0.76"],
            "new": ["GPU=none", "RELEASE=1.7.1.116"],
            "wide": ["GPU=none", "RELEASE=1.6.1.120", "FALLBACK=1"],
            "broken": ["GPU=none", "RELEASE=1.5.0.114", "FAIL=Myelin error: no code for relu"],
        }
    )
    return chain("Relu", "Sqrt")


def compared(model: Path, old: str, new: str):
    return drift(model, environments=[old, new], precisions="fp16", options=DriftOptions(structure=True))


def test_the_same_kernels_are_no_drift(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = compared(model, "old", "new")
    (run,) = report.runs
    assert (run.status, run.verdict, run.structure) == (DriftStatus.PASS, DriftVerdict.SAME, ())
    assert (report.exit_code, run.reason) == (0, "the same kernels")
    engines = report.records[report.records["kind"] == "engine"]
    assert list(engines["product"]) == ["TensorRT for RTX"] * 2
    assert list(engines["verdict"]) == ["compiled"] * 2
    capsys.readouterr()
    assert main(["drift", str(model), "-p", "fp16", "--structure", "--env", "old", "--env", "new"]) == 0
    shown = capsys.readouterr()
    assert "Nothing regressed on new, and kernels are the same." in shown.out
    assert "m at fp16 on old: compiled" in shown.err


def test_a_lost_precision_is_a_regression_of_the_nodes_that_lost_it(model: Path) -> None:
    report = compared(model, "new", "wide")
    (run,) = report.runs
    assert (report.exit_code, run.verdict) == (1, DriftVerdict.REGRESSED)
    assert run.reason == "product, relu, sqrt lost the precision asked for"
    page = model.with_suffix(".html")
    words = ["--structure", "-p", "fp16", "--env", "wide", "--env", "new", "--html", str(page)]
    assert main(["drift", str(model), *words]) == 0
    assert "Other kernels" in page.read_text()
    assert "differ in precision</h2>" not in page.read_text()
    improved = compared(model, "wide", "new")
    assert "1 run: 1 with other kernels" in summary(improved)
    (back,) = improved.runs
    assert (back.status, back.verdict) == (DriftStatus.PASS, DriftVerdict.SAME)
    assert [change.old for change in back.structure] == ["fp32"]


def test_what_can_no_longer_be_built_fails_and_what_can_be_built_now_is_fixed(model: Path) -> None:
    report = compared(model, "new", "broken")
    (run,) = report.runs
    assert (report.exit_code, run.status, run.verdict) == (1, DriftStatus.FAIL, DriftVerdict.NEW_FAILURE)
    assert run.reason.startswith(
        "broken no longer builds it; broken: TensorRT for RTX 1.5.0.114 returned no engine"
    )
    report = compared(model, "broken", "new")
    (run,) = report.runs
    assert (report.exit_code, run.verdict) == (0, DriftVerdict.FIXED)
    assert run.reason.startswith("new builds it now; broken: ")


def test_a_waiver_excuses_what_it_covers_and_ranges_of_tensorrt_cover_no_other_product(model: Path) -> None:
    case = model.with_name("m.case.yaml")
    waiver = "{reason: known, expires: 2999-12-31, "
    for condition, code in (("tensorrt: '>=1'", 1), ("environment: broken", 0)):
        case.write_text(f"model: {{path: m.onnx}}\nruns: [fp16]\nwaivers: [{waiver}{condition}}}]\n")
        assert compared(case, "new", "broken").exit_code == code


def test_every_report_can_be_written(model: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / f"d.{name}" for name in ("json", "html", "md", "parquet")}
    status = main(
        [
            *(
                "drift",
                str(model),
                "-p",
                "fp16",
                "-p",
                "fp32",
                "--structure",
                "--env",
                "new",
                "--env",
                "broken",
            ),
            *("--json", str(files["json"]), "--html", str(files["html"]), "--markdown", str(files["md"])),
            *("--table", str(files["parquet"])),
        ]
    )
    assert status == 1
    document = json.loads(files["json"].read_text())
    assert [(run["verdict"], run["compiled"]) for run in document["runs"]] == [("new failure", True)] * 2
    assert "TensorRT for RTX 1.5.0.114" in files["html"].read_text()
    assert "| verdict | case | precision |\n" in files["md"].read_text(), "nothing ran that has errors"
    assert "NEW FAILURE" in files["md"].read_text()
    assert len(pd.read_parquet(files["parquet"])) == 0


def test_what_compiles_nothing_is_refused(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for names, said in (
        (["emulator:fp16", "new"], "emulator:fp16 compiles nothing"),
        (["new"], "--env OLD --env NEW"),
    ):
        words = [word for name in names for word in ("--env", name)]
        assert main(["drift", str(model), "--structure", *words]) == 2
        assert said in capsys.readouterr().err


def test_running_without_a_gpu_is_explained_once_for_all_runs(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(model), "-p", "fp32", "-p", "fp16", "--env", "new"]) == 3
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("can compile here but not run: there is no GPU") == 1
    assert "2 runs" in shown
    assert "evidence" not in shown
