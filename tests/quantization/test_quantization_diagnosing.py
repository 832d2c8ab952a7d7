"""Faults planted in scales: found alone, explained, and repaired."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from report_models import detection_head

from cases.models.graph import Graph
from cases.models.quantised import quantised_conv
from cases.models.transformer import attention_encoder
from harness.backends import Reference
from harness.errors import ModelError, UsageError
from harness.model import Model, load_model
from harness.quantization import (
    Format,
    Method,
    PairKind,
    QuantizationVerdict,
    Reason,
    Scale,
    ScaleFault,
    Setting,
    SwitchedModel,
    diagnose_pairs,
    find_pairs,
    float_weights,
    quantize,
    with_scales,
)
from harness.quantization.calibration import observe_pairs
from harness.quantization.editing import insert_pair
from harness.quantization.outputs import Outputs
from harness.quantization.ranking import candidates, rank


@pytest.fixture(scope="module")
def conv() -> Model:
    return load_model(quantised_conv())


def images(count: int = 4) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"image": rng.uniform(-1, 1, (2, 3, 16, 16)).astype(np.float32)} for _ in range(count)]


def rescaled(model: Model, **factors: float) -> Model:
    pairs = find_pairs(model)
    scales = {p.name: Scale(p.scale.values * np.float32(factors[p.name])) for p in pairs if p.name in factors}
    return with_scales(model, pairs, scales, float_weights(model, pairs))


def test_switches_give_the_model_as_it_is_and_without_its_pairs(conv):
    pairs = find_pairs(conv)
    switched = SwitchedModel(conv, pairs, float_weights(conv, pairs))
    feeds = images(1)[0]
    off = Setting(off=frozenset(pair.name for pair in pairs))
    for setting, own in ((Setting(), True), (off, False)):
        expected = Reference(conv, own=own).run(feeds)["logits"]
        np.testing.assert_array_equal(switched.run(feeds, setting)["logits"], expected)
    only = Setting(floats=frozenset({"conv1"}))  # its weight and what it reads, nothing else
    both = Setting(off=frozenset({"conv1_weight", "pool0"}))
    np.testing.assert_array_equal(switched.run(feeds, only)["logits"], switched.run(feeds, both)["logits"])


@pytest.mark.parametrize(
    ("factor", "reason"), [(1 / 20, Reason.SATURATION), (40.0, Reason.VANISHING)], ids=["clipped", "vanished"]
)
def test_a_planted_scale_is_found_alone_and_repaired(conv, factor, reason):
    found = diagnose_pairs(rescaled(conv, relu1=factor), images())
    assert found.verdict is QuantizationVerdict.SCALES
    assert found.before > 0.6
    assert found.faulty == found.taken_out == ("relu1",)
    assert found.excluded == ("conv2",)
    assert found.minimal
    assert found.ranking.pairs[0].pair == "relu1"
    assert found.ranking.pairs[0].reason is reason
    assert found.repairs[0].after <= 0.01
    assert found.repaired < 1.3 * found.best
    assert found.unseen_repaired < 0.02 < 0.5 < found.unseen_before
    for model, error in ((found.repaired_model, found.repaired), (found.reduced_model, found.without)):
        assert _error(model, conv, images()[:2]) == pytest.approx(error, rel=1e-3)


def test_scales_that_were_swapped_are_named_with_each_other():
    graph = Graph("chain", seed=0)
    x = graph.node("MatMul", "first", graph.input("x", [8, 32]), graph.weight("w0", [32, 32], 0.2))
    large = graph.node("Mul", "large", x, graph.constant("twenty", 20.0))
    model = graph.model({graph.node("MatMul", "second", large, graph.weight("w1", [32, 32], 0.2)): [8, 32]})
    reference = load_model(model)
    made = quantize(reference, rows(32), unseen=[]).quantized
    pairs = {pair.name: pair for pair in find_pairs(made)}
    ratio = float(pairs["large"].scale.values / pairs["x"].scale.values)
    found = diagnose_pairs(rescaled(made, x=ratio, large=1 / ratio), rows(32), reference=reference)
    assert set(found.faulty) == {"x", "large"}
    assert found.swapped == (("x", "large"),)
    assert found.repaired < 1.3 * found.best


def test_a_model_that_is_calibrated_well_is_sound(conv):
    found = diagnose_pairs(conv, images())
    assert found.verdict is QuantizationVerdict.SOUND
    assert found.exit_code == 0
    assert len(found.ranking.pairs) == found.pairs == 9
    assert found.inferences <= 60


def test_many_pairs_are_ranked_by_a_few_inferences_much_as_each_of_them_alone():
    reference = load_model(attention_encoder(layers=4), name="encoder")
    random = np.random.default_rng(0)
    samples = [{"tokens": random.standard_normal((2, 24, 64)).astype(np.float32)} for _ in range(2)]
    model = quantize(reference, samples, unseen=[], method=Method.MAX).quantized
    clipped = next(
        p.name for p in find_pairs(model) if p.name.startswith("l2_") and p.kind is PairKind.ACTIVATION
    )
    model = rescaled(model, **{clipped: 0.1})
    pairs = find_pairs(model)
    outputs = Outputs(SwitchedModel(model, pairs, float_weights(model, pairs, reference)), samples[:1])
    observed = observe_pairs(outputs.switched, samples[:1])
    ranking = rank(outputs, observed, {pair.name: candidates(pair, observed) for pair in pairs})
    assert ranking.inferences <= 18 < len(pairs)
    assert ranking.pairs[0].pair == clipped
    names = frozenset(pair.name for pair in pairs)
    alone = np.array([outputs.error(Setting(off=names - {each.pair})) for each in ranking.pairs])
    for each, error in zip(ranking.pairs, alone, strict=True):
        assert each.alone is None or each.alone == pytest.approx(error)
    places = np.argsort(np.argsort(-alone))
    assert np.corrcoef(places, np.arange(len(pairs)))[0, 1] > 0.9
    introduced = np.argsort(np.argsort([-each.introduced for each in ranking.pairs]))
    assert np.corrcoef(places, introduced)[0, 1] < 0.8  # which is what one would know without


def test_where_the_format_is_too_coarse_the_costliest_pairs_are_left_in_float(conv):
    found = diagnose_pairs(conv, images(), limit=0.006)
    assert found.verdict is QuantizationVerdict.FORMAT
    assert found.without <= 0.006 < found.best
    assert 0 < len(found.taken_out) < found.pairs


def test_what_to_exclude_are_nodes_of_the_float_model_and_the_format_is_that_of_the_pairs():
    graph = Graph("turned", seed=0)
    turned = graph.node("Transpose", "turned", graph.input("x", [32, 8]), perm=[1, 0])
    model = graph.model({graph.node("MatMul", "product", turned, graph.weight("w", [32, 32], 0.2)): [8, 32]})
    reference = load_model(model)
    samples = [{"x": feeds["x"].T.copy()} for feeds in rows(32)]
    made = quantize(reference, samples, unseen=[], format=Format.FP8).quantized
    copy = made.ir.clone()
    reader = next(node for node in copy.graph if node.name == "turned")
    insert_pair(copy.graph, reader.inputs[0], [(reader, 0)], Scale(np.array(1e-3)), "float8_e4m3fn")
    found = diagnose_pairs(load_model(copy, name="again"), samples, reference=reference)
    assert found.faulty == found.taken_out == ("x",)
    assert found.excluded == ("turned",)
    assert found.format is Format.FP8


def product(weight: np.ndarray, scale: np.ndarray, axis: int, *, rescale: np.ndarray | None = None) -> Model:
    """x · Q/DQ(weight), each column multiplied by `rescale`."""
    width = weight.shape[0]
    initializers = {
        "w": weight,
        "scale": scale.astype(np.float32),
        "zero": np.zeros(scale.shape, np.int8),
        "back": np.ones(weight.shape[1], np.float32) if rescale is None else rescale,
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "scale", "zero"], ["wq"], "q", axis=axis),
        helper.make_node("DequantizeLinear", ["wq", "scale", "zero"], ["wd"], "dq", axis=axis),
        helper.make_node("MatMul", ["x", "wd"], ["y"], "product"),
        helper.make_node("Mul", ["y", "back"], ["z"], "rescale"),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, width])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [8, weight.shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    return load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9))


def rows(width: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((8, width)).astype(np.float32)} for _ in range(4)]


def uneven(width: int) -> np.ndarray:
    """A weight whose columns differ by 1,000 times."""
    weight = np.random.default_rng(2).standard_normal((width, width)).astype(np.float32)
    return weight * np.logspace(-3, 0, width, dtype=np.float32)


def test_one_scale_for_channels_of_different_sizes_becomes_one_a_channel():
    weight = uneven(32)
    whole = np.abs(weight).max() / 127
    back = 1 / np.abs(weight).max(axis=0)
    found = diagnose_pairs(product(weight, np.array(whole), 1, rescale=back), rows(32))
    assert found.faulty == ("w",)
    assert found.ranking["w"].reason is Reason.GRANULARITY
    assert found.ranking["w"].channel_ratio > 100
    assert found.repairs[0].granularity == "channel"
    assert found.repaired < 0.02 < 0.2 < found.before


def test_scales_along_the_wrong_axis_are_told_and_turned():
    weight = uneven(32)
    scales = np.abs(weight).max(axis=0) / 127
    found = diagnose_pairs(product(weight, scales, 0), rows(32))
    assert found.ranking["w"].reason is Reason.AXIS
    assert found.repairs[0].scale.axis == 1
    assert found.repaired < 0.02 < found.before


@pytest.mark.parametrize("factor", [1.0, 1 / 20], ids=["calibrated", "clipped"])
def test_a_relu_that_a_pair_stands_for_stays_with_a_new_scale(factor):
    """ONNX Runtime leaves out a ReLU in front of a pair whose zero point is the least value."""
    weight = np.random.default_rng(4).standard_normal((16, 16)).astype(np.float32)
    values = {"w": weight, "s": np.float32(4 * factor / 255), "z": np.int8(-128)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], "q"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], "dq"),
        helper.make_node("MatMul", ["xd", "w"], ["y"], "product"),
    ]
    graph = helper.make_graph(
        nodes,
        "relu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8, 16])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    model = load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9))
    found = diagnose_pairs(model, rows(16))
    assert found.best < 0.02
    assert [each.fault for each in found.faults] == [ScaleFault.ZERO_POINT]
    if factor == 1.0:
        assert found.verdict is QuantizationVerdict.REFUSED, "no release takes its zero point"
    else:
        assert found.faulty == ("x",)
        assert found.repaired < 0.02 < 0.3 < found.before
        assert found.repairs[0].scale.zero_point == -128


def test_stored_weights_are_compared_with_those_of_the_reference():
    weight = np.random.default_rng(3).standard_normal((16, 16)).astype(np.float32)
    clipped = np.float32(np.abs(weight).max() / 127 / 8)
    stored = np.clip(np.rint(weight / clipped), -128, 127).astype(np.int8)
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["w_quantized", "s"], ["wd"], "dq"),
            helper.make_node("MatMul", ["x", "wd"], ["y"], "product"),
        ],
        "stored",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8, 16])],
        [numpy_helper.from_array(stored, "w_quantized"), numpy_helper.from_array(clipped, "s")],
    )
    model = load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "float",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8, 16])],
        [numpy_helper.from_array(weight, "w")],
    )
    reference = load_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9)
    )
    found = diagnose_pairs(model, rows(16), reference=reference)
    assert found.ranking["w_quantized"].kind is PairKind.WEIGHT
    assert found.ranking["w_quantized"].reason is Reason.SATURATION
    assert found.repaired < 0.02 < 0.3 < found.before
    assert _error(found.repaired_model, reference, rows(16)[:2]) == pytest.approx(found.repaired, rel=1e-3)
    assert diagnose_pairs(model, rows(16)).verdict is QuantizationVerdict.SOUND  # nothing to compare it with


def _error(model: Model, reference: Model, samples: list[dict[str, np.ndarray]]) -> float:
    error = signal = 0.0
    for feeds in samples:
        own = not reference.quantized
        expected = next(iter(Reference(reference, own=own).run(feeds).values())).astype(np.float64)
        error += np.square(next(iter(Reference(model).run(feeds).values())) - expected).sum()
        signal += np.square(expected).sum()
    return float(np.sqrt(error / signal))


def test_a_model_without_pairs_and_no_samples_are_refused(conv):
    with pytest.raises(ModelError, match="no Q/DQ pairs"):
        diagnose_pairs(load_model(quantised_conv_without_pairs()), rows(4))
    with pytest.raises(UsageError, match="no samples"):
        diagnose_pairs(conv, [])


def quantised_conv_without_pairs():
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], "relu")],
        "float",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8, 4])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9)


def test_a_scale_over_joined_tensors_that_loses_one_of_them_is_a_fault_of_the_pair():
    head = load_model(detection_head(quantised=True))
    rng = np.random.default_rng(0)
    found = diagnose_pairs(head, [{"image": rng.standard_normal((1, 3, 40, 40)).astype(np.float32)}])
    assert found.verdict is QuantizationVerdict.FORMAT
    assert (found.worst, found.taken_out) == ("scores", ("head_concat",))
    assert found.before > 0.9
    cost = found.ranking["head_concat"]
    assert (cost.reason, cost.part) == (Reason.JOINED, "scores")
    assert found.without < 0.05
