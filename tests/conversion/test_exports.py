"""`check module:function`: exports of PyTorch modules, compared with the module, and blame for those that fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness import check
from harness.compiler import FindingKind
from harness.conversion import FoundBy, fix_case
from harness.report import check_text

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

class OneSided(torch.nn.Module):
    def forward(self, x):
        y = torch.relu(x)
        if y.sum() > 200:
            return y * 2
        return y

def one_sided():
    return OneSided(), (torch.ones(2, 8),)

class ByShape(torch.nn.Module):
    def forward(self, x):
        if x.shape[0] > 4:
            return x * 2
        return x + 1

def by_shape():
    batch = torch.export.Dim("batch")
    return ByShape(), (torch.ones(2, 8),), {"dynamic_shapes": {"x": {0: batch}}, "input_names": ["x"]}

class Masked(torch.nn.Module):
    def forward(self, x, attention_mask):
        mask = (1.0 - attention_mask[:, None].to(x.dtype)) * torch.finfo(x.dtype).min
        return torch.softmax(x @ x.transpose(1, 2) + mask, -1) @ x

def masked():
    return Masked(), (torch.randn(2, 6, 16), torch.ones(2, 6))

@torch.library.custom_op("harness_test::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2

@twice.register_fake
def _(x):
    return torch.empty_like(x)

class BySize(torch.nn.Module):
    def forward(self, x):
        return x * 2 if int(torch.tensor(x.shape[1])) > 4 else x

def by_size():
    return BySize(), (torch.ones(2, 8),)

def bare():
    return Net(), torch.ones(2, 8)

def alone():
    return Net()

class Custom(torch.nn.Module):
    def forward(self, x):
        y = torch.relu(x)
        return twice(y) + 1

def custom():
    return Custom(), (torch.ones(2, 8),)
"""


def line(code: str) -> str:
    """`nets.py:23: `, the only line with this code."""
    (number,) = [number for number, text in enumerate(MODELS.splitlines(), 1) if code in text]
    return f"nets.py:{number}: "


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
        assert found.said.startswith(line("return twice(y)"))
        assert "harness_test" in found.said
        assert "twice" in found.said
        assert result.fails


def test_a_branch_on_data_names_its_line_and_what_a_trace_froze_differs():
    dynamo, legacy = check("nets:branch").results
    assert dynamo.exported[0].said.startswith(line("x.sum() > 0"))
    assert legacy.exported[0].code == "export-differs"
    assert "'" in legacy.exported[0].said


def test_a_frozen_branch_is_told_with_its_line_and_tried_on_both_sides():
    """Inputs as they are drawn all fall on one side."""
    _, legacy = check("nets:one_sided").results
    frozen, differs = legacy.exported[1], legacy.exported[0]
    assert (frozen.code, frozen.kind) == ("export-frozen", FindingKind.RISKY)
    assert frozen.explanation.startswith(line("y.sum() > 200"))
    assert "Python boolean" in frozen.said
    assert (differs.code, differs.kind) == ("export-differs", FindingKind.DIFFERENT)
    assert differs.said.endswith("where inputs are large")


def test_a_branch_on_an_open_size_is_tried_on_both_sides():
    """And the sizes that nobody gave are those of the example."""
    dynamo, legacy = check("nets:by_shape").results
    for result in (dynamo, legacy):
        assert result.exported[0].code == "export-differs"
        assert result.exported[0].said.endswith("with sizes of 8 times as much")
    assert legacy.exported[1].explanation.startswith(line("x.shape[0] > 4"))


def test_an_additive_mask_is_drawn_as_a_mask_and_cured(tmp_path: Path):
    for result in check("nets:masked").results:
        assert result.exported == ()
    fixed = fix_case("nets:masked", tmp_path / "out.onnx")
    assert "safe-mask" in [each.code for each in fixed.applied]


def test_what_does_not_depend_on_inputs_is_not_called_frozen():
    assert all(result.exported == () for result in check("nets:net").results)


def test_an_export_is_fixed(tmp_path: Path):
    fixed = fix_case("nets:net", tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").exists() == bool(fixed.applied)
    assert fixed.case == "net (dynamo)"


def test_nothing_of_the_exporters_reaches_stdout(tmp_path: Path):
    command = [sys.executable, "-m", "harness", "check", "nets:custom", "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("{")


def test_where_every_export_fails_the_answer_says_so_and_asks_for_no_compiler():
    said = check_text(check("nets:custom"))
    assert "2 exports from PyTorch failed" in said
    for word in ("By the rules", "--env", "0 nodes"):
        assert word not in said
    assert "2 exports from PyTorch failed" not in check_text(check("nets:net"))


def test_a_failed_export_is_counted_beside_what_rules_say_of_the_other():
    assert "of 1 model 0 will not build" in check_text(check("nets:branch"))


def test_dynamo_is_advised_only_where_its_export_computes_the_same():
    (frozen,) = [each for each in check("nets:one_sided").results[1].exported if each.code == "export-frozen"]
    assert frozen.advice == "write it with torch.where or torch.cond"
    (frozen,) = [each for each in check("nets:by_size").results[1].exported if each.code == "export-frozen"]
    assert frozen.advice.endswith("or take the export of dynamo")


@pytest.mark.parametrize(
    ("function", "returned"), [("bare", "a tuple (nets.Net, torch.Tensor)"), ("alone", "a nets.Net")]
)
def test_a_builder_that_returns_something_else_is_told_what_it_returned(function: str, returned: str):
    for result in check(f"nets:{function}").results:
        (found,) = result.exported
        assert f"returned {returned} instead of a torch.nn.Module and a tuple of example inputs" in found.said
        assert found.advice.startswith("return module, (input,)")
