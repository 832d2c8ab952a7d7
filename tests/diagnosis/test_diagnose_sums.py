"""FP16 products that accumulate in FP16: the emulator passes, the engine does not, and it is no conversion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from engines import Build, FakeEngine
from graphs import graph_model
from models import feeds, rmsnorm
from onnx import helper

from benchmarks.emulation.accumulators import accumulate_in_fp16
from harness.backends import Observation, Plan
from harness.case import Tolerance
from harness.diagnosis import (
    Diagnosis,
    DiagnosisVerdict,
    EvidenceKind,
    Recipe,
    diagnose,
    diagnose_model,
)
from harness.judge import Judge
from harness.model import Model, load_model, sampled_product, save_model, splits_of
from harness.report.diagnosis import diagnosis_markdown, diagnosis_page
from harness.tensors import Accumulate, Precision
from harness.worker.protocol import TENSORRT_RTX


@cache
def wide(blocks: int = 2, width: int = 64, inner: int = 2048, rows: int = 32) -> Model:
    """Products of many terms, with a residual around each pair."""
    rng = np.random.default_rng(1)
    nodes, weights, tensor = [], {}, "x"
    for block in range(blocks):
        up, down, act, total = (f"b{block}_{name}" for name in ("up", "down", "act", "add"))
        weights[f"{up}_w"] = (rng.standard_normal((width, inner)) / np.sqrt(width)).astype(np.float32)
        weights[f"{down}_w"] = (rng.standard_normal((inner, width)) / np.sqrt(inner)).astype(np.float32)
        nodes += [
            helper.make_node("MatMul", [tensor, f"{up}_w"], [up], name=up),
            helper.make_node("Tanh", [up], [act], name=act),
            helper.make_node("MatMul", [act, f"{down}_w"], [down], name=down),
            helper.make_node("Add", [tensor, down], [total], name=total),
        ]
        tensor = total
    shapes = {"x": [rows, width]}
    return load_model(graph_model(nodes, inputs=shapes, outputs={tensor: [rows, width]}, weights=weights))


GATE = (Tolerance(precision="fp16", nrmse=6e-4),)  # between the emulator's error and the engine's


@dataclass
class Accumulating(FakeEngine):
    """Computes `wide` product by product as tensor cores do; `obeys` says whether islands are.

    `keeps` says whether Casts around products are, of which the weights stay in FP16; `parts` whether those around a
    product alone are, whose reader is not in FP32: as TensorRT for RTX 1.4 and 1.5 were seen not to.
    """

    typing: str = "strong"
    obeys: bool = True
    keeps: bool = True
    parts: bool = True
    factor: float = 1.0

    def _run(self, build: Build, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        plan = build.plan
        if plan.precision is not Precision.FP16:
            return super()._run(build, feeds)
        islands = plan.islands if self.obeys else frozenset()
        if not self.parts:
            read = {name for node in islands for name in self.model.node(node).inputs}
            islands = frozenset(node for node in islands if read.intersection(self.model.node(node).outputs))
        islands |= plan.fp32_sums if self.keeps else frozenset()
        values = {"x": feeds["x"].astype(np.float16).astype(np.float64)}
        for node in self.model.skeleton.graph.node:
            left = values[node.input[0]]
            if node.op_type == "MatMul":
                right = self.model.weight(node.input[1]).astype(np.float16)
                sums = left @ right.astype(np.float64)
                if node.name not in islands:
                    parts = splits_of(1, *left.shape, right.shape[1])
                    sums += self.factor * (accumulate_in_fp16(left, right, parts=parts) - sums)
            else:
                sums = np.tanh(left) if node.op_type == "Tanh" else left + values[node.input[1]]
            values[node.output[0]] = sums.astype(np.float16).astype(np.float64)
        names = {info.name for info in self.model.outputs}
        if plan.observation is not Observation.NONE:
            names |= set(self.model.float_tensors)
        return {name: value.astype(np.float32) for name, value in values.items() if name in names}


def run(engine: FakeEngine, **options: object) -> Diagnosis:
    return diagnose_model(
        engine.model,
        feeds(engine.model),
        Precision.FP16,
        candidate=engine,
        tolerances=GATE,
        **options,  # type: ignore[arg-type]
    )


def never(build: Build) -> bool:
    return False


def texts(diagnosis: Diagnosis) -> str:
    return "\n".join([diagnosis.summary, *diagnosis.advice, *(each.text for each in diagnosis.evidence)])


def test_products_that_accumulate_are_precision_with_casts_as_the_cure() -> None:
    engine = Accumulating(wide(), "b0_up", never)
    diagnosis = run(engine)
    assert diagnosis.verdict is DiagnosisVerdict.PRECISION
    assert diagnosis.fp32_sums == ("b0_down", "b1_down")  # of many terms; the others add up 64
    assert diagnosis.culprits == ()  # no node went back to FP32
    assert diagnosis.confirmed
    assert diagnosis.origins[0].why.startswith(
        "FP16 products accumulate in FP16: that makes the error of the outputs"
    )
    assert any(each.startswith("put Casts to FP32 around these products") for each in diagnosis.advice)
    assert diagnosis.price is not None
    assert "the Casts around what is in FP32 were kept" in texts(diagnosis)
    assert engine.builds == 4  # unobserved, in FP32, with the products added up in FP32, observed


def saved(folder: Path, model: Model, limit: float = 6.5e-4) -> Path:
    """A case of `model` with the gate between FP32 and FP16 sums."""
    save_model(model, folder / "wide.onnx")
    path = folder / "wide.case.yaml"
    gate = f"tolerances: [{{precision: fp16, nrmse: {limit}}}]"
    path.write_text(f"model: {{path: wide.onnx}}\nruns: [fp16]\naccumulate: fp16\n{gate}\n")
    return path


def on(engine: FakeEngine, case: Path, **options: object) -> Diagnosis:
    """A diagnosis on `engine`, with an emulator that adds up in FP16."""
    with Judge() as judge:
        judge.candidates.offer(engine.name, engine)
        return diagnose(case, environment=engine.name, judge=judge, **options)  # type: ignore[arg-type]


def test_the_first_cure_is_casts_around_products_and_takes_two_builds(tmp_path: Path) -> None:
    engine = Accumulating(wide(), "b0_up", never, product=TENSORRT_RTX, release="1.6.1.120")
    diagnosis = on(engine, saved(tmp_path, engine.model), out=tmp_path / "out")
    assert diagnosis.verdict is DiagnosisVerdict.PRECISION
    assert diagnosis.confirmed
    assert diagnosis.fp32_sums == ("b0_down", "b1_down")
    assert diagnosis.culprits == ()
    assert diagnosis.islands == ()
    assert [plan.fp32_sums for plan in engine.plans[:2]] == [frozenset(), frozenset(diagnosis.fp32_sums)]
    assert not any(plan.islands for plan in engine.plans)
    assert "Casts to FP32 around 2 products (b0_down, b1_down) cure it" in diagnosis.summary
    assert diagnosis.to_dict()["fp32_sums"] == ["b0_down", "b1_down"]
    assert "added up in FP32, between Casts: b0_down, b1_down (2 products)" in diagnosis_markdown(
        diagnosis
    ).replace("\\_", "_")
    assert "2 products added up in FP32" in diagnosis_page(diagnosis)
    listed = json.loads((tmp_path / "out" / "layers.json").read_text())
    assert listed["fp32"] == []
    assert listed["fp32_sums"] == ["b0_down", "b1_down"]
    typed = load_model(tmp_path / "out" / "typed.onnx")
    assert typed.dtypes["b0_down_w::fp16"] == "float16"
    assert [node.op for node in typed.nodes].count("Cast") == 8
    assert set(diagnosis.recipes) == {Recipe.TENSORRT_RTX, Recipe.LAYER_LIST, Recipe.TYPED_MODEL}


def test_the_engine_with_casts_around_products_is_built_beside_the_first_one(tmp_path: Path) -> None:
    prebuilt = []

    class Prebuilding(Accumulating):
        def build_ahead(self, plan: Plan, feeds: object, *, certain: bool = False) -> bool:
            return True

        def prebuild(self, plan: Plan, feeds: object) -> None:
            prebuilt.append((plan, self.builds))

    engine = Prebuilding(wide(), "b0_up", never, product=TENSORRT_RTX, release="1.6.1.120")
    diagnosis = on(engine, saved(tmp_path, engine.model))
    assert prebuilt == [(engine.plans[1], 0)]
    assert diagnosis.fp32_sums == ("b0_down", "b1_down")


def test_casts_that_are_fused_away_are_no_cure_that_failed(tmp_path: Path) -> None:
    engine = Accumulating(wide(), "b0_up", never, keeps=False, product=TENSORRT_RTX, release="1.4.0.76")
    diagnosis = on(engine, saved(tmp_path, engine.model))
    assert "TensorRT for RTX 1.4.0.76 fused the Casts around b0_down, b1_down away" in texts(diagnosis)
    assert "does not pass" not in "\n".join(
        each.text for each in diagnosis.evidence if each.kind is EvidenceKind.FP32_SUMS
    ).replace("the emulator does not pass", "")
    assert diagnosis.fp32_sums == ()
    assert diagnosis.confirmed  # with these nodes in FP32
    assert diagnosis.culprits


def test_where_casts_around_products_are_fused_away_what_reads_them_goes_to_fp32_too(tmp_path: Path) -> None:
    engine = Accumulating(
        wide(), "b0_up", never, keeps=False, parts=False, product=TENSORRT_RTX, release="1.4.0.76"
    )
    diagnosis = on(engine, saved(tmp_path, engine.model, 5.6e-4))
    assert diagnosis.confirmed
    products = [node for node in diagnosis.culprits if engine.model.node(node).op == "MatMul"]
    read = {name for node in engine.model.nodes if node.name in diagnosis.culprits for name in node.inputs}
    assert products
    assert read.issuperset(products)
    assert engine.builds == 4  # unobserved, between Casts, with what reads them in FP32, observed
    assert "with the emulator's island and what reads it in FP32 the unobserved engine passes" in texts(
        diagnosis
    )


def test_the_emulator_is_cured_by_casts_too(tmp_path: Path) -> None:
    diagnosis = diagnose(saved(tmp_path, wide()), precision="fp16", out=tmp_path / "out")
    assert diagnosis.candidate == "emulator"
    assert diagnosis.fp32_sums == ("b0_down", "b1_down")
    assert diagnosis.fresh_samples == diagnosis.fresh_passed > 0
    assert diagnosis.origins[0].why.startswith("FP16 products are added up in FP16: that makes the error")


def opposed() -> Model:
    """A product whose partial sums overflow, though it is small."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w"], ["y"], name="product"),
    ]
    w = np.concatenate([np.full((32, 4), 500), np.full((32, 4), -500)]).astype(np.float32)
    return load_model(graph_model(nodes, inputs={"x": [8, 64]}, outputs={"y": [8, 4]}, weights={"w": w}))


def test_the_repro_of_sums_that_overflow_shows_them_in_a_process_of_its_own(tmp_path: Path) -> None:
    save_model(opposed(), tmp_path / "opposed.onnx")
    case = tmp_path / "opposed.case.yaml"
    x = np.random.default_rng(3).integers(496, 504, (8, 64)).astype(np.float32)  # which FP16 holds
    np.save(tmp_path / "x.npy", x)
    fill = "inputs:\n  x: {fill: {kind: file, path: x.npy}}\n"
    case.write_text(f"model: {{path: opposed.onnx}}\nruns: [fp16]\naccumulate: fp16\n{fill}")
    diagnosis = diagnose(case, precision="fp16", out=tmp_path / "out")
    assert diagnosis.fp32_sums == ("product",)
    assert diagnosis.repro is not None
    assert diagnosis.repro.shows
    assert diagnosis.repro.nodes == 1
    assert diagnosis.repro.signature["y"].nonfinite == 32


def test_another_fault_that_stands_out_is_no_fault_of_sums(tmp_path: Path) -> None:
    model = rmsnorm()
    save_model(model, tmp_path / "norm.onnx")
    case = tmp_path / "norm.case.yaml"
    case.write_text("model: {path: norm.onnx}\nruns: [fp16]\naccumulate: fp16\n")
    diagnosis = diagnose(case, precision="fp16")
    assert diagnosis.fp32_sums == ()
    assert not any(each.kind is EvidenceKind.FP32_SUMS for each in diagnosis.evidence)


def test_where_the_engine_fuses_the_casts_away_it_is_precision_and_not_confirmed() -> None:
    engine = Accumulating(wide(), "b0_up", never, obeys=False, keeps=False)
    diagnosis = run(engine)
    assert diagnosis.verdict is DiagnosisVerdict.PRECISION
    assert not diagnosis.confirmed
    assert "should cure it" in diagnosis.summary
    assert "fused the Casts around b0_down, b1_down away" in texts(diagnosis)
    assert engine.builds == 4  # unobserved, in FP32, between Casts, with the products in FP32


def test_an_error_beyond_the_estimate_is_not_explained_by_it() -> None:
    engine = Accumulating(wide(), "b0_up", never, factor=4.0)
    diagnosis = run(engine)
    assert "does not explain the engine" in texts(diagnosis)
    assert not any("accumulate in FP16" in origin.why for origin in diagnosis.origins)


def test_a_fault_of_another_kind_is_not_explained_either() -> None:
    model = rmsnorm()
    engine = FakeEngine(
        model,
        "b1_up",
        lambda build: build.plan.precision is Precision.FP16 and "b1_up" not in build.plan.islands,
    )
    diagnosis = diagnose_model(model, feeds(model), Precision.FP16, candidate=engine)
    assert diagnosis.culprits == ("b1_up",)
    assert not any("accumulate in FP16" in origin.why for origin in diagnosis.origins)


def test_partial_sums_that_overflow_are_named() -> None:
    terms = 64
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    w = np.concatenate([np.full((terms // 2, 4), 500), np.full((terms // 2, 4), -500)]).astype(np.float32)
    model = load_model(graph_model(nodes, inputs={"x": [8, terms]}, outputs={"y": [8, 4]}, weights={"w": w}))
    x = np.full((8, terms), 500, np.float32)
    x[:, 0] += 1

    class Overflowing(FakeEngine):
        def _run(self, build, sample):  # type: ignore[no-untyped-def]
            found = super()._run(build, sample)
            lowered = build.plan.precision is Precision.FP16 and "product" not in build.plan.islands
            return {name: value * np.float32(np.inf) for name, value in found.items()} if lowered else found

    engine = Overflowing(model, "product", never, typing="strong")
    diagnosis = diagnose_model(model, [{"x": x}], Precision.FP16, candidate=engine)
    assert diagnosis.verdict is DiagnosisVerdict.PRECISION
    assert diagnosis.culprits == ("product",)
    assert "partial sums are beyond 65504" in diagnosis.origins[0].why


@pytest.mark.parametrize(
    ("op", "left", "right", "attributes"),
    [
        ("MatMul", (5, 40), (40, 7), {}),
        ("MatMul", (2, 3, 5, 40), (40, 7), {}),
        ("MatMul", (2, 3, 5, 40), (3, 40, 7), {}),
        ("Gemm", (40, 5), (7, 40), {"transA": 1, "transB": 1}),
        ("Conv", (2, 4, 9, 9), (6, 4, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ("Conv", (1, 4, 9, 9), (6, 2, 3, 3), {"group": 2, "dilations": [2, 2]}),
        ("Conv", (1, 3, 20), (5, 3, 4), {"auto_pad": "SAME_UPPER"}),
    ],
)
def test_sampled_products_are_those_of_the_node(op, left, right, attributes) -> None:  # type: ignore[no-untyped-def]
    import onnxruntime

    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(left).astype(np.float32), rng.standard_normal(right).astype(np.float32)
    node = helper.make_node(op, ["a", "b"], ["y"], name="product", **attributes)
    shape = [f"d{axis}" for axis in range(max(len(left), len(right)))]
    proto = graph_model([node], inputs={"a": list(left), "b": list(right)}, outputs={"y": shape})
    (whole,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"a": a, "b": b})
    pairs = list(sampled_product(node, a, b))
    assert pairs
    for rows, columns in pairs:
        for value in (rows.astype(np.float64) @ columns).ravel():
            assert np.abs(whole - value).min() < 1e-4 * max(1, abs(value))


def test_a_product_of_one_row_is_added_up_in_fp32() -> None:
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    assert not list(sampled_product(node, np.ones((1, 40)), np.ones((40, 7))))


def test_a_diagnosis_says_what_was_assumed_and_so_does_its_command(tmp_path: Path) -> None:
    case = saved(tmp_path, wide())
    assert diagnosis_markdown(diagnose(case, precision="fp16")).startswith(
        "## wide at fp16 (FP16 sums): precision"
    )
    plain = diagnose(case, precision="fp16", accumulate=Accumulate.FP32)
    assert diagnosis_markdown(plain).startswith("## wide at fp16: none")
    case.write_text(case.read_text().replace("accumulate: fp16\n", ""))
    asked = diagnose(case, precision="fp16", accumulate=Accumulate.FP16)
    assert any(each.endswith("--precision fp16 --accumulate fp16 --out DIR") for each in asked.advice)
