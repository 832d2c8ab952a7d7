"""FP32 on TensorRT for RTX: without TF32 where a release can, else by the gates of TF32, and said so."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from graphs import norm_chain
from rich.console import Console

from harness.backends import tensorrt
from harness.environments import Environment, Supervisor
from harness.judge import RunReport, Verdict, run
from harness.report import print_report
from harness.tensors import Precision

ADAPTER = Path(__file__).parents[1] / "worker" / "doubled.py"
CONFIG = """
[environments.rtx]
python = "{python}"
variables = {{ RELEASE = "{release}", TF32 = "1" }}
"""


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Judges a model in FP32 on a release whose products are computed in TF32 unless that is turned off."""
    made: dict[Environment, Supervisor] = {}

    def shared(environment: Environment) -> Supervisor:
        return made.setdefault(environment, Supervisor(environment, adapter=ADAPTER, keep_cache=False))

    for module in (tensorrt, sys.modules["harness.environments"]):
        monkeypatch.setattr(module, "shared_supervisor", shared)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "chain.onnx"
    onnx.save(norm_chain(), model)

    def judge(release: str) -> RunReport:
        Path("harness.toml").write_text(CONFIG.format(python=sys.executable, release=release))
        return run(model, precisions="fp32", environments="rtx", inputs={"x": (5, 16)})

    yield judge
    for supervisor in made.values():
        supervisor.close()


def printed(report: RunReport) -> str:
    stream = io.StringIO()
    print_report(Console(file=stream, width=120), report)
    return stream.getvalue()


def test_a_release_that_obeys_is_judged_as_fp32(ask) -> None:
    (result,) = (report := ask("1.6.1.120")).results
    assert (result.verdict, result.judged_as, result.warnings) == (Verdict.PASS, None, ())
    assert "judged_as" not in report.to_dict()["results"][0]
    assert "as tf32" not in printed(report)


def test_a_release_that_cannot_is_judged_as_tf32_and_marked(ask) -> None:
    (result,) = (report := ask("1.4.0.76")).results
    assert (result.verdict, result.judged_as) == (Verdict.PASS, Precision.TF32)
    assert "rtx runs no engine with TF32 turned off: judged by the gates of tf32" in result.warnings
    document = report.to_dict()["results"][0]
    assert document["judged_as"] == "tf32"
    assert document["facts"]["realised"]["tf32"] == "cannot_be_turned_off"
    assert "as tf32" in printed(report)
    assert "no engine with TF32 turned off" in printed(report)
    assert result.layers
