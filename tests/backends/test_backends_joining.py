"""Tensors at the borders of kernels get their ONNX names, as far as the kernels leave no doubt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from graphs import graph_model
from onnx import helper

from cases import models
from harness.backends import Observation, Timing, arrange
from harness.backends.engines import Engine
from harness.backends.evaluating import Evaluating
from harness.backends.joining import as_shaped, joins_axes, onnx_names
from harness.backends.requests import EngineRequest
from harness.case import load_case, resolve_model
from harness.judge import Workbench
from harness.model import Model, load_model
from harness.worker.adapter.inspection import kernels_of_inspector, parse_inspector
from harness.worker.protocol import (
    TENSORRT_RTX,
    BuildRequest,
    EngineFacts,
    Fingerprint,
    Kernel,
    KernelList,
    KernelTensor,
)

DATA = Path(__file__).with_name("data")


def kernel(name: str, nodes: str, inputs: str, outputs: str, *, shape: tuple[int, ...] = (-1,)) -> Kernel:
    reads, writes = (
        tuple(KernelTensor(each, shape=shape) for each in text.split()) for text in (inputs, outputs)
    )
    return Kernel(name, "kgen", tuple(nodes.split()), reads, writes)


def names(kernels: Sequence[Kernel], model: Model) -> dict[str, tuple[str, ...]]:
    """The ONNX names by the engine's; those without what the inspector appends are left out."""
    listed = KernelList(TENSORRT_RTX, "1.6.1.120", "inspector", tuple(kernels))
    found = onnx_names(listed, model, model.shapes)
    written = {tensor.name for each in kernels for tensor in each.outputs}
    return {name: tensors for name, tensors in found.items() if name in written}


def kept(name: str) -> tuple[Kernel, ...]:
    """The kernels that an H200 had, as the inspector named them."""
    return kernels_of_inspector(parse_inspector((DATA / f"{name}.json").read_text()))


#: The first kernels of rmsnorm-overflow at FP16, as TensorRT for RTX 1.6.1.120 lists them.
RMSNORM = (
    kernel(
        "__myl_CastMulMeanAddSqrtCastDivCastMulCastMul_myl0_0",
        "x::fp16 b0_sq b0_mean b0_norm b0_gain b0_sqrt b0_addeps",
        "x",
        "b0_relu.1_3_myl0 __myln_k_arg__bb1_2_myl0",
    ),
    kernel("b0_up_U36_myl0_1", "b0_up b0_relu", "b0_relu.1_3_myl0", "__myln_k_arg__bb1_4_myl0"),
    kernel(
        "__myl_FcAdd_myl0_2",
        "b0_down b0_add",
        "__myln_k_arg__bb1_2_myl0 __myln_k_arg__bb1_4_myl0",
        "__myln_k_arg__bb1_5_myl0",
    ),
    kernel(
        "__myl_MulMeanAddSqrtCastDivCastMulCastMul_myl0_3",
        "b1_sq b1_mean b1_sqrt b1_addeps b1_norm b1_gain",
        "__myln_k_arg__bb1_5_myl0 __myln_k_arg__bb1_5_myl0",
        "b1_relu.1_6_myl0",
    ),
    kernel("b1_up_U47_myl0_4", "b1_up b1_relu", "b1_relu.1_6_myl0", "__myln_k_arg__bb1_7_myl0"),
    kernel(
        "__myl_FcAdd_myl0_5",
        "b1_down b1_add",
        "__myln_k_arg__bb1_5_myl0 __myln_k_arg__bb1_7_myl0",
        "__myln_k_arg__bb1_8_myl0",
    ),
)


def test_the_borders_of_real_kernels_have_the_names_of_their_nodes() -> None:
    model = load_model(models.rmsnorm_mlp(scale=600.0))
    wanted = {
        "b0_relu.1_3_myl0": ("b0_gain",),  # its name is no hint: the ReLU is in the next kernel
        "__myln_k_arg__bb1_4_myl0": ("b0_relu",),
        "__myln_k_arg__bb1_5_myl0": ("b0_add", "b1_scale"),  # multiplied by 1
        "b1_relu.1_6_myl0": ("b1_gain",),
        "__myln_k_arg__bb1_7_myl0": ("b1_relu",),
    }
    assert names(RMSNORM, model) == wanted
    listed = KernelList(TENSORRT_RTX, "1.6.1.120", "inspector", RMSNORM)
    short = {name.removesuffix("_myl0"): tensors for name, tensors in wanted.items()}
    assert onnx_names(listed, model, {}) == wanted | short


def test_the_tensors_between_convolutions_are_what_the_model_computes() -> None:
    bench = Workbench(load_case(DATA.parents[2] / "cases/conv-residual.case.yaml"), memory_budget=1 << 30)
    found = names(kept("conv-residual-fp16-1.4.0.76"), bench.model)
    assert len(found) == 14
    assert found["__myln_k_arg__bb1_3_myl0"] == ("stem_relu",)
    # Multiplied by 1, and flattened: no kernel names these nodes.
    assert found["__myln_k_arg__bb1_4_myl0"] == ("b0_1_relu", "b0_1_scale")
    assert found["pool.1_myl0"] == ("pool", "flatten")
    with np.load(DATA / "conv-residual-fp16-1.4.0.76.npz") as seen:
        reference = bench.reference.run(bench.feeds[0], ["b0_1_relu", "pool"])
        for engine, onnx in (("__myln_k_arg__bb1_4_myl0", "b0_1_relu"), ("pool.1_myl0", "pool")):
            exact = reference[onnx]  # in the order of its shape, though it lies in memory by channels last
            assert np.linalg.norm(seen[engine] - exact) < 2e-3 * np.linalg.norm(exact)


def test_what_a_later_kernel_makes_of_an_earlier_node_leaves_no_name() -> None:
    """The scale of the attention moved behind the transposition, into the fused attention."""
    case = load_case(DATA.parents[2] / "cases/whisper-encoder.case.yaml")
    kernels = kept("whisper-encoder-fp16-1.4.0.76")
    attention = next(each for each in kernels if "mul_18" in each.onnx_nodes)
    found = names(kernels, load_model(resolve_model(case)))
    assert [found.get(each.name) for each in attention.inputs] == [None, ("transpose_3",), ("transpose_2",)]


def test_kernels_that_name_nothing_compute_what_no_other_names() -> None:
    model = load_model(CHAIN)
    first, rest = kernel("k", "", "x", "t"), kernel("l", "n_b n_c n_y", "t", "y")
    assert names([first, rest], model) == {"t": ("a",)}
    last = kernel("l", "n_y", "t u", "y")
    hidden = [kernel("k", "n_a", "x", "t"), kernel("m", "", "t", "u"), last]
    assert names(hidden, model) == {"t": ("a",)}  # and u is b or c


def test_the_last_kernel_of_a_node_writes_it() -> None:
    padded = kernel("p", "n_a", "x", "t", shape=(2, 4))
    assert names(
        [
            padded,
            kernel("k", "n_a", "t", "u", shape=(2, 3)),
            kernel("l", "n_b n_c n_y", "u", "y", shape=(2, 3)),
        ],
        load_model(CHAIN),
    ) == {"u": ("a",)}


CHAIN = graph_model(
    [
        helper.make_node("Exp", ["x"], ["a"], name="n_a"),
        helper.make_node("Relu", ["a"], ["b"], name="n_b"),
        helper.make_node("Neg", ["a"], ["c"], name="n_c"),
        helper.make_node("Add", ["b", "c"], ["y"], name="n_y"),
    ],
    inputs={"x": [2, 3]},
    outputs={"y": [2, 3]},
)


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ([kernel("k", "n_a", "x", "t"), kernel("l", "n_b n_c n_y", "t", "y")], {"t": ("a",)}),
        # Two are possible: what the second kernel reads may be either.
        ([kernel("k", "n_a n_b n_c", "x", "t u"), kernel("l", "n_y", "t u", "y")], {}),
        # Another size.
        ([kernel("k", "n_a", "x", "t", shape=(2, 4)), kernel("l", "n_b n_c n_y", "t", "y")], {}),
        # A node spread over kernels writes parts.
        ([kernel("k", "n_a", "x", "t"), kernel("l", "n_a n_b n_c n_y", "t", "y")], {}),
        # Nobody reads it.
        ([kernel("k", "n_a", "x", "t"), kernel("l", "n_b n_c n_y", "x", "y")], {}),
        # Two tensors that would have one name.
        ([kernel("k", "n_a", "x", "t u"), kernel("l", "n_b n_c n_y", "t u", "y")], {}),
    ],
)
def test_a_tensor_has_no_name_where_there_is_doubt(layers: list[Kernel], found: dict[str, str]) -> None:
    assert names(layers, load_model(CHAIN)) == found


@pytest.mark.parametrize(
    ("shape", "wanted", "fits"),
    [
        ((48, 64), (2, 24, 64), True),
        ((2, 24, 64), (48, 64), True),
        ((8, 16, 24), (2, 4, 16, 24), True),
        ((1, 8, 1), (8,), True),
        ((3, 16, 8), (16, 3, 8), False),  # transposed
        ((6, 4), (4, 6), False),
        ((47, 64), (2, 24, 64), False),
        ((2, 3), (2, "n"), False),
        ((2, 3), None, False),
    ],
)
def test_axes_may_be_joined_or_parted_and_not_moved(shape, wanted, fits: bool) -> None:
    value = np.arange(np.prod(shape)).reshape(shape)
    found = as_shaped(value, wanted)
    assert (found is not None) is fits
    if found is not None:
        np.testing.assert_array_equal(found.ravel(), value.ravel())


@pytest.mark.parametrize("name", ["t_myl0", "t"])
def test_an_evaluation_has_debug_tensors_by_their_onnx_names(name: str) -> None:
    model = load_model(CHAIN)
    feeds = {"x": np.ones((2, 3), np.float32)}
    layers = (kernel("k", "n_a", "x", "t_myl0"), kernel("l", "n_b n_c n_y", "t_myl0", "y"))
    computed = {
        "y": np.zeros((2, 3), np.float32),
        name: np.full((6,), 7, np.float16),  # without its axes
        "other": np.ones(3, np.float16),
    }
    store: Any = SimpleNamespace(
        builds=0,
        run=lambda engine, feeds, timing, debug: (computed, ()),
        supervisor=SimpleNamespace(take_warnings=lambda: ()),
    )
    run = Evaluating(model, store, feeds, Timing())
    request = BuildRequest("", "fp16", observation="debug")
    kernels = KernelList(TENSORRT_RTX, "1.6.1.120", "inspector", layers)
    run.read(Engine("e", EngineFacts(kernels=kernels), 0), EngineRequest(model, request, Observation.DEBUG))
    evaluation = run.result(Fingerprint("env"), {}, {})
    assert set(evaluation.tensors) == {"y", "a"}
    np.testing.assert_array_equal(evaluation.tensors["a"], np.full((2, 3), 7, np.float16))
    assert evaluation.engine is not None
    assert evaluation.engine.internal_names == ("other",)
    assert evaluation.joined == {"a": (6,)}


def half(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    """A tensor, and what an engine at FP16 computes for it."""
    exact = np.random.default_rng(7).standard_normal(shape).astype(np.float32)
    return exact, exact.astype(np.float16)


@pytest.mark.parametrize(
    ("shape", "order", "given"),
    [
        ((2, 24, 64), (1, 0, 2), (48, 64)),  # as RTX 1.4 and 1.6 carry tokens behind fused attention
        ((2, 24, 64), (0, 1, 2), (48, 64)),
        ((2, 4, 24, 16), (1, 0, 2, 3), (8, 24, 16)),
        ((2, 3, 4, 5), (0, 2, 1, 3), (2, 12, 5)),
    ],
)
def test_axes_that_a_kernel_joined_are_put_into_the_order_of_the_model(
    shape: tuple[int, ...], order: tuple[int, ...], given: tuple[int, ...]
) -> None:
    exact, low = half(*shape)
    inside = low.transpose(order).reshape(given)
    assert joins_axes(given, shape)
    np.testing.assert_array_equal(arrange(inside.reshape(shape), exact, given), low)


def test_an_order_that_the_shape_of_the_engine_does_not_allow_is_not_tried() -> None:
    exact, low = half(2, 24, 64)
    swapped = low.transpose(0, 2, 1).reshape(2, 24, 64)
    assert arrange(swapped, exact, (48, 64)) is None, "the values are there, and in no known order"


def test_values_that_are_hardly_different_are_ordered_too() -> None:
    exact = 3 + half(2, 24, 1)[0]
    inside = exact.astype(np.float16).transpose(1, 0, 2).reshape(2, 24, 1)
    np.testing.assert_array_equal(arrange(inside, exact, (48, 1)), exact.astype(np.float16))


def test_what_is_wrong_in_every_order_stays_as_it_is() -> None:
    exact, low = half(2, 24, 64)
    for wrong in (np.zeros_like(low), 2 * low, np.full_like(low, np.inf), low + exact.std()):
        assert arrange(wrong, exact, (48, 64)) is wrong


def test_infinities_do_not_hide_the_order() -> None:
    exact, low = half(2, 24, 64)
    low = low.copy()
    low[0, 3] = np.inf
    inside = low.transpose(1, 0, 2).reshape(2, 24, 64)
    np.testing.assert_array_equal(arrange(inside, exact, (48, 64)), low)


@pytest.mark.parametrize("given", [(2, 24, 64), (1, 2, 24, 64), (2, 24, 8, 8)])
def test_parted_axes_have_one_order(given: tuple[int, ...]) -> None:
    assert not joins_axes(given, (2, 24, 64))
