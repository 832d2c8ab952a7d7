"""Each rule holds of what it is about and of nothing beside it, and together they foretell what compilers refuse."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import check_rules
from harness.compiler import RULES, FindingKind, GraphView, match_rules
from harness.model import Model, load_model
from harness.worker.protocol import TENSORRT, TENSORRT_RTX

F, H, I64, I32, I8, U8, B = (
    getattr(TensorProto, name) for name in ("FLOAT", "FLOAT16", "INT64", "INT32", "INT8", "UINT8", "BOOL")
)
Input = tuple[int, list[int | str]] | np.ndarray | None


def single(
    op: str,
    *inputs: Input,
    outputs: Iterable[int | None] = (F,),
    opset: int = 17,
    domain: str = "",
    **attributes,
) -> Model:
    """A model of one node. An input is (type, shape), a constant, or None where it is omitted."""
    infos, constants, reads = [], [], []
    for position, each in enumerate(inputs):
        name = "" if each is None else f"i{position}"
        reads.append(name)
        if isinstance(each, np.ndarray):
            constants.append(numpy_helper.from_array(each, name))
        elif each is not None:
            infos.append(helper.make_tensor_value_info(name, *each))
    writes = [f"o{position}" for position, _ in enumerate(outputs)]
    values = [
        helper.make_tensor_value_info(name, kind, None)
        for name, kind in zip(writes, outputs, strict=True)
        if kind is not None
    ]
    node = helper.make_node(op, reads, writes, "node", domain=domain, **attributes)
    graph = helper.make_graph([node], "g", infos, values, constants)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("other", 1)]
    return load_model(helper.make_model(graph, opset_imports=imports, ir_version=10))


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def codes(model: Model) -> set[str]:
    return {match.rule.code for match in match_rules(model)}


X, V = (F, [2, 4, 6, 8]), (F, [4])
Q3, Q4 = (F, [2, 4, 24]), (F, [2, 3, 4, 8])
ONE, ZERO = np.asarray(1.0, np.float32), np.asarray(0, np.int8)
ATTENTION = {"opset": 23, "q_num_heads": 3, "kv_num_heads": 3}

CASES = {
    "operator": (single("Det", (F, [3, 3])), single("Relu", X)),
    "operator-rtx": (single("NonZero", X, outputs=[I64]), single("Relu", X)),
    "nms-rtx": (
        single("NonMaxSuppression", (F, [1, 5, 4]), (F, [1, 1, 5]), outputs=[I64]),
        single("Relu", X),
    ),
    "sequence": (single("SequenceLength", None, outputs=[I64]), single("Size", X, outputs=[I64])),
    "domain": (single("FancyOp", X, domain="other"), single("Relu", X, domain="other")),
    "domain-ignored": (single("Relu", X, domain="other"), single("Relu", X)),
    "unknown-operator": (single("LeakyRely", X), single("LeakyRelu", X)),
    "newer-operator": (single("Gelu", X), single("Gelu", X, opset=20)),
    "dtype": (
        single("Add", (TensorProto.UINT16, [2]), (TensorProto.UINT16, [2]), outputs=[TensorProto.UINT16]),
        single("Add", (I32, [2]), (I32, [2]), outputs=[I32]),
    ),
    "uint8": (single("Max", (U8, [2]), (U8, [2]), outputs=[U8]), single("Cast", (U8, [2]), to=F)),
    "quantized-cast": (
        single("Cast", V, outputs=[TensorProto.FLOAT8E4M3FN], to=TensorProto.FLOAT8E4M3FN, opset=19),
        single("Cast", V, outputs=[H], to=H),
    ),
    "int8-constant": (
        single("Sub", (I8, [2]), np.zeros(2, np.int8), outputs=[I8]),
        single("DequantizeLinear", np.zeros(2, np.int8), ONE, ZERO),
    ),
    "int8-arithmetic": (
        single("Sub", (I8, [2]), (I8, [2]), outputs=[I8]),
        single("QuantizeLinear", V, ONE, ZERO, outputs=[I8]),
    ),
    "double": (
        single("Exp", (TensorProto.DOUBLE, [2]), outputs=[TensorProto.DOUBLE]),
        single("Cast", (TensorProto.DOUBLE, [2]), to=F),
    ),
    "topk-limit": (
        single("TopK", (F, [1, 8000]), i64(3841), outputs=[F, I64]),
        single("TopK", (F, [1, 8000]), i64(3840), outputs=[F, I64]),
    ),
    "scatter-reduction": (
        single("ScatterElements", V, (I64, [2]), (F, [2]), opset=18, reduction="mul"),
        single("ScatterElements", V, (I64, [2]), (F, [2]), opset=18, reduction="none"),
    ),
    "scatternd-reduction": (
        single("ScatterND", V, (I64, [2, 1]), (F, [2]), opset=18, reduction="add"),
        single("ScatterND", V, (I64, [2, 1]), (F, [2]), opset=18),
    ),
    "scatter-reduction-ignored": (
        single("ScatterND", V, (I64, [2, 1]), (F, [2]), opset=18, reduction="add"),
        single("ScatterND", V, (I64, [2, 1]), (F, [2]), opset=18),
    ),
    "trilu-upper": (single("Trilu", V), single("Trilu", V, upper=1)),
    "rnn-layout": (
        single("RNN", (F, [3, 1, 2]), (F, [1, 4, 2]), (F, [1, 4, 4]), hidden_size=4, layout=1),
        single("RNN", (F, [3, 1, 2]), (F, [1, 4, 2]), (F, [1, 4, 4]), hidden_size=4),
    ),
    "maxpool-ceil": (
        single("MaxPool", (F, [1, 1, 2, 2]), kernel_shape=[1, 1], strides=[2, 2], ceil_mode=1),
        single("MaxPool", (F, [1, 1, 4, 4]), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    ),
    "onehot-depth": (
        single("OneHot", (I64, [3]), (I64, [1]), np.array([0, 1], np.float32)),
        single("OneHot", (I64, [3]), i64(5), np.array([0, 1], np.float32)),
    ),
    "eyelike-shape": (single("EyeLike", (F, ["n", 3])), single("EyeLike", (F, [3, 3]))),
    "cumsum-axis": (single("CumSum", X, (I64, [])), single("CumSum", X, np.asarray(1, np.int64))),
    "pool-dilations": (
        single("MaxPool", X, kernel_shape=[2, 2], dilations=[2, 2]),
        single("MaxPool", X, kernel_shape=[2, 2], dilations=[1, 1]),
    ),
    "maxpool-indices": (
        single("MaxPool", X, outputs=[F, I64], kernel_shape=[2, 2]),
        single("MaxPool", X, kernel_shape=[2, 2]),
    ),
    "lppool-order": (
        single("LpPool", X, kernel_shape=[2, 2], p=3, opset=18),
        single("LpPool", X, kernel_shape=[2, 2], p=2, opset=18),
    ),
    "zero-point": (
        single("QuantizeLinear", V, ONE, np.asarray(3, np.int8), outputs=[I8]),
        single("QuantizeLinear", V, ONE, ZERO, outputs=[I8]),
    ),
    "zero-point-computed": (
        single("QuantizeLinear", V, ONE, (I8, []), outputs=[I8]),
        single("QuantizeLinear", V, ONE, ZERO, outputs=[I8]),
    ),
    "dequantize-uint8": (
        single("DequantizeLinear", (U8, [4]), ONE),
        single("DequantizeLinear", (I8, [4]), ONE),
    ),
    "quantize-uint8": (
        single("QuantizeLinear", V, ONE, np.asarray(0, np.uint8), outputs=[U8]),
        single("QuantizeLinear", V, ONE, ZERO, outputs=[I8]),
    ),
    "dequantize-int32": (
        single("DequantizeLinear", (I32, [4]), ONE),
        single("DequantizeLinear", (I8, [4]), ONE),
    ),
    "quantize-uint8-8.6": (
        single("QuantizeLinear", V, ONE, np.asarray(0, np.uint8), outputs=[U8]),
        single("QuantizeLinear", V, ONE, ZERO, outputs=[I8]),
    ),
    "quantize-odd": (
        single("DequantizeLinear", (TensorProto.INT4, [5]), ONE, opset=21),
        single("DequantizeLinear", (TensorProto.INT4, [6]), ONE, opset=21),
    ),
    "layernorm-outputs": (
        single("LayerNormalization", X, (F, [8]), outputs=[F, F]),
        single("LayerNormalization", X, (F, [8])),
    ),
    "batchnorm-training": (
        single("BatchNormalization", X, V, V, V, V, outputs=[F, F, F], training_mode=1),
        single("BatchNormalization", X, V, V, V, V),
    ),
    "dropout-training": (
        single("Dropout", X, ONE, np.array(True)),
        single("Dropout", X, ONE, np.array(False)),
    ),
    "resize-scales": (
        single("Resize", X, None, (F, [4])),
        single("Resize", X, None, np.ones(4, np.float32)),
    ),
    "resize-antialias": (
        single("Resize", X, None, np.ones(4, np.float32), mode="linear", antialias=1, opset=18),
        single("Resize", X, None, np.ones(4, np.float32), mode="linear", opset=18),
    ),
    "resize-transformation": (
        single(
            "Resize", X, None, np.ones(4, np.float32), coordinate_transformation_mode="half_pixel_symmetric"
        ),
        single("Resize", X, None, np.ones(4, np.float32), coordinate_transformation_mode="half_pixel"),
    ),
    "resize-aspect": (
        single("Resize", X, None, None, i64(2, 4, 6, 8), keep_aspect_ratio_policy="not_larger", opset=18),
        single("Resize", X, None, None, i64(2, 4, 6, 8), keep_aspect_ratio_policy="stretch", opset=18),
    ),
    "gridsample-linear": (
        single("GridSample", X, (F, [2, 3, 3, 2]), mode="linear", opset=20),
        single("GridSample", X, (F, [2, 3, 3, 2]), mode="bilinear", opset=16),
    ),
    "gridsample-cubic": (
        single("GridSample", X, (F, [2, 3, 3, 2]), mode="cubic", opset=20),
        single("GridSample", X, (F, [2, 3, 3, 2]), opset=20),
    ),
    "gridsample-volume": (
        single("GridSample", (F, [1, 1, 2, 2, 2]), (F, [1, 2, 2, 2, 3]), opset=20),
        single("GridSample", X, (F, [2, 3, 3, 2]), opset=20),
    ),
    "reduce-axes": (
        single("ReduceSum", X, (I64, [1])),
        single("ReduceSum", X, i64(1)),
    ),
    "squeeze-axes": (single("Unsqueeze", X, (I64, [1])), single("Unsqueeze", X, i64(0))),
    "reduce-bool": (
        single("ReduceMax", (B, [4]), outputs=[B], opset=20),
        single("ReduceMax", (F, [4]), opset=20),
    ),
    "stft-step": (
        single("STFT", (F, [1, 64, 1]), (I64, []), (F, [16])),
        single("STFT", (F, [1, 64, 1]), np.asarray(8, np.int64), (F, [16])),
    ),
    "mod-float": (single("Mod", V, V, fmod=0), single("Mod", V, V, fmod=1)),
    "clip-int8": (single("Clip", (I8, [4]), outputs=[I8]), single("Clip", V)),
    "celu-half": (single("Celu", (H, [4]), outputs=[H]), single("Celu", V)),
    "range-half": (
        single("Range", (H, []), (H, []), (H, []), outputs=[H], opset=27),
        single("Range", ONE, ONE, ONE),
    ),
    "range-computed": (single("Range", ONE, (F, []), ONE), single("Range", ONE, ONE, ONE)),
    "attention-outputs": (
        single("Attention", Q4, Q4, Q4, outputs=[F, F, F], opset=23),
        single("Attention", Q4, Q4, Q4, opset=23),
    ),
    "attention-softcap": (
        single("Attention", Q4, Q4, Q4, softcap=2.0, opset=23),
        single("Attention", Q4, Q4, Q4, softcap=0.0, opset=23),
    ),
    "attention-softmax-precision": (
        single("Attention", Q4, Q4, Q4, softmax_precision=1, opset=23),
        single("Attention", Q4, Q4, Q4, opset=23),
    ),
    "attention-mask-causal": (
        single("Attention", Q4, Q4, Q4, (F, [4, 4]), is_causal=1, opset=23),
        single("Attention", Q4, Q4, Q4, (F, [4, 4]), opset=23),
    ),
    "attention-value-size": (
        single("Attention", Q4, Q4, (F, [2, 3, 4, 10]), opset=23),
        single("Attention", Q4, Q4, Q4, opset=23),
    ),
    "attention-kernel": (
        single("Attention", Q4, Q4, Q4, opset=23),
        single("Attention", *[(H, [2, 3, 4, 64])] * 3, outputs=[H], opset=23),
    ),
    "attention-kernel-plain": (
        single("Attention", Q3, Q3, Q3, **ATTENTION),
        single("Attention", Q3, Q3, Q3, **ATTENTION, is_causal=1),
    ),
    "tensorscatter": (
        single("TensorScatter", Q3, (F, [2, 1, 24]), (I64, [2]), opset=24),
        single("TensorScatter", Q4, (F, [2, 3, 1, 8]), (I64, [2]), opset=24),
    ),
    "swish-1.4": (single("Swish", X, opset=24), single("Sigmoid", X)),
    "vector-times-stack": (
        single("MatMul", (F, [3]), (F, [2, 3, 4])),
        single("MatMul", (F, [1, 3]), (F, [2, 3, 4])),
    ),
    "tf32": (single("MatMul", (F, [2, 3]), (F, [3, 2])), single("Relu", X)),
    "dynamic-axes": (single("Relu", (F, ["n", 3, "h"])), single("Relu", (F, ["n", 3, 4]))),
    "bool-border": (single("Not", (B, [2]), outputs=[B]), single("Relu", X)),
    "baked-size": (
        single("Reshape", (F, ["n", 4]), i64(2, 2, 2)),
        single("Reshape", (F, ["n", 4]), i64(-1, 2, 2)),
    ),
    "opset-13": (single("Relu", X, opset=14), single("Relu", X, opset=13)),
    "opset-17": (single("Relu", X, opset=18), single("Relu", X, opset=17)),
    "opset-19": (single("Relu", X, opset=20), single("Relu", X, opset=19)),
    "opset-20": (single("Relu", X, opset=21), single("Relu", X, opset=20)),
}


def graph_of(nodes: list[onnx.NodeProto], *constants: onnx.TensorProto, inputs=(("x", F, [2, 8]),)) -> Model:
    infos = [helper.make_tensor_value_info(*each) for each in inputs]
    graph = helper.make_graph(nodes, "g", infos, [helper.make_tensor_value_info("y", F, None)], constants)
    return load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


def norm(square: str) -> Model:
    return graph_of(
        [
            helper.make_node(square, ["x", "x"] if square == "Mul" else ["x"], ["s"]),
            helper.make_node("ReduceMean", ["s"], ["m"], axes=[-1]),
            helper.make_node("Add", ["m", "e"], ["a"]),
            helper.make_node("Sqrt", ["a"], ["r"]),
            helper.make_node("Div", ["x", "r"], ["y"]),
        ],
        numpy_helper.from_array(np.array([1e-5], np.float32), "e"),
    )


def branches(keeps: bool) -> Model:
    def branch(name: str, **attributes) -> onnx.GraphProto:
        node = helper.make_node("ReduceMean", ["x"], [name], axes=[0], **attributes)
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, F, None)])

    then, other = branch("t", keepdims=1), branch("e", keepdims=int(keeps))
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    return graph_of([node], inputs=(("x", F, [2, 8]), ("c", B, [1])))


def dequantized(weights: bool) -> Model:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["v"]),
        helper.make_node("Conv", ["d", "v" if weights else "f"], ["y"]),
    ]
    arrays = {
        "s": ONE,
        "z": ZERO,
        "w": np.ones((1, 1, 1, 1), np.int8),
        "f": np.ones((1, 1, 1, 1), np.float32),
    }
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    return graph_of(nodes, *constants, inputs=(("x", F, [1, 1, 4, 4]),))


CASES |= {
    "conv-int8": (dequantized(True), dequantized(False)),
    "layernorm-decomposed": (norm("Mul"), norm("Exp")),
    "if-ranks": (branches(False), branches(True)),
}


@pytest.mark.parametrize("code", [rule.code for rule in RULES if rule.code != "contradictory-sizes"])
def test_a_rule_holds_of_its_example_and_not_of_the_one_beside_it(code: str) -> None:
    held, spared = CASES[code]
    assert code in codes(held)
    assert code not in codes(spared)


def test_each_rule_has_a_code_of_its_own_and_says_why_whence_and_where() -> None:
    assert [code for code, count in Counter(rule.code for rule in RULES).items() if count > 1] == []
    for rule in RULES:
        assert all((rule.explanation, rule.source, rule.releases)), rule.code
        assert not rule.explanation.endswith("."), rule.code
        assert rule.advice or rule.kind is FindingKind.IMPROVABLE, rule.code


def test_a_rule_knows_its_releases() -> None:
    rule = next(each for each in RULES if each.code == "gridsample-linear")
    asked = (
        (TENSORRT_RTX, "1.4.0.76"),
        (TENSORRT_RTX, "1.6.1.120"),
        (TENSORRT, "11.1.0"),
        (TENSORRT, "11.2.0"),
    )
    assert [rule.include(*each) for each in asked] == [True, False, True, False]


def test_nodes_in_bodies_are_looked_at_by_their_own_names() -> None:
    inner = helper.make_graph(
        [helper.make_node("Det", ["x"], ["t"], "inner")],
        "then",
        [],
        [helper.make_tensor_value_info("t", F, None)],
    )
    other = helper.make_graph(
        [helper.make_node("ReduceSum", ["x"], ["e"])],
        "else",
        [],
        [helper.make_tensor_value_info("e", F, None)],
    )
    node = helper.make_node("If", ["c"], ["y"], "choose", then_branch=inner, else_branch=other)
    model = graph_of([node], inputs=(("x", F, [3, 3]), ("c", B, [1])))
    (match,) = (each for each in match_rules(model) if each.rule.code == "operator")
    assert match.node is not None
    assert (match.node.name, match.node.op, match.node.index) == ("inner", "Det", 0)
    assert match.node.inputs[0].shape == (3, 3)


FAMILIES = (
    "topk",
    "resize",
    "scatternd",
    "maxpool",
    "layernormalization",
    "onehot",
    "bitshift",
    "mod",
    "clip",
    "equal",
)


def test_rules_foretell_what_releases_said_of_operators() -> None:
    """Some families of the suite; the benchmark `check_rules` has all of it."""
    known = check_rules.read_answers()
    foretold = check_rules.foretell(check_rules.singles(FAMILIES))
    assert len(known) >= 2
    for release, answers in known.items():
        found, wrong = check_rules.score(foretold, answers, release)
        assert found.refused >= 80
        assert found.models - found.refused >= 40
        assert found.recall >= 0.95, wrong
        assert found.precision >= 0.95, wrong


def test_rules_foretell_what_releases_said_of_exports_of_pytorch() -> None:
    """A part of those that are kept; none of what builds is called refused."""
    foretold = check_rules.foretell(itertools.islice(check_rules.exports(), 0, None, 4))
    assert len(foretold) >= 100
    for release, answers in check_rules.read_answers().items():
        found, wrong = check_rules.score(foretold, answers, release)
        assert found.refused >= 15
        assert found.false_alarms == 0, wrong
        assert found.recall >= 0.8, wrong


@pytest.mark.parametrize(
    ("op", "meant"),
    [("LeakyRely", "LeakyRelu"), ("conv", "Conv"), ("MatMull", "MatMul"), ("Sofmax", "Softmax")],
)
def test_a_misspelt_operator_is_told_with_the_one_that_is_meant(op: str, meant: str) -> None:
    (match,) = [each for each in match_rules(single(op, X)) if each.rule.code == "unknown-operator"]
    assert match.advice.startswith(f"did you mean {meant}?")


def test_nothing_is_guessed_for_a_plugin() -> None:
    (match,) = [
        each for each in match_rules(single("EfficientNMS_TRT", X)) if each.rule.code == "unknown-operator"
    ]
    assert match.advice == "register the plugin, or export with operators of ONNX"


def test_of_another_domain_only_what_no_parser_takes_by_its_name_is_refused() -> None:
    refused = {"Det", "QuickGelu", "SequenceAt", "NonZero"}
    taken = {"Gelu", "Trilu", "SimplifiedLayerNormalization"}
    for op in refused | taken:
        assert ("domain" in codes(single(op, X, domain="other"))) == (op in refused), op
        assert ("domain-ignored" in codes(single(op, X, domain="other"))) == (op in taken), op


@pytest.mark.parametrize(
    "ends",
    [
        [("Sqrt", ["a"]), ("Reciprocal", ["a1"])],
        [("Reciprocal", ["a"]), ("Sqrt", ["a1"])],
        [("Pow", ["a", "minus_half"]), ("Mul", ["x", "a1"])],
    ],
    ids=["1 over the root", "the root of 1 over it", "a power"],
)
def test_a_normalization_that_is_written_out_is_known_by_its_root(ends: list[tuple[str, list[str]]]) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["s"]),
        helper.make_node("ReduceMean", ["s"], ["m"], axes=[-1]),
        helper.make_node("Add", ["e", "m"], ["a"]),
        *(helper.make_node(op, reads, [f"a{n}"]) for n, (op, reads) in enumerate(ends, 1)),
        helper.make_node("Mul", ["x", "a2"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([number], np.float32), name)
        for name, number in (("e", 1e-5), ("minus_half", -0.5))
    ]
    assert "layernorm-decomposed" in codes(graph_of(nodes, *constants))


@pytest.mark.parametrize("op", ["Tile", "Expand"])
@pytest.mark.parametrize("size", ["n", 8])
def test_constants_repeated_for_a_batch_that_is_open_are_told(op: str, size: int | str) -> None:
    queries = numpy_helper.from_array(np.ones((1, 5, 4), np.float32), "queries")
    sizes = numpy_helper.from_array(i64(8, 1, 1), "sizes")
    nodes = [
        helper.make_node(op, ["queries", "sizes"], ["q"], "repeated"),
        helper.make_node("Relu", ["q"], ["r"]),
        helper.make_node("Concat", ["r", "x"], ["y"], axis=1),
    ]
    model = graph_of(nodes, queries, sizes, inputs=(("x", F, [size, 3, 4]),))
    found = [each.node.name for each in match_rules(model) if each.rule.code == "baked-size" and each.node]
    assert found == (["repeated"] if size == "n" else [])


@pytest.mark.parametrize(("given", "holds"), [(3, True), (4, False)])
def test_axes_of_one_name_are_of_one_size(given: int, holds: bool) -> None:
    model = single("Gather", (F, ["n", 8]), (I64, ["n"]))
    found = {match.rule.code for match in match_rules(GraphView(model, {"i0": (4, 8), "i1": (given,)}))}
    assert ("contradictory-sizes" in found) == holds
    assert "contradictory-sizes" not in codes(model), "nobody knows which sizes"
