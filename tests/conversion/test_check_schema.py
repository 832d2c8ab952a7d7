"""The JSON schema of `harness check`, against what it writes: with a compiler and without, with parts and cures."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from jsonschema import Draft202012Validator
from onnx import TensorProto, helper, numpy_helper

from harness.cli import main
from harness.conversion.schema import SCHEMA_FILE, check_schema, check_schema_text
from harness.environments import close_shared


@pytest.fixture(autouse=True)
def _end_workers():
    yield
    close_shared()


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = json.loads(SCHEMA_FILE.read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def written(*arguments: str) -> dict[str, Any]:
    main(["check", *arguments, "--json", "check.json"])
    document: dict[str, Any] = json.loads(Path("check.json").read_text("utf-8"))
    return document


def model(name: str, *nodes: onnx.NodeProto, **constants: np.ndarray) -> str:
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, [1, 5000])],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("other", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), name)
    return name


def faulty() -> str:
    """What a rule knows, what none knows, and scales that are not finite."""
    return model(
        "faulty.onnx",
        helper.make_node("TopK", ["x", "k"], ["v", "i"], "top"),
        helper.make_node("Misspelt", ["v"], ["m"], "misspelt"),
        helper.make_node("QuantizeLinear", ["x", "infinite", "zero"], ["q"], "quantise"),
        helper.make_node("DequantizeLinear", ["q", "infinite", "zero"], ["y"], "dequantise"),
        k=np.array([4000]),
        infinite=np.array(np.inf, np.float32),
        zero=np.array(0, np.int8),
    )


def test_the_schema_in_the_package_is_that_of_the_types() -> None:
    assert SCHEMA_FILE.read_text("utf-8") == check_schema_text(), "run: python -m harness.conversion.schema"


def test_every_field_is_described() -> None:
    definitions = check_schema()["$defs"]
    lacking = [
        f"{name}.{field}"
        for name, each in definitions.items()
        for field, inner in each.get("properties", {}).items()
        if "description" not in inner and name not in ("HostFingerprint", "ExpectedFinding", "TensorInfo")
    ]
    assert lacking == []


def test_what_rules_say_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, validator) -> None:
    monkeypatch.chdir(tmp_path)
    document = written(faulty())
    validator.validate(document)
    found = {each["code"] for each in document["results"][0]["findings"]}
    assert {"topk-limit", "unknown-operator", "scale-not-finite"} <= found


def test_what_compilers_say_is_valid(rtx: str, validator) -> None:
    with Path("harness.toml").open("a") as file:
        file.write('[environments.gone]\npython = "/nonexistent/python"\n')
    document = written(faulty(), "-e", rtx, "-e", "gone", "--split", "parts", "--fix", "fixed.onnx")
    validator.validate(document)
    asked, gone = document["results"][0]["environments"]
    assert [each["code"] for each in gone["findings"]] == ["not-started"]
    assert asked["parts"]
    assert document["fix"]["left_out"] or document["fix"]["applied"]
    good = model("good.onnx", helper.make_node("TopK", ["x", "k"], ["y", "i"], "top"), k=np.array([4]))
    document = written(good, "-e", rtx, "-p", "fp16", "--list-kernels")
    validator.validate(document)
    (asked,) = document["results"][0]["environments"]
    assert asked["report"]["kernels"]["kernels"]
    assert asked["fates"]


def test_the_schema_notices_what_it_does_not_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, validator
) -> None:
    """Every field of a finding and of its node, once missing, once of another name; a code that nobody knows."""
    monkeypatch.chdir(tmp_path)
    document = written(faulty())

    def broken(change) -> bool:
        other = copy.deepcopy(document)
        change(other["results"][0]["findings"][0])
        return not validator.is_valid(other)

    finding = document["results"][0]["findings"][0]
    for name in finding:
        assert broken(lambda each, name=name: each.pop(name)), name
        assert broken(lambda each, name=name: each.update({f"{name}_2": 1})), name
    assert broken(lambda each: each.update(code="nobody-knows"))
    assert broken(lambda each: each["node"].pop("op"))
