"""`check module:function`: exports of PyTorch modules, compared with the module, and blame for those that fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness import check
from harness.conversion import FoundBy, fix_case

pytest.importorskip("torch")

MODELS = """\
import torch

class Net(torch.nn.Module):
    def forward(self, x):
        return torch.remainder(torch.relu(x), 0.75)

def net():
    return Net(), (torch.ones(2, 8),)

class Branch(torch.nn.Module):
    def forward(self, x):
        y = torch.tanh(x)
        return y if x.sum() > 0 else -y

def branch():
    return Branch(), (torch.ones(2, 8),)

@torch.library.custom_op("harness_test::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2

@twice.register_fake
def _(x):
    return torch.empty_like(x)

class Custom(torch.nn.Module):
    def forward(self, x):
        y = torch.relu(x)
        return twice(y) + 1

def custom():
    return Custom(), (torch.ones(2, 8),)
"""


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch):
    (tmp_path / "nets.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)


def test_both_exporters_are_checked_side_by_side():
    report = check("nets:net")
    assert [result.case for result in report.results] == ["net (dynamo)", "net (legacy)"]
    assert all(result.nodes and not result.exported for result in report.results)


def test_a_failed_export_names_the_operator_and_the_line():
    for result in check("nets:custom").results:
        (found,) = result.exported
        assert found.code == "export-failed"
        assert found.found_by is FoundBy.EXPORTER
        assert found.said.startswith("nets.py:29: ")
        assert "harness_test" in found.said
        assert "twice" in found.said
        assert result.fails


def test_a_branch_on_data_names_its_line_and_what_a_trace_froze_differs():
    dynamo, legacy = check("nets:branch").results
    assert dynamo.exported[0].said.startswith("nets.py:13: ")
    assert legacy.exported[0].code == "export-differs"
    assert "'" in legacy.exported[0].said


def test_an_export_is_fixed(tmp_path: Path):
    fixed = fix_case("nets:net", tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").exists() == bool(fixed.applied)
    assert fixed.case == "net (dynamo)"


def test_nothing_of_the_exporters_reaches_stdout(tmp_path: Path):
    command = [sys.executable, "-m", "harness", "check", "nets:custom", "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("{")
