"""Models that come from PyTorch; needs the `torch` extra."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.case import Case, load_case, make_feeds, resolve_model
from harness.errors import BuilderError

MODELS = """\
import torch

class Net(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = torch.nn.Linear(8, width)
        self.drop = torch.nn.Dropout(0.5)
        self.last = torch.nn.Linear(width, 4)

    def forward(self, x):
        return self.last(self.drop(torch.relu(self.first(x))))

def net(width: int = 16):
    return Net(width), (torch.zeros(2, 8),)

def dynamic():
    batch = torch.export.Dim("batch", min=1, max=64)
    options = {"dynamic_shapes": {"x": {0: batch}}, "input_names": ["x"], "output_names": ["y"]}
    return Net(16), (torch.zeros(2, 8),), options

def module_alone():
    return Net(16)

class Bad(torch.nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x

def cannot_be_exported():
    return Bad(), (torch.zeros(2, 8),)
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(MODELS)

    def make_case(**keys) -> Case:
        seed = keys.pop("seed", 0)
        return Case.model_validate({"name": "t", "path": Path("t.case.yaml"), "model": keys, "seed": seed})

    return make_case


def test_without_torch_the_extra_is_named(make, tmp_path):
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "torch.py").write_text("raise ModuleNotFoundError('No module named torch', name='torch')\n")
    Path("t.case.yaml").write_text("model: {torch: nets:net}\nruns: [fp32]\n")
    done = subprocess.run(
        [sys.executable, "-m", "harness", "run", "t.case.yaml"],
        env={**os.environ, "PYTHONPATH": str(absent)},
        capture_output=True,
        text=True,
    )
    said = " ".join((done.stdout + done.stderr).split())
    assert "t.case.yaml: the model is exported from PyTorch, and torch is not installed" in said
    assert "pip install 'harness[torch]'" in said


class TestExport:
    @pytest.fixture(autouse=True)
    def _torch(self):
        self.torch = pytest.importorskip("torch")
        pytest.importorskip("onnxscript")

    def weights(self, case: Case) -> list[np.ndarray]:
        from onnx import numpy_helper

        return [numpy_helper.to_array(tensor) for tensor in resolve_model(case).graph.initializer]

    def test_a_module_is_exported_with_weights_of_the_seed_of_the_case(self, make):
        state = self.torch.random.get_rng_state()
        first, again, other = (self.weights(make(torch="nets:net", seed=seed)) for seed in (1, 1, 2))
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))
        assert self.torch.equal(state, self.torch.random.get_rng_state())

    def test_the_exported_model_computes_what_the_module_computes(self, make):
        import onnxruntime

        model = resolve_model(make(torch="nets:net", args={"width": 32}, opset=17))
        assert [entry.version for entry in model.opset_import if not entry.domain] == [17]
        assert model.ir_version == 8  # what goes with opset 17: TensorRT 8.5 and 8.6 read no more than 9
        session = onnxruntime.InferenceSession(model.SerializeToString())
        x = np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, 8)
        (got,) = session.run(None, {session.get_inputs()[0].name: x})
        namespace = {}
        exec(compile(MODELS, "nets.py", "exec"), namespace)
        self.torch.manual_seed(0)
        module = namespace["net"](32)[0].eval()
        expected = module(self.torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)

    def test_dynamic_axes_are_exported_and_fed(self, make):
        from harness.model import load_model

        Path("d.case.yaml").write_text(
            "model: {torch: nets:dynamic}\ninputs: {x: {shape: [5, 8], min: [1, 8], max: [64, 8]}}\n"
        )
        case = load_case("d.case.yaml")
        inputs = load_model(resolve_model(case)).inputs
        assert [info.name for info in inputs] == ["x"]
        assert not isinstance(inputs[0].shape[0], int)
        assert make_feeds(case, inputs)[0]["x"].shape == (5, 8)

    def test_what_a_torch_function_must_return_is_said(self, make):
        with pytest.raises(BuilderError, match=r"returned a nets\.Net instead of a torch\.nn\.Module and"):
            resolve_model(make(torch="nets:module_alone"))

    def test_a_failed_export_is_one_message(self, make):
        with pytest.raises(
            BuilderError, match=r"builder nets:cannot_be_exported torch\.onnx\.export raised"
        ) as caught:
            resolve_model(make(torch="nets:cannot_be_exported"))
        assert caught.value.where == "nets.py:26"
        assert "\n" not in str(caught.value)

    def test_an_export_says_nothing_of_its_own(self, make, capfd):
        resolve_model(make(torch="nets:net", opset=17))
        captured = capfd.readouterr()
        assert (captured.out, captured.err) == ("", "")

    def test_no_module_of_the_case_stays_loaded(self, make):
        resolve_model(make(torch="nets:net"))
        assert "nets" not in sys.modules
