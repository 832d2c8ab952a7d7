"""Tensors at the borders of kernels get their ONNX names, as far as the kernels leave no doubt."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from graphs import graph_model
from onnx import helper

from cases import models
from harness.backends import Timing
from harness.backends.engines import Engine
from harness.backends.evaluating import Evaluating
from harness.backends.joining import as_shaped, onnx_names
from harness.backends.requests import EngineRequest
from harness.model import load_model
from harness.worker.protocol import BuildRequest, EngineFacts, Fingerprint, LayerInfo


def kernel(name: str, nodes: str, inputs: str, outputs: str, *, linear: bool = True) -> LayerInfo:
    written = tuple(outputs.split())
    return LayerInfo(
        name,
        onnx_nodes=tuple(nodes.split()),
        inputs=tuple(inputs.split()),
        outputs=written,
        linear_outputs=written if linear else (),
    )


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
    found = onnx_names(RMSNORM, load_model(models.rmsnorm_mlp(scale=600.0)))
    wanted = {
        "b0_relu.1_3_myl0": "b0_gain",  # its name is no hint: the ReLU is in the next kernel
        "__myln_k_arg__bb1_4_myl0": "b0_relu",
        "__myln_k_arg__bb1_5_myl0": "b0_add",
        "b1_relu.1_6_myl0": "b1_gain",
        "__myln_k_arg__bb1_7_myl0": "b1_relu",
    }
    assert found == wanted | {name.removesuffix("_myl0"): tensor for name, tensor in wanted.items()}


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
        ([kernel("k", "n_a", "x", "t"), kernel("l", "n_b n_c n_y", "t", "y")], {"t": "a"}),
        # Two are possible: what the second kernel reads may be either.
        ([kernel("k", "n_a n_b n_c", "x", "t u"), kernel("l", "n_y", "t u", "y")], {}),
        # Another order in memory.
        ([kernel("k", "n_a", "x", "t", linear=False), kernel("l", "n_b n_c n_y", "t", "y")], {}),
        # A node spread over kernels writes parts.
        ([kernel("k", "n_a", "x", "t"), kernel("l", "n_a n_b n_c n_y", "t", "y")], {}),
        # Nobody reads it.
        ([kernel("k", "n_a", "x", "t"), kernel("l", "n_b n_c n_y", "x", "y")], {}),
        # Two tensors that would have one name.
        ([kernel("k", "n_a", "x", "t u"), kernel("l", "n_b n_c n_y", "t u", "y")], {}),
    ],
)
def test_a_tensor_has_no_name_where_there_is_doubt(layers: list[LayerInfo], found: dict[str, str]) -> None:
    assert onnx_names(layers, load_model(CHAIN)) == found


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
        run=lambda engine, feeds, timing: (computed, ()),
        supervisor=SimpleNamespace(take_warnings=lambda: ()),
    )
    run = Evaluating(model, store, feeds, Timing())
    request = BuildRequest("", "fp16", observation="debug")
    run.read(Engine("e", EngineFacts(layers=layers), 0), EngineRequest(model, request))
    evaluation = run.result(Fingerprint("env"), {}, {})
    assert set(evaluation.tensors) == {"y", "a"}
    np.testing.assert_array_equal(evaluation.tensors["a"], np.full((2, 3), 7, np.float16))
    assert evaluation.engine is not None
    assert evaluation.engine.internal_names == ("other",)
