"""Models in a newer operator set: what bfloat16 needs of those from before it."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import norm_chain
from onnx import TensorProto, helper

from harness.backends import Reference
from harness.errors import ModelError
from harness.model import load_model, with_islands
from harness.model.derived import at_opset
from harness.tensors import Precision

X = np.random.default_rng(3).standard_normal((5, 16)).astype(np.float32)


def test_a_converted_model_computes_the_same_and_keeps_its_names() -> None:
    old = load_model(norm_chain(opset=9))
    new = at_opset(old, 13)
    assert (old.opset, new.opset) == (9, 13)
    assert [node.name for node in new.nodes] == [node.name for node in old.nodes]
    assert new.weights.keys() == old.weights.keys()
    assert new.feed_names() == old.feed_names()
    assert new.sha256 != old.sha256
    np.testing.assert_array_equal(Reference(new).run({"x": X})["y"], Reference(old).run({"x": X})["y"])


def test_a_graph_typed_bfloat16_is_converted_to_an_opset_that_has_it() -> None:
    old = load_model(norm_chain(opset=9))
    typed = with_islands(old, Precision.BF16, {"mean"})
    assert typed.opset == 13
    assert {"float32", "bfloat16"} <= set(typed.dtypes.values())
    assert typed.dtypes["mean"] == "float32"
    assert with_islands(old, Precision.FP16).opset == 9, "it has float16"


def test_what_onnx_cannot_convert_is_named() -> None:
    node = helper.make_node("NoSuchOperator", ["x"], ["y"], "odd")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4)
    with pytest.raises(ModelError, match=r"opset 9 cannot be converted to 13: .*NoSuchOperator") as caught:
        with_islands(load_model(model), Precision.BF16)
    assert caught.value.hint == "export it at opset 13 or newer"
