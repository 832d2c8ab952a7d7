"""`harness quantize`, and `harness diagnose` of a quantised file: what a person reads, and what is written."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest

from cases.models.convolutional import conv_residual
from harness.model import load_model, save_model
from harness.quantization import Scale, find_pairs, float_weights, with_scales


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    onnx.save(conv_residual(blocks=1), "float.onnx")
    rng = np.random.default_rng(0)
    np.savez("data.npz", image=rng.standard_normal((4, 2, 3, 16, 16)).astype(np.float32))


def test_a_model_is_quantised_clipped_diagnosed_and_repaired(harness):
    files = ("--json", "q.json", "--html", "q.html", "--write-cache", "c.cache")
    status, out, _ = harness("quantize", "float.onnx", "--data", "data.npz", "--out", "q.onnx", *files)
    assert status == 0
    assert all(method in out for method in ("max", "entropy", "percentile", "mse"))
    assert "float in int8: nearly all of the multiply-adds" in out
    assert "small  in float, too: logits_matmul; --keep-float 0% quantises them" in out
    document = json.loads(Path("q.json").read_text())
    assert document["schema"] == "harness.quantization/1"
    assert document["chosen"]["error"] < 0.02
    page = Path("q.html").read_text()
    assert "KL divergence" in page
    assert "Error against share" in page
    assert Path("c.cache").read_text().startswith("TRT-")

    model = load_model("q.onnx")
    pairs = find_pairs(model)
    clipped = {p.name: Scale(p.scale.values / 20) for p in pairs if p.name == "stem_relu"}
    save_model(with_scales(model, pairs, clipped, float_weights(model, pairs)), "clipped.onnx")
    words = ("clipped.onnx", "--reference", "float.onnx", "--data", "data.npz")
    status, out, _ = harness("diagnose", *words, "--json", "-", "--out", "found", "--quiet")
    document = json.loads(out)
    assert status == 1
    assert document["verdict"] == "scales"
    assert document["faulty"] == ["stem_relu"]
    assert document["repaired"] < 0.02
    assert {"repaired.onnx", "reduced.onnx", "diagnosis.html"} <= {
        path.name for path in Path("found").iterdir()
    }
    status, out, _ = harness("diagnose", *words)
    assert "the scale of 1 Q/DQ pair is wrong" in out
    assert "--nodes_to_exclude '^b0_1_conv$' '^b0_add$'" in out
    assert "nodes_to_exclude=['b0_1_conv', 'b0_add']" in out
    assert "stem_relu (activation) reaches" in out
    line = next(line for line in out.splitlines() if "harness: harness quantize" in line)
    assert "quantize float.onnx --data data.npz " in line
    assert harness(*shlex.split(line.partition("harness: harness ")[2]))[0] == 0
    assert Path("mixed.onnx").exists()
    status, out, _ = harness(
        "diagnose", "found/repaired.onnx", "--reference", "float.onnx", "--data", "data.npz"
    )
    assert status == 0
    assert "no scale of the" in out


def test_a_share_is_kept_in_float_and_nonsense_is_refused(harness):
    words = ("quantize", "float.onnx", "--data", "data.npz", "--out", "q.onnx", "--method", "max")
    status, out, err = harness(*words, "--keep-float", "40%")
    assert status == 0
    assert not err
    assert " of the multiply-adds" in out
    assert "all of the multiply-adds" not in out
    _, _, err = harness("quantize", "float.onnx", "--out", "q.onnx", "--method", "max")
    assert "drawn at random" in err
    for text, said in (("much", "is not a percentage"), ("200%", "200 % of the multiply-adds make no sense")):
        status, _, err = harness(*words, "--keep-float", text)
        assert status == 2
        assert said in err
    Path("q.onnx").unlink()
    status, _, err = harness(*words, "--limit", "1e-9")
    assert status == 2
    assert "cannot be reached with anything quantised" in err
    assert not Path("q.onnx").exists()
    status, _, err = harness(*words, "--method", "minmax")
    assert status == 2
    assert "max, entropy, percentile, mse" in err


def test_a_case_without_a_float_original_is_compared_with_itself(harness):
    case = Path(__file__).parents[2] / "cases" / "quantised-conv.case.yaml"
    status, out, _ = harness("diagnose", str(case), "-p", "int8", "--limit", "0.2")
    assert status == 0
    assert "quantised-conv at int8: sound\n" in out
    assert "no scale of the 9 Q/DQ pairs is at fault" in out
    assert "the limit is 0.2" in out


def test_a_diagnosis_without_a_float_model_says_how_to_ask_about_the_pairs(harness):
    harness("quantize", "float.onnx", "--data", "data.npz", "--out", "q.onnx", "--method", "max")
    _, out, _ = harness("diagnose", "q.onnx", "--data", "data.npz")
    assert "--reference FLOAT.onnx, or -p int8" in out
    _, out, _ = harness("diagnose", "float.onnx", "--data", "data.npz")
    assert "--reference FLOAT.onnx" not in out


def test_samples_in_a_row_on_the_axis_of_a_fixed_batch_are_separated(harness):
    rng = np.random.default_rng(0)
    np.savez("stacked.npz", image=rng.standard_normal((8, 3, 16, 16)).astype(np.float32))  # batches of 2
    status, out, _ = harness("quantize", "float.onnx", "--data", "stacked.npz", "--out", "q.onnx")
    assert status == 0
    assert "calibrated with 3 samples; 1 sample kept apart" in out


def test_check_finds_scales_and_pairs_that_cannot_be_right(harness):
    harness("quantize", "float.onnx", "--data", "data.npz", "--out", "q.onnx", "--method", "max")
    model = load_model("q.onnx")
    pairs = find_pairs(model)
    zero = {"stem_relu": Scale(np.array(0.0))}
    save_model(with_scales(model, pairs, zero, float_weights(model, pairs)), "zero.onnx")
    status, out, _ = harness("check", "zero.onnx", "--details")
    assert status == 1
    assert "scale-zero" in out
    _, out, _ = harness("check", "q.onnx", "--details")
    assert "scale-" not in out
    assert "misplaced-pair" not in out
