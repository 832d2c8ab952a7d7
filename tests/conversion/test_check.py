"""`check` with the real compiler, which needs no GPU, and without one."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness import check
from harness.compiler import FindingKind
from harness.conversion import CompileOutcome, FoundBy
from harness.conversion.subject import CheckedModel
from harness.environments import close_shared
from harness.errors import CandidateError, CaseFileError, InputDataError
from harness.report import check_markdown, check_page, check_text

F = TensorProto.FLOAT


@pytest.fixture(autouse=True)
def _end_workers():
    yield
    close_shared()


def save(path: Path, nodes: list[onnx.NodeProto], inputs, outputs, opset: int = 17, **constants) -> Path:
    infos = [helper.make_tensor_value_info(*each) for each in inputs]
    results = [helper.make_tensor_value_info(*each) for each in outputs]
    arrays = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", infos, results, arrays)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), path)
    return path


def planted(path: Path) -> Path:
    """Three nodes that no release takes, each in another way: no operator, a wrong volume, and a limit of a build."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("Det", ["r"], ["d"], "det"),
        helper.make_node("Exp", ["d"], ["e"], "exp"),
        helper.make_node("Reshape", ["x", "flat"], ["f"], "flatten"),
        helper.make_node("TopK", ["f", "k"], ["v", "i"], "top"),
        helper.make_node("Neg", ["v"], ["n"], "neg"),
        helper.make_node("Compress", ["n", "keep"], ["c"], "compress", axis=0),
        helper.make_node("Abs", ["c"], ["y"], "abs"),
    ]
    return save(
        path,
        nodes,
        [("x", F, [2000, 2, 2])],
        [("e", F, [2000]), ("y", F, ["kept"])],
        flat=np.array([8000]),
        k=np.array([4000]),
        keep=np.arange(4000) % 2 == 0,
    )


def test_rules_alone_name_the_nodes_and_say_why(tmp_path: Path) -> None:
    (result,) = check(planted(tmp_path / "m.onnx")).results
    stops = [each for each in result.findings if each.kind.is_failure]
    assert [(each.code, each.node and each.node.name) for each in stops] == [
        ("operator", "det"),
        ("operator", "compress"),
        ("topk-limit", "top"),
    ]
    assert {each.found_by for each in stops} == {FoundBy.RULE}
    assert result.fails
    assert result.environments == ()


def test_dynamic_axes_of_a_bare_model_are_taken_to_be_1_and_that_is_said(rtx: str) -> None:
    path = save(
        Path("m.onnx"),
        [helper.make_node("Relu", ["x"], ["y"], "relu")],
        [("x", F, ["n", 4])],
        [("y", F, ["n", 4])],
    )
    (result,) = check(path, environments=rtx).results
    (asked,) = result.environments
    assert asked.outcome is CompileOutcome.BUILT
    (finding,) = [each for each in asked.findings if each.code == "assumed-shape"]
    assert finding.explanation == "compilers are asked with 1 for each dynamic axis: x:[1,4]"
    (result,) = check(path, environments=rtx, inputs={"x": [3, 4]}).results
    assert "assumed-shape" not in [each.code for each in result.environments[0].findings]


def test_an_environment_that_does_not_start_leaves_the_others_their_answers(rtx: str) -> None:
    with Path("harness.toml").open("a") as file:
        file.write('[environments.gone]\npython = "/nonexistent/python"\n')
    model = planted(Path("m.onnx"))
    alone = check(model, environments=rtx).results[0].environments
    report = check([model, model], environments=["gone", rtx])
    assert report.exit_code == 3
    for result in report.results:
        broken, sound = result.environments
        assert sound.findings == alone[0].findings
        assert (broken.environment, broken.outcome, broken.started) == ("gone", CompileOutcome.UNKNOWN, False)
        (finding,) = broken.findings
        assert (finding.code, finding.kind) == ("not-started", FindingKind.RISKY)
        assert "/nonexistent/python" in finding.said
    said = check_text(report)
    assert "gone: does not start" in said
    assert "gone does not start; rtx builds 0 of 2" in said
    assert "<b>gone</b>: does not start" in check_page(report)
    for text in (said, check_page(report), check_markdown(report)):
        assert text.count("its compiler does not start") == 1
    assert said.count("gone: does not start") == 2
    with pytest.raises(CandidateError, match="/nonexistent/python"):
        check(model, environments="gone")


def test_a_compiler_that_does_not_start_is_not_called_expected(rtx: str) -> None:
    with Path("harness.toml").open("a") as file:
        file.write('[environments.gone]\npython = "/nonexistent/python"\n')
    node = helper.make_node("Det", ["x"], ["y"], "det")
    save(Path("m.onnx"), [node], [("x", F, [2, 2, 2])], [("y", F, [2])])
    Path("m.case.yaml").write_text("model: {path: m.onnx}\nfindings: [operator]\n")
    assert f"{rtx} builds 0 of 1, as expected" in check_text(check("m.case.yaml", environments=rtx))
    report = check("m.case.yaml", environments=[rtx, "gone"])
    assert "as expected" not in check_text(report)


def test_a_shape_of_an_input_that_the_model_lacks_is_refused_by_rules_alone_too(tmp_path: Path) -> None:
    report = check(planted(tmp_path / "m.onnx"), inputs={"zz": [1, 16]})
    (error,) = [each.error for each in report.results]
    assert (error.kind, report.exit_code) == (InputDataError.__name__, 2)
    assert "the model has no input 'zz'" in error.message


def test_a_model_that_cannot_be_checked_leaves_the_others_their_answers(rtx: str) -> None:
    Path("junk.onnx").write_bytes(b"junk")
    alone = check(planted(Path("m.onnx")), environments=rtx).results[0]
    report = check(["junk.onnx", "m.onnx", "missing.onnx", "m.onnx"], environments=rtx)
    junk, *between, last = report.results
    assert (junk.error.kind, junk.error.message) == ("ModelError", "not an ONNX model, or cut short")
    assert between[1].error.message == "no such model file"
    assert (junk.environments, junk.fails, junk.sha256) == ((), True, "")
    for result in (between[0], last):
        assert (result.error, result.findings) == (None, alone.findings)
        assert result.environments[0].findings == alone.environments[0].findings
    assert report.exit_code == 2
    assert f"{rtx} builds 0 of 2; 2 could not be checked" in check_text(report)
    for text in (check_text(report), check_page(report), check_markdown(report)):
        assert text.count("not an ONNX model, or cut short") == 1
        assert text.count("no such model file") == 1


def test_a_fault_of_harness_at_one_model_leaves_the_others_their_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    paths = [planted(tmp_path / name) for name in ("a.onnx", "b.onnx")]
    look = CheckedModel.of

    def faulty(case, *arguments, **options):
        if case.name == "a":
            raise KeyError("boom")
        return look(case, *arguments, **options)

    monkeypatch.setattr(CheckedModel, "of", faulty)
    report = check(paths)
    broken, sound = report.results
    assert (broken.error.kind, sound.error, report.exit_code) == ("InternalError", None, 70)
    assert any("boom" in line for line in broken.evidence)
    assert "boom" in check_text(report)
    assert "boom" in check_page(report)


def test_every_planted_node_is_named_and_nothing_else(rtx: str) -> None:
    report = check(planted(Path("m.onnx")), environments=rtx)
    (environment,) = report.results[0].environments
    assert (environment.outcome, environment.complete) == (CompileOutcome.REFUSED, True)
    stops = [each for each in environment.findings if each.kind.is_failure]
    assert [(each.code, each.node and each.node.name, each.kind, each.found_by) for each in stops] == [
        ("operator", "det", FindingKind.REFUSED, FoundBy.PARSER),
        ("operator", "compress", FindingKind.REFUSED, FoundBy.PARSER),
        ("topk-limit", "top", FindingKind.NOT_BUILT, FoundBy.BUILDER),
    ]
    assert "K exceeds the maximum value allowed" in stops[2].said
    assert stops[2].alone is True
    assert [(info.name, info.dtype, info.shape) for info in stops[2].node.inputs] == [
        ("f", "float32", (8000,)),
        ("k", "int64", (1,)),
    ]
    assert report.exit_code == 1
    document = json.loads(json.dumps(report.to_dict()))
    assert document["schema"] == "harness.check/1"
    assert document["results"][0]["environments"][0]["findings"][0]["code"] == "operator"


def test_a_node_that_crashes_the_real_compiler_is_named_with_its_log_and_the_rest_is_checked(
    rtx: str,
) -> None:
    """TensorRT for RTX 1.4 to 1.7 die of a K without an element, by SIGSEGV."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("TopK", ["r", "k"], ["v", "i"], "top"),
        helper.make_node("Det", ["x3"], ["d"], "det"),
        helper.make_node("Exp", ["d"], ["e"], "exp"),
    ]
    inputs, outputs = [("x", F, [4, 8]), ("x3", F, [4, 2, 2])], [("v", F, None), ("e", F, [4])]
    save(Path("m.onnx"), nodes, inputs, outputs, k=np.zeros(0, np.int64))
    report = check("m.onnx", environments=rtx, split=Path("parts"))
    (environment,) = report.results[0].environments
    assert (environment.outcome, environment.complete) == (CompileOutcome.NOT_BUILT, True)
    crashed, refused = (each for each in environment.findings if each.kind.is_failure)
    if crashed.code != "crashed":
        crashed, refused = refused, crashed
    assert (crashed.code, crashed.kind, crashed.node and crashed.node.name) == (
        "crashed",
        FindingKind.NOT_BUILT,
        "top",
    )
    assert "killed by SIGSEGV" in crashed.said
    assert "Empty initializer k" in crashed.evidence[-1], "the last words of the builder"
    assert (refused.code, refused.node and refused.node.name) == ("operator", "det")
    assert [(part.nodes, part.is_taken) for part in environment.parts if "top" in part.nodes] == [
        (("top",), False)
    ]
    assert report.exit_code == 1
    for text in (check_text(report), check_page(report), check_markdown(report)):
        assert "top (TopK): the compiler crashes on it" in text
        assert "Empty initializer k" in text


def test_a_model_on_which_the_real_compiler_hangs_is_a_finding_with_its_log(rtx: str) -> None:
    """Of a chain of 5,000 nodes a builder makes nothing in minutes."""
    with Path("harness.toml").open("a") as file:
        file.write("limits = { compile = 6 }\n")
    names = ["x", *(f"t{place}" for place in range(5000)), "y"]
    nodes = [
        helper.make_node("Sin", [before], [after], f"sin{place}")
        for place, (before, after) in enumerate(pairwise(names))
    ]
    report = check(save(Path("m.onnx"), nodes, [("x", F, [4])], [("y", F, [4])]), environments=rtx)
    (environment,) = report.results[0].environments
    assert (environment.outcome, environment.complete) == (CompileOutcome.NOT_BUILT, False)
    (finding,) = [each for each in environment.findings if each.kind.is_failure]
    assert (finding.code, finding.node) == ("timed-out", None)
    assert "did not answer within 6 s during a compilation of m at fp32" in finding.said
    assert any("[TensorRT" in line for line in finding.evidence)
    assert f"raise `limits.compile` of {rtx} in harness.toml" in finding.advice
    assert "the model: the compiler takes longer than its limit" in check_text(report)


def test_what_stands_behind_an_unknown_shape_is_told_by_the_rules_and_counted(rtx: str) -> None:
    nodes = [
        helper.make_node("Fancy", ["x"], ["f"], "custom", domain="my.dom"),
        helper.make_node("ScatterND", ["f", "at", "new"], ["s"], "scatter", reduction="add"),
        helper.make_node("Relu", ["s"], ["y"], "relu"),
    ]
    constants = {"at": np.array([[0], [2]]), "new": np.ones((2, 4), np.float32)}
    report = check(
        save(Path("m.onnx"), nodes, [("x", F, [4, 4])], [("y", F, [4, 4])], **constants), environments=rtx
    )
    (environment,) = report.results[0].environments
    assert not environment.complete
    stops = [each for each in environment.findings if each.kind.is_failure]
    assert [(each.code, each.node and each.node.name, each.found_by) for each in stops] == [
        ("domain", "custom", FoundBy.PARSER),
        ("scatter-reduction", "scatter", FoundBy.RULE),
    ]
    said = check_text(report)
    assert "refuses 1 node, by the rules 1 more, and what is left was not seen to build" in said
    for text in (said, check_page(report), check_markdown(report)):
        assert text.count("the rules, not asked of the compiler") == 1
    found = report.to_dict()["results"][0]["environments"][0]["findings"][1]
    assert (found["found_by"], found["environment"], found["kind"]) == ("rule", rtx, "refused")


def test_refused_nodes_in_the_bodies_of_a_refused_if_are_told_by_the_rules(rtx: str) -> None:
    then = helper.make_graph(
        [
            helper.make_node("BitShift", ["u", "u"], ["shifted"], "shift", direction="LEFT"),
            helper.make_node("Cast", ["shifted"], ["a"], "back", to=F),
        ],
        "then",
        [],
        [helper.make_tensor_value_info("a", F, [4])],
        [numpy_helper.from_array(np.ones(4, np.uint32), "u")],
    )
    other = helper.make_graph(
        [helper.make_node("Abs", ["x"], ["b"], "abs")],
        "other",
        [],
        [helper.make_tensor_value_info("b", F, [4])],
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], "sum", keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["more"], "more"),
        helper.make_node("If", ["more"], ["y"], "choice", then_branch=then, else_branch=other),
    ]
    model = save(Path("m.onnx"), nodes, [("x", F, [4])], [("y", F, [4])], zero=np.float32(0))
    report = check(model, environments=rtx)
    (environment,) = report.results[0].environments
    stops = [each for each in environment.findings if each.kind.is_failure]
    assert {(each.code, each.node and each.node.name, each.found_by) for each in stops} == {
        ("refused", "choice", FoundBy.PARSER),
        ("operator", "shift", FoundBy.RULE),
        ("dtype", "back", FoundBy.RULE),
    }
    assert "refuses 1 node, by the rules 2 more\n" in check_text(report)


def test_a_model_that_builds_has_its_kernels_and_what_is_silent_there(rtx: str) -> None:
    node = helper.make_node("Exp", ["x"], ["y"], "exp")
    path = save(Path("m.onnx"), [node], [("x", TensorProto.DOUBLE, [4])], [("y", TensorProto.DOUBLE, [4])])
    report = check(path, environments=[rtx])
    (environment,) = report.results[0].environments
    assert environment.outcome is CompileOutcome.BUILT
    assert environment.report.kernels is not None
    assert [(each.code, each.kind) for each in environment.findings] == [("double", FindingKind.DIFFERENT)]
    assert report.exit_code == 1


@pytest.mark.parametrize(
    ("scale", "code"), [(0.0, "scale-zero"), (-0.1, "scale-negative"), (np.nan, "scale-not-finite")]
)
def test_a_scale_that_parsers_refuse_is_told_once_as_what_it_is(rtx: str, scale: float, code: str) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], "dequantize"),
    ]
    constants = {"s": np.asarray(scale, np.float32), "z": np.asarray(0, np.int8)}
    path = save(Path("m.onnx"), nodes, [("x", F, [4])], [("y", F, [4])], **constants)
    (result,) = check(path, environments=rtx).results
    assert [(each.code, each.kind) for each in result.findings if each.kind.is_failure] == [
        (code, FindingKind.REFUSED)
    ]
    first, *others = (each for each in result.environments[0].findings if each.kind.is_failure)
    assert (first.code, first.kind, first.found_by, first.node and first.node.name) == (
        code,
        FindingKind.REFUSED,
        FoundBy.PARSER,
        "quantize",
    )
    assert "must all be positive" in first.said
    assert code not in {each.code for each in others}


def test_a_size_that_is_baked_in_explains_why_another_is_refused(rtx: str) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Reshape", ["r", "s"], ["y"], "reshape"),
    ]
    path = save(Path("m.onnx"), nodes, [("x", F, ["n", 6])], [("y", F, None)], s=np.array([2, 3]))
    (result,) = check(path, environments=rtx, inputs={"x": [2, 6]}).results
    (finding,) = (each for each in result.environments[0].findings if each.kind.is_failure)
    assert (finding.code, finding.kind, finding.node and finding.node.name) == (
        "baked-size",
        FindingKind.REFUSED,
        "reshape",
    )
    assert "reshape changes volume" in finding.said
    assert [each.code for each in result.environments[0].findings].count("baked-size") == 1


def test_sizes_that_contradict_each_other_are_told_by_rules_alone(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["x", "i"], ["y"], "gather")]
    inputs = [("x", F, ["n", 8]), ("i", TensorProto.INT64, ["n"])]
    path = save(tmp_path / "m.onnx", nodes, inputs, [("y", F, None)])
    (result,) = check(path, inputs={"x": [4, 8], "i": [3]}).results
    (stops,) = [each for each in result.findings if each.kind.is_failure]
    assert (stops.code, stops.kind) == ("contradictory-sizes", FindingKind.NOT_BUILT)
    assert not check(path, inputs={"x": [4, 8], "i": [4]}).results[0].fails


def test_an_input_that_decides_shapes_is_not_called_a_fault(rtx: str) -> None:
    node = helper.make_node("Expand", ["x", "s"], ["y"], "expand")
    path = save(Path("m.onnx"), [node], [("x", F, [1]), ("s", TensorProto.INT64, [2])], [("y", F, None)])
    (result,) = check(path, environments=rtx).results
    assert result.environments[0].outcome is CompileOutcome.UNKNOWN
    assert [each.code for each in result.environments[0].findings] == ["not-asked"]
    assert not result.fails


def test_a_code_that_no_finding_has_is_a_mistake_of_the_case_file(tmp_path: Path) -> None:
    planted(tmp_path / "m.onnx")
    path = tmp_path / "m.case.yaml"
    path.write_text("model: {path: m.onnx}\nfindings: [operator, tpk-limit]\n")
    with pytest.raises(CaseFileError, match=r"m\.case\.yaml:2:.*tpk-limit.*did you mean `topk-limit`\?"):
        check(path)
