"""From a float model to a Q/DQ model: methods, placement, mixed models, caches, and the errors that are claimed."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from cases.models.convolutional import conv_residual, dynamic_batch, unet
from cases.models.transformer import attention_encoder
from harness.backends import Reference
from harness.errors import InputDataError, ModelError, UsageError
from harness.model import Model, load_model
from harness.quantization import (
    Format,
    Method,
    PairKind,
    Scale,
    find_pairs,
    multiply_adds,
    place,
    quantize,
    quantized_products,
    read_cache,
    write_cache,
)
from harness.quantization.arithmetic import thinned
from harness.quantization.calibration import error_of
from harness.quantization.mixed import ProductSize, product_sizes, small_products
from harness.quantization.placement import with_shared


@pytest.fixture(scope="module")
def residual() -> Model:
    return load_model(conv_residual(blocks=2), name="residual")


@pytest.fixture(scope="module")
def encoder() -> Model:
    return load_model(attention_encoder(layers=1), name="encoder")


def images(count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"image": rng.standard_normal((2, 3, 16, 16)).astype(np.float32)} for _ in range(count)]


def pictures(count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"image": rng.standard_normal((1, 3, 32, 32)).astype(np.float32)} for _ in range(count)]


def tokens(count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"tokens": rng.standard_normal((2, 24, 64)).astype(np.float32)} for _ in range(count)]


def error(model: Model, reference: Model, samples: list[dict[str, np.ndarray]]) -> float:
    """nrmse of the only output."""
    wrong = right = 0.0
    for feeds in samples:
        expected = next(iter(Reference(reference).run(feeds).values())).astype(np.float64)
        wrong += np.square(next(iter(Reference(model).run(feeds).values())) - expected).sum()
        right += np.square(expected).sum()
    return float(np.sqrt(wrong / right))


def test_pairs_stand_before_products_and_before_the_branch_that_a_sum_does_not_compute(residual):
    places = {
        each.tensor: {(r.node, r.position) for r in each.readers} for each in place(residual, Format.INT8)
    }
    assert places["stem_relu"] == {("b0_1_conv", 0), ("b0_add", 0)}
    assert places["b0_1_conv_weight"] == {("b0_1_conv", 1)}
    assert "b0_2_conv" not in places  # what the sum adds in the kernel of its product
    assert "b0_2_bn" not in places
    assert {"image", "flatten", "logits_weight"} <= places.keys()


@pytest.mark.parametrize("axis", [0, 1, None])
def test_some_lines_of_a_large_weight_tell_its_error(axis):
    """Also where the scales lie along the lines that are left out, and one channel is far smaller than the others."""
    values = np.random.default_rng(0).standard_normal((512, 1024)).astype(np.float32)
    values[3] *= 1e-3
    sizes = np.abs(values).max() if axis is None else np.abs(values).max(axis=1 - axis)
    scale = Scale(np.asarray(sizes / 127, np.float32), axis=axis)
    steps = sizes / 127 if axis is None else np.expand_dims(sizes / 127, 1 - axis)
    wrong = np.clip(np.rint(values / steps), -128, 127) * steps - values
    rows = np.sqrt(np.mean(np.square(wrong).sum(axis=1) / np.square(values).sum(axis=1)))
    assert thinned(values, scale, 0)[0].size < values.size / 4
    assert error_of(values, scale, "int8", 0) == pytest.approx(rows, rel=0.02)


def test_a_sum_operator_of_two_tensors_gets_the_pair_of_an_add(residual):
    summed = residual.ir.clone()
    for node in summed.graph:
        if node.name in ("b0_add", "b1_add"):
            node.op_type = "Sum"
    found = place(load_model(summed, name="summed"), Format.INT8)
    assert found == place(residual, Format.INT8)
    assert ("b0_add", 0) in {(r.node, r.position) for each in found for r in each.readers}


def test_the_quantised_file_has_the_error_that_is_claimed_and_every_scale_is_symmetric(residual):
    samples = images(5)
    found = quantize(residual, samples, keep_float=0)
    searched, unseen = [s for i, s in enumerate(samples) if i % 4 != 3], samples[3::4]
    assert found.samples == 4
    assert found.unseen == 1
    assert error(found.quantized, residual, searched) == pytest.approx(found.chosen.error, rel=1e-3)
    assert error(found.quantized, residual, unseen) == pytest.approx(found.chosen.unseen, rel=1e-3)
    alike = {each.method: each.error for each in found.methods}[found.method]
    assert found.chosen.error <= 1.02 * alike < 0.02  # a few tensors may have another method
    assert found.chosen.share == 1
    for pair in find_pairs(found.quantized):
        assert pair.scale.zero_point is None
        assert pair.scale.per_tensor is (pair.kind is PairKind.ACTIVATION)
    assert len(found.to_frame()) == 4 * len(found.tensors)


@pytest.mark.parametrize("format", [Format.FP8, Format.INT4, Format.NVFP4])
def test_the_other_formats_run_with_the_error_that_is_claimed(encoder, format):
    samples = tokens(2)
    found = quantize(encoder, samples, format=format, unseen=[])
    assert error(found.quantized, encoder, samples) == pytest.approx(found.chosen.error, rel=1e-3)
    bound = {Format.FP8: 0.06, Format.INT4: 0.1, Format.NVFP4: 0.15}[format]
    assert 0.01 < found.chosen.error < bound
    weight = next(pair for pair in find_pairs(found.quantized) if pair.kind is PairKind.WEIGHT)
    assert weight.dtype == format.dtype
    if format is Format.NVFP4:  # what a block is scaled by fits into FP8, over one scale for all
        whole = weight.scale.values.max() / 448
        fp8 = weight.scale.values / whole
        np.testing.assert_allclose(fp8, fp8.astype("float8_e4m3fn").astype(np.float32), rtol=1e-6)


def test_less_in_float_as_the_curve_goes_on_and_each_point_is_measured(residual):
    samples = images(2)
    found = quantize(residual, samples, unseen=[], keep_float=0)
    shares = [point.share for point in found.curve]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1
    assert shares[-1] == found.curve[-1].error == 0
    half = quantize(residual, samples, unseen=[], keep_float=0.5, method=found.method)
    assert 0.5 <= half.chosen.share < 0.75
    assert error(half.quantized, residual, samples) == pytest.approx(half.chosen.error, rel=1e-3)
    assert half.chosen.error < 0.7 * found.chosen.error
    kept = {pair.tensor for pair in find_pairs(half.quantized)}
    assert all(f"{node}_weight" not in kept for node in half.chosen.floats)
    limit = (found.chosen.error + half.chosen.error) / 2
    within = quantize(residual, samples, unseen=[], limit=limit, method=found.method)
    assert within.chosen.error <= limit
    assert within.chosen.share >= half.chosen.share


def test_a_sum_reads_its_residual_in_float_where_its_product_does(residual):
    found = quantize(residual, images(2), unseen=[], exclude=["b0_2_conv"])
    readers = {r.node for pair in find_pairs(found.quantized) for r in pair.readers}
    assert "b0_2_conv" not in readers
    assert "b1_2_conv" in readers


def test_multiply_adds_are_counted(residual):
    counted = multiply_adds(residual, images(1)[0])
    assert counted["b0_1_conv"] == 2 * 16 * 16 * 16 * 16 * 9
    assert counted["logits_matmul"] == 2 * 16 * 10


def test_a_calibration_cache_is_written_and_gives_the_same_scales(residual, tmp_path):
    found = quantize(residual, images(2), unseen=[], method=Method.ENTROPY)
    file = tmp_path / "calibration.cache"
    write_cache(file, found.quantized)
    lines = file.read_text().splitlines()
    assert lines[0] == "TRT-8600-EntropyCalibration2"
    scales = read_cache(file)
    again = quantize(residual, images(2), unseen=[], method=Method.MAX, scales=scales)
    for pair in find_pairs(again.quantized):
        if pair.kind is PairKind.ACTIVATION:
            assert pair.scale.values == scales[pair.tensor].values
    with pytest.raises(UsageError, match="none of the scales"):
        quantize(residual, images(2), scales={"elsewhere": scales["image"]})


def test_a_cache_of_tensorrt_is_read_and_a_broken_one_is_refused(tmp_path):
    file = tmp_path / "c.cache"
    file.write_text("TRT-8601-EntropyCalibration2\ninput: 3c010a14\nconv: out: 3f800000\n")
    scales = read_cache(file)
    assert float(scales["input"].values) == pytest.approx(0.00787594)
    assert float(scales["conv: out"].values) == 1.0
    for text, match in (("input: 3c010a14\n", "not a calibration cache"), ("TRT-1\ninput 3c\n", "c.cache:2")):
        file.write_text(text)
        with pytest.raises(InputDataError, match=match):
            read_cache(file)


def test_what_cannot_be_quantised_is_refused(residual):
    with pytest.raises(UsageError, match="no samples"):
        quantize(residual, [])
    with pytest.raises(UsageError, match="cannot be reached"):
        quantize(residual, images(2), limit=-1.0)
    with pytest.raises(UsageError, match="quantised already"):
        quantize(quantize(residual, images(2)).quantized, images(2))
    with pytest.raises(ModelError, match="holds nothing"):
        place(residual, Format.INT4, exclude=["logits_matmul"])


def test_a_tensor_gets_another_method_where_that_is_better_on_samples_that_it_was_not_calibrated_with() -> (
    None
):
    random = np.random.default_rng(0)
    weights = random.standard_normal((2, 256, 16)).astype(np.float32)
    weights[1, 255] = 0  # nobody reads the outlier of the second input
    nodes = [
        helper.make_node("MatMul", ["kept", "w0"], ["p0"], "product0"),
        helper.make_node("MatMul", ["unread", "w1"], ["p1"], "product1"),
        helper.make_node("Add", ["p0", "p1"], ["y"], "sum"),
    ]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 256]) for name in ("kept", "unread")]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 16])
    constants = [numpy_helper.from_array(weights[place], f"w{place}") for place in (0, 1)]
    graph = helper.make_graph(nodes, "g", infos, [output], constants)
    model = load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    samples = []
    for _ in range(6):
        feeds = {name: random.standard_normal((64, 256)).astype(np.float32) for name in ("kept", "unread")}
        for array in feeds.values():
            array[random.integers(64), 255] = 100
        samples.append(feeds)
    found = quantize(model, samples[:4], unseen=samples[4:])
    chosen = {each.tensor: each.method for each in found.tensors if each.kind is PairKind.ACTIVATION}
    assert chosen["kept"] in (Method.MAX, Method.MSE)
    assert chosen["unread"] in (Method.PERCENTILE, Method.ENTROPY)
    assert all(found.chosen.unseen < 0.8 * each.unseen for each in found.methods)
    frame = found.to_frame()
    assert list(frame[frame["chosen"] & (frame["kind"] == "activation")]["method"]) == [
        chosen[tensor] for tensor in frame[frame["chosen"] & (frame["kind"] == "activation")]["tensor"]
    ]
    one = quantize(model, samples[:4], unseen=samples[4:], method=Method.MAX)
    assert {each.method for each in one.tensors} == {Method.MAX}


def test_products_behind_sizes_that_are_computed_are_counted_too():
    model = load_model(dynamic_batch(), name="dynamic")
    image = np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)
    found = multiply_adds(model, {"image": image})
    assert list(found) == ["conv1_conv", "conv2_conv", "fc1_matmul", "logits_matmul"]
    assert found["fc1_matmul"] == 4 * 512 * 32
    made = quantize(model, [{"image": image}] * 3, keep_float=0.2)
    assert {"fc1_matmul", "logits_matmul"} <= set(made.chosen.floats)


def dynamic(batch: int) -> tuple[Model, dict[str, np.ndarray]]:
    image = np.random.default_rng(0).standard_normal((batch, 3, 16, 16)).astype(np.float32)
    return load_model(dynamic_batch(), name="dynamic"), {"image": image}


def test_products_that_fill_no_tile_stay_in_float_and_count_as_such():
    model, feeds = dynamic(4)
    products = multiply_adds(model, feeds)
    small = ("logits_matmul", "fc1_matmul")
    left = sum(products[name] for name in small) / sum(products.values())
    made = quantize(model, [feeds], unseen=[])
    assert made.small == made.chosen.floats == small
    assert made.chosen.share == made.curve[0].share == pytest.approx(1 - left)
    assert quantized_products(find_pairs(made.quantized), products) == ("conv1_conv", "conv2_conv")
    assert error(made.quantized, model, [feeds]) == pytest.approx(made.chosen.error, rel=1e-3)
    everything = quantize(model, [feeds], unseen=[], keep_float=0)
    assert everything.small == ()
    assert everything.chosen.share == 1
    one = quantize(model, [feeds], unseen=[], keep_float=left / 2)  # the smaller of the two is all that fits
    assert one.chosen.floats == ("logits_matmul",)
    assert quantize(model, [feeds], unseen=[], keep_float=0.4).chosen.share >= 0.6


def test_what_is_small_depends_on_rows_columns_and_terms_and_on_what_else_there_is():
    model, feeds = dynamic(16)
    assert small_products(model, feeds) == ("logits_matmul",)  # 10 columns
    convolutions = ["conv1_conv", "conv2_conv"]
    assert small_products(*dynamic(4), exclude=convolutions) == ()  # nothing would be quantised
    unet_model = load_model(unet(), name="unet")
    image = {info.name: np.zeros(info.shape, np.float32) for info in unet_model.inputs}
    assert small_products(unet_model, image) == ("mask",)  # 8 terms
    assert not ProductSize(rows=64, columns=1, terms=9, count=32, convolves=True).small
    sizes = product_sizes(load_model(attention_encoder(layers=1), name="encoder"), tokens(1)[0])
    assert sizes["l0_qk"] == ProductSize(rows=24, columns=24, terms=16, count=8)


def test_single_tensors_keep_the_method_of_the_model_where_another_one_is_luck():
    """Of 30 choices on four samples some look better; on the other half of the samples they are not."""
    model = load_model(unet(), name="unet")
    samples = pictures(8)
    found = quantize(model, samples[:4], unseen=samples[4:])
    assert {each.method for each in found.tensors if each.kind is PairKind.ACTIVATION} == {found.method}
    assert found.method is Method.MSE


def test_what_a_unet_joins_again_shares_one_scale_with_what_it_pools():
    model = load_model(unet(), name="unet")
    places = {each.tensor: {(r.node, r.position) for r in each.readers} for each in place(model, Format.INT8)}
    assert places["down1_relu"] == {("up1_concat", 1)}
    assert "up2_resize" not in places  # nobody else reads it
    found = quantize(model, pictures(4), unseen=[], method=Method.MAX)
    scales = {pair.tensor: pair.scale.largest for pair in find_pairs(found.quantized)}
    for level in range(3):
        skip = scales[f"down{level}_relu"]
        assert skip == scales[f"down{level}_pool"]
        assert skip == scales[f"up{level}_concat"]


def test_scales_that_differ_by_more_than_the_square_root_of_two_are_not_shared():
    scales = {name: Scale(np.array(value, np.float32)) for name, value in (("a", 1), ("b", 1.4), ("c", 3))}
    shared = with_shared(scales, [("a", "b"), ("c", "b")])
    assert [float(shared[name].values) for name in "abc"] == pytest.approx([1.4, 1.4, 3])


def test_what_is_joined_for_a_product_in_float_stays_in_float():
    model = load_model(unet(), name="unet")
    samples = pictures(4)
    found = quantize(model, samples, unseen=[], keep_float=0.99)
    assert "up0_conv" in found.chosen.floats
    assert "down0_relu" not in {pair.tensor for pair in find_pairs(found.quantized)}
    assert error(found.quantized, model, samples) == pytest.approx(found.chosen.error, rel=1e-3)
