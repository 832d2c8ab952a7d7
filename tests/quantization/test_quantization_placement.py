"""Pairs that TensorRT has no use for, and what the compiler says of pairs that are placed well."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quantization_kernels import float_between
from cases.models.convolutional import conv_residual, unet
from cases.models.transformer import attention_encoder
from harness.compiler import ReportCache, kernels_of
from harness.environments import Environment, Supervisor
from harness.model import Model, load_model
from harness.quantization import (
    Format,
    Method,
    Scale,
    find_misplaced,
    find_pairs,
    quantize,
    read_kernels,
    well_placed,
    without,
)
from harness.quantization.editing import insert_pair
from harness.quantization.engines import with_fewer_kernels
from harness.tensors import Precision
from harness.worker.protocol import KernelList

PYTHON = os.environ.get("HARNESS_RTX_PYTHON", "")


@pytest.fixture(scope="module")
def residual() -> Model:
    model = load_model(conv_residual(blocks=1), name="residual")
    feeds = {"image": np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)}
    return quantize(model, [feeds], unseen=[]).quantized


def planted(model: Model, tensor: str, reader: str) -> Model:
    copy = model.ir.clone()
    node = next(node for node in copy.graph if node.name == reader)
    position = next(place for place, value in enumerate(node.inputs) if value.name == tensor)
    insert_pair(copy.graph, node.inputs[position], [(node, position)], Scale(np.array(0.05)), "int8")
    return load_model(copy, name=model.name)


@pytest.mark.parametrize(
    ("tensor", "reader"), [("b0_2_conv", "b0_2_bn"), ("b0_2_bn", "b0_add"), ("b0_1_bn", "b0_1_relu")]
)
def test_a_pair_between_a_product_and_what_follows_it_is_named_and_taken_out(residual, tensor, reader):
    assert find_misplaced(residual) == ()
    bad = planted(residual, tensor, reader)
    assert [(each.pair, each.reader) for each in find_misplaced(bad)] == [(tensor, reader)]
    tensors = {pair.tensor for pair in find_pairs(well_placed(bad))}
    assert tensors == {pair.tensor for pair in find_pairs(residual)}


def test_a_pair_in_front_of_an_activation_is_moved_behind_it(residual):
    pairs = find_pairs(residual)
    unmoved = planted(without(residual, pairs, ["stem_relu"], {}), "stem_bn", "stem_relu")
    assert [each.moved_to for each in find_misplaced(unmoved)] == ["stem_relu"]
    moved = {pair.tensor: pair for pair in find_pairs(well_placed(unmoved))}
    assert "stem_bn" not in moved
    assert ("b0_1_conv", 0) in {(r.node, r.position) for r in moved["stem_relu"].readers}


def test_pairs_on_what_is_joined_to_a_quantised_tensor_are_not_misplaced():
    model = load_model(unet(), name="unet")
    feeds = {"image": np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)}
    made = quantize(model, [feeds], unseen=[]).quantized
    assert find_misplaced(made) == ()
    pairs = find_pairs(made)
    bare = without(made, pairs, [pair.name for pair in pairs if pair.tensor == "up0_concat"], {})
    assert [each.pair for each in find_misplaced(bare)] == ["down0_relu"]


@pytest.mark.skipif(not PYTHON, reason="HARNESS_RTX_PYTHON names no Python with TensorRT for RTX")
@pytest.mark.parametrize("seed", [0, 2])
def test_the_compiler_keeps_no_skip_in_float_between_convolutions(seed: int, tmp_path: Path):
    """With seed 2 the scale of a skip is half of that of what it is joined to, so that they are not shared."""
    environment = Environment("compiler", (PYTHON,))
    supervisor = Supervisor(environment, keep_cache=False)
    model = load_model(unet(seed=seed), name="unet")
    random = np.random.default_rng(seed)
    samples = [{"image": random.standard_normal((1, 3, 32, 32)).astype(np.float32)} for _ in range(4)]
    try:
        made = quantize(model, samples, unseen=[], method=Method.MAX).quantized
        listed = kernels_of(
            made, Precision.FP16, environment, supervisor=supervisor, cache=ReportCache(tmp_path)
        )
        assert float_between(listed) == (7, 0)
    finally:
        supervisor.close()


@pytest.mark.skipif(not PYTHON, reason="HARNESS_RTX_PYTHON names no Python with TensorRT for RTX")
def test_the_compiler_multiplies_in_the_format_and_rounds_in_no_kernel_of_its_own(tmp_path: Path):
    environment = Environment("compiler", (PYTHON,))
    supervisor = Supervisor(environment, keep_cache=False)
    model = load_model(attention_encoder(layers=1), name="encoder")
    feeds = {"tokens": np.random.default_rng(0).standard_normal((2, 24, 64)).astype(np.float32)}
    try:
        for format in (Format.INT8, Format.FP8):
            made = quantize(model, [feeds], unseen=[], format=format).quantized
            listed = kernels_of(
                made, Precision.FP16, environment, supervisor=supervisor, cache=ReportCache(tmp_path)
            )
            seen = read_kernels(made, listed, feeds)
            assert len(seen.products) == 8
            assert seen.in_float == ()
            assert seen.rounding == ()
    finally:
        supervisor.close()


@pytest.mark.skipif(not PYTHON, reason="HARNESS_RTX_PYTHON names no Python with TensorRT for RTX")
@pytest.mark.parametrize(("batch", "behind", "kernels"), [(2, ("l1_fc2_matmul",), 23), (1, (), 23)])
def test_a_pair_behind_a_product_joins_the_halves_of_a_kernel_that_the_compiler_splits(
    batch: int, behind: tuple[str, ...], kernels: int, tmp_path: Path
):
    """With a batch 1.7.1 makes 24 kernels of the model as it is placed without asking."""
    supervisor = Supervisor(environment := Environment("compiler", (PYTHON,)), keep_cache=False)
    model = load_model(attention_encoder(layers=2, tokens=32, batch=batch), name="encoder")
    random = np.random.default_rng(0)
    samples = [{"tokens": random.standard_normal((batch, 32, 64)).astype(np.float32)} for _ in range(5)]

    def ask(made: Model) -> KernelList:
        return kernels_of(
            made, Precision.FP16, environment, supervisor=supervisor, cache=ReportCache(tmp_path)
        )

    try:
        plain = quantize(model, samples[:4], unseen=samples[4:])
        found, listed = with_fewer_kernels(plain, model, samples[:4], samples[4:], ask)
        assert found.behind == behind
        assert len(listed.kernels) == kernels
        assert len(ask(plain.quantized).kernels) == kernels + len(behind)
        assert found.chosen.unseen < 1.05 * plain.chosen.unseen
        assert len(find_pairs(found.quantized)) == len(find_pairs(plain.quantized)) + len(behind)
    finally:
        supervisor.close()
