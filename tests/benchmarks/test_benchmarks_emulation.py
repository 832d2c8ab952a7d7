"""The emulator with FP16 sums gives the bits of real engines, and the score counts what it says."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.emulation import sweep
from benchmarks.emulation.convolutions import convolutions, narrow
from benchmarks.emulation.models import catalogue
from benchmarks.emulation.recurrences import recurrences
from benchmarks.emulation.score import Known, summarize
from harness.backends import Assumed, Emulator
from harness.environments import Environment
from harness.model import extract, load_model
from harness.model.sums.rules import order_of
from harness.model.sums.summation import Order
from harness.tensors import Accumulate, Precision
from harness.worker.protocol import TENSORRT, TENSORRT_RTX, Kernel, KernelList

ENGINES = np.load(Path(__file__).parent / "data" / "engine_products.npz")
"""What TensorRT for RTX 1.6.1.120 gave on an H200, at FP16: the first elements."""
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
PRODUCTS = {product.name: product for product in sweep.sweep()}
FUSED = "last-1x16x1024x64"


@pytest.mark.parametrize("name", sorted(set(ENGINES.files) - {FUSED}))
def test_fp16_sums_have_the_bits_of_an_engine(name: str) -> None:
    given = ENGINES[name].astype(np.float32)
    proto, feeds = PRODUCTS[name].model()
    model = load_model(proto, name=name)
    output = model.outputs[0].name
    low, plain = (
        Emulator(model, assumed=Assumed(how)).run(feeds, Precision.FP16)[output].reshape(-1)[: given.size]
        for how in (Accumulate.FP16, Accumulate.FP32)
    )
    assert np.mean(low == given) >= 0.98
    if PRODUCTS[name].rows > 1 and PRODUCTS[name].terms > 64:
        assert np.mean(plain == given) < 0.6


CONVOLUTIONS = np.load(Path(__file__).parent / "data" / "engine_convolutions.npz")
"""What TensorRT for RTX 1.6.1.120, TensorRT 8.5.3.1 and 8.6.0 gave on an H200, at FP16, which was pinned."""
RELEASES = {"rtx-1.6": (TENSORRT_RTX, ""), "trt-8.5": (TENSORRT, "8.5.3.1"), "trt-8.6": (TENSORRT, "8.6.0")}


@pytest.mark.parametrize("key", sorted(CONVOLUTIONS.files))
def test_convolutions_have_the_bits_of_engines(key: str) -> None:
    environment, _, name = key.partition("|")
    each = {each.name: each for each in (*convolutions(), *narrow())}[name]
    proto, feeds = each.model()
    model, given = load_model(proto, name=name), CONVOLUTIONS[key].astype(np.float32)
    product, release = RELEASES[environment]
    assumed = Assumed(Accumulate.FP16, product=product, release=release)
    output = model.outputs[0].name
    low, plain = (
        each.kept(Emulator(model, assumed=how).run(feeds, Precision.FP16)[output])[: given.size]
        for how in (assumed, Assumed())
    )
    assert np.mean(low == given) >= 0.98
    sizes = each.groups, each.channels // each.groups, each.filters // each.groups, each.kernel**2
    if order_of(*sizes, product=product, release=release) is not Order.FP32:
        assert np.mean(plain == given) < 0.75


def test_errors_of_engines_are_near_those_of_the_emulation() -> None:
    kept = json.loads((RESULTS / "kernel_rules.json").read_text())
    assert len(kept["near"]) == 5
    for near in kept["near"].values():
        found, count = map(int, near.split(" of "))
        assert found >= 0.9 * count
        assert count >= 51


def test_each_product_of_the_sweep_has_a_rule() -> None:
    kept = json.loads((RESULTS / "kernel_rules.json").read_text())
    assert {row["name"] for row in kept["products"]} >= set(PRODUCTS)
    decided = [row for row in kept["products"] if "rule" in row]
    assert sum(row["same_bits"] >= 0.98 for row in decided) >= 0.9 * len(decided) > 200


def test_the_models_of_the_score_are_fixed() -> None:
    entries = list(catalogue())
    assert len({entry.name for entry in entries}) == len(entries) >= 200
    assert Counter(entry.group for entry in entries)["further"] >= 60
    assert sum(entry.stressing for entry in entries) >= len(entries) / 2


def test_the_score_counts_verdicts_and_errors_that_are_near() -> None:
    def row(agrees: bool, ratio: float | None) -> dict[str, object]:
        each = ("plain", "kernels", "sums", "both")
        return {
            "name": f"m{agrees}{ratio}",
            "precision": "fp16",
            "stressing": True,
            "agrees": dict.fromkeys(each, agrees),
            "fails by its gate": dict.fromkeys(each, not agrees),
            "ratio": dict.fromkeys(each, ratio),
        }

    found = summarize([row(True, 1.1), row(True, 0.5), row(False, None)])["all fp16"]
    assert found["runs"] == 3
    assert found["both"] == {
        "verdicts agree": 2,
        "engines that fail alone": 1,
        "median ratio": 0.8,
        "errors": 2,
        "within 1.15": 1,
    }


BORDERS = np.load(Path(__file__).parent / "data" / "engine_borders.npz")
"""What kernels of TensorRT for RTX 1.6.1.120 read and wrote on an H200, at FP16, and which nodes they compute; `|1.4|`:
what layers of 1.4.0.76 did, at BF16 too."""
KERNELS = json.loads(str(BORDERS["kernels"]))


@pytest.mark.parametrize(
    ("name", "read", "written"),
    [
        ("conv-8x16", "b0_relu", "b1_1_relu"),
        ("conv-8x16", "b5_1_relu", "b5_2_conv"),
        ("conv-8x16", "pool", "logits"),
        ("mlp-1x512x4096", "b0_add", "b1_norm"),
        ("mlp-1x512x4096", "b1_norm", "b1_relu"),
        ("lstm-states-5x4x32", "x", "states"),
        ("gru-row-1x32x64", "x", "states"),
        ("gru-row-2x32x64", "x", "states"),
        ("gru-row-1x512x128", "x", "states"),
        ("gru-after-row-1x16x16", "x", "states"),
        ("rnn-row-1x16x16", "x", "states"),
        ("rnn-row-1x32x64", "x", "states"),
        ("rnn-row-2x32x64", "x", "states"),
        ("lstm-row-1x16x16", "x", "states"),
        ("lstm-row-1x32x64", "x", "states"),
        ("lstm-row-1x512x128", "x", "states"),
    ],
)
def test_what_kernels_write_has_the_bits_of_an_engine(name: str, read: str, written: str) -> None:
    entries = {entry.name: entry for entry in (*recurrences(), *catalogue())}
    model, _ = entries[name].made
    listed = tuple(Kernel(kernel, "kgen", tuple(nodes)) for kernel, nodes in KERNELS[name]["kernels"])
    known = KernelList(TENSORRT_RTX, "1.6.1.120", "inspector", listed)
    part = extract(model, [read], [written])
    feeds = {read: BORDERS[f"{name}|{read}"].astype(np.float32)}
    given = BORDERS[f"{name}|{written}"].astype(np.float32)
    same = {}
    for how in (Known(Accumulate.FP16, known=known), Assumed(Accumulate.FP16)):
        low = Emulator(part, assumed=how).run(feeds, Precision.FP16)[written]
        same[type(how)] = np.mean(low == given)
    assert same[Known] >= 0.96
    if written not in ("b5_2_conv", "b1_relu"):  # a product alone needs no kernels
        assert same[Assumed] < 0.96


@pytest.mark.parametrize(
    ("name", "precision", "read", "written"),
    [
        ("lstm-row-2x16x16", Precision.FP16, "x", "states"),
        ("lstm-row-2x32x64", Precision.FP16, "x", "states"),
        ("lstm-row-2x512x128", Precision.FP16, "x", "states"),
        ("lstm", Precision.BF16, "sequence", "lstm0_merge"),
    ],
)
def test_recurrent_layers_have_the_bits_of_an_older_engine(
    name: str, precision: Precision, read: str, written: str
) -> None:
    entries = {entry.name: entry for entry in (*recurrences(), *catalogue())}
    part = extract(entries[name].made[0], [read], [written])
    given = BORDERS[f"{name}|1.4|{written}"]
    same = []
    for release in ("1.4.0.76", "1.6.1.120"):
        known = KernelList(TENSORRT_RTX, release, "inspector", (Kernel("", ""),))
        emulator = Emulator(part, assumed=Known(Accumulate.FP16, known=known, release=release))
        low = emulator.run({read: BORDERS[f"{name}|1.4|{read}"]}, precision)[written]
        same.append(np.mean(low == given))
    assert same[0] >= 0.98
    assert same[1] < 0.8


@pytest.mark.parametrize(("release", "together"), [("1.4.0.76", True), ("1.6.1.120", False)])
def test_sums_are_those_of_the_release_whose_kernels_are_assumed(
    monkeypatch: pytest.MonkeyPatch, release: str, together: bool
) -> None:
    listed = KernelList(TENSORRT_RTX, release, "log", (Kernel("", "kgen"),))
    monkeypatch.setattr("harness.compiler.kernels_of", lambda *given, **options: listed)
    model, feeds = next(entry for entry in recurrences() if entry.name == "rnn-row-2x32x64").made
    assumed = Assumed(Accumulate.FP16, Environment(name="rtx", command=("python",)))
    one_row = assumed.arithmetic(model, Precision.FP16, feeds, {}).sums["layer"].one_row
    assert one_row is not None
    assert one_row.together is together
