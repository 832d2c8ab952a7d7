"""What a kernel does is read from TensorRT's words in one place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.worker.protocol import Kernel, Work

LISTED = Path(__file__).parents[1] / "compiler" / "data" / "attention-fp16-1.6.1.120-h200.json"


@pytest.mark.parametrize(
    ("name", "kind", "operations", "work"),
    [
        ("a+b_myl0_1", "gemm", (), Work.MATRIX_PRODUCT),
        ("__myl_FcAdd_myl0_6", "runtime_fusion", ("Fc", "Add"), Work.MATRIX_PRODUCT),
        ("__myl_CorrAdd_myl0_6", "runtime_fusion", ("Corr", "Add"), Work.CONVOLUTION),
        ("conv_myl0_2", "correlation", (), Work.CONVOLUTION),
        ("up_myl0_2", "deconv", (), Work.CONVOLUTION),
        ("_gemm_mha_v2_myl0_5", "_gemm_mha_v2", (), Work.ATTENTION),
        ("_gemv_mha_v1_myl0_5", "_gemv_mha_v1", (), Work.ATTENTION),
        ("_gemm_mha_v2_myl0_5", "kgen", (), Work.ATTENTION),
        ("__myl_Cast_myl0_0", "kgen", ("Cast",), Work.GENERATED),
        ("__myl_ReshOne_Cast_myl0_0", "__myl_ReshOne_Cast", (), Work.GENERATED),
        ("Reformatting CopyNode", "Reformat", (), Work.MOVEMENT),
        ("", "NoOp", (), Work.MOVEMENT),
        ("{ForeignNode[a...b]}", "Myelin", (), Work.REGION),
        ("", "signal", (), Work.OTHER),
        ("pool", "maxpool", (), Work.OTHER),
    ],
)
def test_the_words_of_compilers_say_what_a_kernel_does(
    name: str, kind: str, operations: tuple[str, ...], work: Work
) -> None:
    kernel = Kernel(name, kind, operations=operations)
    assert kernel.work is work
    assert kernel.work.multiplies_matrices == (work in (Work.MATRIX_PRODUCT, Work.ATTENTION))


def test_the_kernels_of_a_real_engine_are_products_attention_and_generated_code() -> None:
    listed = json.loads(LISTED.read_text())["kernels"]
    found = [Kernel(each["name"], each["kind"], operations=tuple(each["operations"])).work for each in listed]
    assert set(found) == {Work.MATRIX_PRODUCT, Work.ATTENTION, Work.GENERATED}
    assert found.count(Work.ATTENTION) == 1
