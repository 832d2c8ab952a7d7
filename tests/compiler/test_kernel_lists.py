"""Kernel lists as real builders wrote them: `data/` holds messages of TensorRT for RTX, one cut to its first lines."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import harness
from harness.worker.adapter.inspection import inspector, kernels
from harness.worker.protocol import (
    CAST,
    DIVISION,
    MOVES,
    Kernel,
    KernelList,
    KernelTensor,
    Work,
    from_plain,
    fused_behind,
)

DATA = Path(__file__).with_name("data")


def read(name: str) -> tuple[Kernel, ...]:
    return kernels.kernels_of_log((DATA / f"{name}.log").read_text())


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        (
            "if-branches-fp16-1.4.0.76",
            "memset kgen runtime_fusion kgen kgen copy cjmp runtime_fusion runtime_fusion jmp"
            " runtime_fusion runtime_fusion jmp kgen runtime_fusion",
        ),
        (
            "attention-fp16-1.6.1.120",
            "kgen gemm kgen kgen kgen _gemm_mha_v2 runtime_fusion kgen runtime_fusion",
        ),
        (
            "dynamic-batch-fp16-1.7.1.116",
            "shape_call kgen runtime_fusion maxpool correlation kgen runtime_fusion runtime_fusion",
        ),
        (
            "quantised-conv-fp16-1.7.1.116",
            "kgen correlation kgen maxpool correlation kgen correlation kgen runtime_fusion",
        ),
    ],
)
def test_every_kernel_is_listed_with_its_kind(name: str, kinds: str) -> None:
    assert [kernel.kind for kernel in read(name)] == kinds.split()


def test_a_kernel_has_its_nodes_its_border_and_what_it_does() -> None:
    first, products, *_ = read("attention-fp16-1.6.1.120")
    assert first.onnx_nodes[:3] == ("tokens::fp16", "l0_ln1_mean", "l0_ln1_sq")
    assert first.operations[:4] == ("Cast", "Mean", "Sub", "Mul")
    assert first.inputs == (KernelTensor("tokens", "float32", (2, 24, 64)),)
    assert [(tensor.dtype, tensor.shape) for tensor in first.outputs] == [("float16", (2, 24, 64))] * 2
    assert products.onnx_nodes == ("l0_v_matmul", "l0_k_matmul", "l0_q_matmul")
    assert products.operations == ()


def test_fused_attention_names_the_nodes_that_are_never_rounded_to_a_tensor() -> None:
    (fused,) = (kernel for kernel in read("attention-fp16-1.6.1.120") if kernel.kind == "_gemm_mha_v2")
    assert fused.onnx_nodes == ("l0_av", "l0_softmax", "l0_qk_scale", "l0_qk")
    assert {tensor.dtype for tensor in (*fused.inputs, *fused.outputs)} == {"float16"}


def test_nodes_of_a_branch_have_their_own_names() -> None:
    found = read("if-branches-fp16-1.4.0.76")
    assert found[7].onnx_nodes == ("choose", "wide_up_matmul", "wide_up", "wide_relu")
    assert (found[9].kind, found[9].onnx_nodes) == ("jmp", ("choose",))


def test_open_sizes_and_narrow_types_are_read() -> None:
    assert read("dynamic-batch-fp16-1.7.1.116")[1].inputs[0].shape == (-1, 3, 16, 16)
    assert read("quantised-conv-fp16-1.7.1.116")[1].inputs[0].dtype == "int8"


def test_a_build_without_a_gpu_lists_the_kernels_that_the_inspector_names_on_one() -> None:
    """The same release and model on an H200, read from the inspector there: as many kernels as the log is cut to."""
    kept = json.loads((DATA / "attention-fp16-1.6.1.120-h200.json").read_text())
    listed = from_plain(KernelList, kept)
    assert listed.source == "inspector"
    assert listed.kernels == read("attention-fp16-1.6.1.120")


def test_the_log_and_the_inspector_read_alike() -> None:
    entry = {
        "Name": "__myl_FcAdd_myl0_6",
        "LayerType": "runtime_fusion",
        "Inputs": [
            {"Name": "a", "Dimensions": [48, 64], "Datatype": "Half", "Format": "Row major linear format"}
        ],
        "Constants": [{"Name": "w", "Dimensions": [64, 64], "Datatype": "Half"}],
        "Outputs": [{"Name": "b", "Dimensions": [48, 64], "Datatype": "BFloat16"}],
        "TacticName": "",
        "StreamId": 0,
        "Metadata": "[ONNX Layer: out_matmul]\u001f[ONNX Layer: out]",
    }
    line = (
        "Name: __myl_FcAdd_myl0_6, LayerType: runtime_fusion, Inputs: [ { Name: a, Dimensions: [48,64], "
        "Strides: [64,1], StrideOrder: [1,0], Datatype: Half, Format: (Linear) Row major linear format }], "
        "Constants: [ { Name: w, Dimensions: [64,64], Datatype: Half }], "
        "Outputs: [ { Name: b, Dimensions: [48,64], Datatype: BFloat16 }], TacticName: , "
        "StreamId: 0, Metadata: [ONNX Layer: out_matmul]\x1f[ONNX Layer: out]"
    )
    (read_back,) = kernels.kernels_of_inspector(inspector.parse_inspector(json.dumps({"Layers": [entry]})))
    (logged,) = kernels.kernels_of_log(f"Layers:\n{line}\n\nI/O Tensors:\n")
    assert (
        read_back
        == logged
        == Kernel(
            "__myl_FcAdd_myl0_6",
            "runtime_fusion",
            ("out_matmul", "out"),
            (KernelTensor("a", "float16", (48, 64)),),
            (KernelTensor("b", "bfloat16", (48, 64)),),
            ("float16",),
            ("Fc", "Add"),
        )
    )


@pytest.mark.parametrize(
    ("cut", "put"),
    [
        (", LayerType: kgen", ""),
        ("Datatype: Float", "Datatype:"),
        ("Dimensions: [2,24,64]", "Dimensions: [2,24,n]"),
        (", StreamId: 0", ""),
        ("Outputs: [ {", "Outputs: [ ("),
        ("Name: __myl_Cast", "\nName: __myl_Cast"),
    ],
)
def test_a_line_of_another_form_is_named_and_nothing_is_guessed(cut: str, put: str) -> None:
    text = (DATA / "attention-fp16-1.6.1.120.log").read_text()
    assert cut in text
    with pytest.raises(kernels.Unreadable) as caught:
        kernels.kernels_of_log(text.replace(cut, put, 1))
    assert caught.value.line in text.replace(cut, put, 1)


def test_the_list_of_the_last_engine_counts_and_other_messages_do_not() -> None:
    log = kernels.KernelLog()
    assert log.kernels() == ()
    for name in ("attention-fp16-1.6.1.120", "dynamic-batch-fp16-1.7.1.116"):
        log.add("Total Activation Memory: 0 bytes")
        log.add((DATA / f"{name}.log").read_text())
    log.add("Adding 1 engine(s) to plan file.")
    assert log.kernels() == read("dynamic-batch-fp16-1.7.1.116")


PRODUCT, CONVOLUTION = Work.MATRIX_PRODUCT, Work.CONVOLUTION


@pytest.mark.parametrize(
    ("name", "products"),
    [
        ("attention-fp16-1.6.1.120", {"FcAdd": PRODUCT, "FcAddMulCastErfCastAddMulMul": PRODUCT}),
        ("quantised-conv-fp16-1.7.1.116", {"FcAddCast": PRODUCT}),
        (
            "dynamic-batch-fp16-1.7.1.116",
            {"CorrMulAddRelu": CONVOLUTION, "FcAddRelu": PRODUCT, "FcAddCast": PRODUCT},
        ),
    ],
)
def test_of_generated_code_what_is_fused_behind_a_product_is_known(
    name: str, products: dict[str, Work]
) -> None:
    found = {"".join(kernel.operations): fused_behind(kernel.operations) for kernel in read(name)}
    assert {operations: work for operations, work in found.items() if work is not None} == products


def test_conversions_divisions_and_moves_are_known_by_their_words() -> None:
    listed = [*read("attention-fp16-1.6.1.120"), *read("if-branches-fp16-1.4.0.76")]
    assert ["".join(kernel.operations) for kernel in listed if kernel.operations[-1:] == (CAST,)] == [
        *("Cast", "Cast", "FcAddCast")
    ]
    divided = [kernel for kernel in listed if DIVISION in kernel.operations]
    assert {node for kernel in divided for node in kernel.onnx_nodes if "norm" in node} == {
        *("l0_ln1_norm", "l0_ln2_norm")
    }
    alone = [kernel.name for kernel in listed if kernel.operations and MOVES.issuperset(kernel.operations)]
    assert alone == ["__myl_Cast_myl0_1", "__myl_Cast_myl0_3"]


def test_one_module_reads_the_words_of_kernels() -> None:
    spellings = {"Fc", "Corr", "Tran", "Resh", "Slic", "Conc", "kgen", "correlation", "gemm"}
    package = Path(harness.__file__).parent
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and (node.value in spellings or str(node.value).startswith("__myl_"))
    }
    assert found == {"worker/protocol/names.py"}
