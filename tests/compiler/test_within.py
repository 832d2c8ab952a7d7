"""What stays within kernels: tensors that none rounds, products in FP32, and nodes in several steps."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from benchmarks.emulation.accumulators import accumulate_in_fp16
from benchmarks.emulation.probes import PROBES
from cases.models.graph import Graph
from harness.backends import GraphRunner
from harness.compiler import Within, within_kernels
from harness.model import Model, fp16_sums, load_model, lower, round_array
from harness.tensors import Precision
from harness.worker.protocol import TENSORRT_RTX, Kernel, KernelList


def kernels(*listed: Kernel, release: str = "1.6.1.120") -> KernelList:
    return KernelList(TENSORRT_RTX, release, "inspector", listed)


def attention(scales: np.ndarray) -> Model:
    graph = Graph("attention", opset=17)
    q, k, v = (graph.input(name, [1, 2, 4, 8]) for name in "qkv")
    logits = graph.node("MatMul", "qk", q, graph.node("Transpose", "turned", k, perm=[0, 1, 3, 2]))
    scaled = graph.node("Mul", "scaled", logits, graph.constant("scales", scales))
    weights = graph.node("Softmax", "softmax", scaled, axis=-1)
    return load_model(graph.model({graph.node("MatMul", "av", weights, v): [1, 2, 4, 8]}))


FUSED = Kernel("_gemm_mha_v2_myl0_3", "kgen", ("av", "softmax", "scaled", "qk"))


def test_scales_by_head_go_before_the_product_of_fused_attention() -> None:
    model = attention(np.full((1, 2, 1, 1), 0.1))
    found = within_kernels(kernels(FUSED), model, Precision.FP16)
    assert found == Within(
        frozenset({"qk", "softmax"}), frozenset({"qk"}), {"softmax": False}, frozenset({"av"})
    )


def test_one_scale_stays_behind_it_and_raw_logits_are_rounded() -> None:
    found = within_kernels(kernels(FUSED), attention(np.float32(0.1)), Precision.FP16)
    assert found == Within(frozenset({"softmax"}), frozenset(), {"softmax": False}, frozenset({"av"}))


def test_in_bf16_fused_attention_rounds_the_weights_alone() -> None:
    found = within_kernels(kernels(FUSED), attention(np.float32(0.1)), Precision.BF16)
    assert found.unrounded == {"qk", "scaled", "softmax"}


def test_a_mask_that_is_a_where_takes_fused_attention_to_fp32() -> None:
    graph = Graph("attention", opset=17)
    q, k, v = (graph.input(name, [1, 2, 4, 8]) for name in "qkv")
    logits = graph.node("MatMul", "qk", q, graph.node("Transpose", "turned", k, perm=[0, 1, 3, 2]))
    lowest = graph.constant("lowest", np.float32(-65504.0))
    masked = graph.node("Where", "masked", graph.constant("mask", np.ones((4, 4)), bool), lowest, logits)
    weights = graph.node("Softmax", "softmax", masked, axis=-1)
    model = load_model(graph.model({graph.node("MatMul", "av", weights, v): [1, 2, 4, 8]}))
    kernel = Kernel("_gemm_mha_v2_myl0_3", "kgen", ("av", "softmax", "masked", "qk"))
    found = within_kernels(kernels(kernel), model, Precision.FP16)
    assert found.fp32 == {"qk", "av"}
    assert found.unrounded == {"qk", "masked", "softmax"}


def test_a_product_by_itself_takes_the_scale_of_what_it_reads_behind_its_sum() -> None:
    graph = Graph("scaled", opset=17)
    x = graph.input("x", [8, 64])
    shares = graph.node("Div", "shares", x, graph.constant("count", np.float32(64.0)))
    product = graph.node("MatMul", "product", shares, graph.weight("w", (64, 8), 1.0))
    model = load_model(graph.model({product: [8, 8]}))
    alone = Kernel("product_U106_myl0_22", "gemm", ("product", "shares"))
    found = within_kernels(kernels(alone), model, Precision.FP16)
    assert found == Within(frozenset({"shares"}), frozenset(), scales={"product": (0, 1 / 64)})
    fused = Kernel("__myl_DivFc_myl0_22", "kgen", ("product", "shares"))
    assert within_kernels(kernels(fused), model, Precision.FP16).scales == {}
    # Behind its sum: the emulator adds up what is not scaled.
    feeds = {"x": np.full((8, 64), 60000.0, np.float32)}
    weights = round_array(model.weight("w"), Precision.FP16)
    sums = accumulate_in_fp16(feeds["x"], weights) / 64
    how = found.arithmetic(fp16_sums(model, model.shapes))
    given = GraphRunner(model, lower(model, Precision.FP16, ["product"], arithmetic=how), Precision.FP16, {})
    computed = given.run(feeds, ["shares", "product"])["product"]
    assert np.array_equal(computed, round_array(sums, Precision.FP16), equal_nan=True)
    assert np.isinf(sums).any()
    assert np.isfinite(feeds["x"] @ weights / 64).all()


@pytest.mark.parametrize("name", ["__myl_FcCast_myl0_1", "__myl_FcReluCast_myl0_1"])
def test_a_product_that_is_only_converted_is_never_rounded(name: str) -> None:
    graph = Graph("last")
    made = graph.node("MatMul", "product", graph.input("x", [4, 64]), graph.weight("w", (64, 8), 0.1))
    kernel = Kernel(name, "runtime_fusion", ("product", "product::output"))
    found = within_kernels(kernels(kernel), load_model(graph.model({made: [4, 8]})), Precision.FP16)
    assert (found.unrounded, found.fp32) == (frozenset({"product"}), frozenset({"product"}))


@pytest.mark.parametrize(
    ("rows", "terms", "name", "unrounded"),
    [
        (4, 512, "__myl_FcAddCast_myl0_1", {"sum"}),
        (4, 512, "__myl_FcAdd_myl0_1", set()),
        (1, 512, "__myl_FcAdd_myl0_1", {"product"}),
        (1, 128, "__myl_FcAdd_myl0_1", set()),
        (4, 512, "__myl_AddCast_myl0_1", set()),
    ],
)
def test_behind_a_product_the_last_step_before_a_conversion_is_not_rounded(
    rows: int, terms: int, name: str, unrounded: set[str]
) -> None:
    graph = Graph("last")
    weights = graph.weight("w", (terms, 512), 0.1)
    product = graph.node("MatMul", "product", graph.input("x", [rows, terms]), weights)
    made = graph.node("Add", "sum", product, graph.weight("b", (512,), 0.1))
    kernel = Kernel(name, "runtime_fusion", ("product", "sum", "sum::output"))
    found = within_kernels(kernels(kernel), load_model(graph.model({made: [rows, 512]})), Precision.FP16)
    assert (found.unrounded, found.fp32) == (frozenset(unrounded), frozenset())


def of(
    op: str, proto: onnx.ModelProto, name: str, release: str, precision: Precision = Precision.FP16
) -> dict[str, bool]:
    model = load_model(proto)
    nodes = tuple(node.name for node in model.nodes)
    kernel = Kernel(name, "kgen", nodes)
    return dict(within_kernels(kernels(kernel, release=release), model, precision).steps)


def test_a_sigmoid_at_bf16_is_a_tanh_before_1_6() -> None:
    graph = Graph("sigmoid")
    proto = graph.model({graph.node("Sigmoid", "gate", graph.input("x", [4])): [4]})
    for release, precision, steps in (
        ("1.5.0.114", Precision.BF16, {"gate": True}),
        ("1.5.0.114", Precision.FP16, {}),
        ("1.6.1.120", Precision.BF16, {}),
    ):
        assert of("Sigmoid", proto, "__myl_CastSigmCast_myl0_0", release, precision) == steps


def test_divisions_by_constants_are_reciprocals_before_1_6() -> None:
    proto, _ = PROBES["div-small"]()
    assert of("Div", proto, "__myl_CastMulMulCast_myl0_0", "1.5.0.114") == {"div0": True}
    assert of("Div", proto, "__myl_DivMul_myl0_0", "1.5.0.114") == {}
    assert of("Div", proto, "__myl_CastDivCastMul_myl0_0", "1.6.1.120") == {}


def test_a_division_with_a_multiplication_behind_it_is_a_reciprocal_before_1_6() -> None:
    proto, _ = PROBES["rms-norm-1"]()
    (divided,) = (node.name for node in load_model(proto).nodes if node.op == "Div")
    assert of("Div", proto, "__myl_CastMulMulMeanAddSqrtDivMulCast_myl0_0", "1.5.0.114") == {divided: True}
    assert of("Div", proto, "__myl_CastMulMulMeanAddSqrtDivCast_myl0_0", "1.5.0.114") == {}
    assert of("Div", proto, "__myl_CastMulMulMeanAddSqrtCastDivCastMulCast_myl0_0", "1.6.1.120") == {}


def test_generated_code_contracts_a_batch_norm_and_a_fused_epilogue_does_not() -> None:
    proto, _ = PROBES["image-batch-1"]()
    assert of("BatchNormalization", proto, "__myl_MulAdd_myl0_0", "1.6.1.120") == {"bn": False}
    assert of("BatchNormalization", proto, "__myl_CorrMulAdd_myl0_0", "1.6.1.120") == {"bn": True}


def test_an_l2_norm_is_wide_where_the_compiler_writes_casts() -> None:
    proto, _ = PROBES["norm-l2"]()
    assert of("ReduceL2", proto, "__myl_CastMulSumSqrtCast_myl0_0", "1.4.0.76") == {"reduced": True}
    assert of("ReduceL2", proto, "__myl_CastCastMulSumSqrtCastCast_myl0_0", "1.6.1.120") == {}
