"""The JSON schema that editors use, against the schema that harness uses."""

import datetime
import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from harness.case import SCHEMA_FILE, case_schema_text, read_document
from harness.case.schema import CaseBody
from harness.case.writing import case_schema

CASES = Path(__file__).parents[2] / "cases"


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    Draft202012Validator.check_schema(case_schema())
    return Draft202012Validator(case_schema())


def plain(data):
    """YAML data as an editor sees them: dates are text."""
    return json.loads(json.dumps(data, default=datetime.date.isoformat))


def test_the_schema_in_the_repository_is_current():
    message = "run: harness case schema --out cases/case.schema.json"
    assert (CASES / SCHEMA_FILE).read_text("utf-8") == case_schema_text(), message


@pytest.mark.parametrize("path", sorted(CASES.glob("*.case.yaml")), ids=lambda path: path.name)
def test_a_bundled_case_is_valid_in_an_editor(validator, path):
    errors = [error.message for error in validator.iter_errors(plain(read_document(path).data))]
    assert errors == []


def test_the_schema_is_spelled_out_for_people():
    schema = case_schema()
    models = [schema, *schema["$defs"].values()]
    lacking = [
        f"{model['title']}.{name}"
        for model in models
        for name, field in model.get("properties", {}).items()
        if "description" not in field and name != "kind"
    ]
    assert lacking == []
    assert "\n" not in json.dumps([model.get("description") for model in models])


def test_the_examples_are_valid():
    schema = case_schema()
    for name in ("ModelSource", "InputSpec", "RunSpec", "Tolerance", "Waiver"):
        assert schema["$defs"][name]["examples"]
        for example in schema["$defs"][name]["examples"]:
            part = Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": schema["$defs"]})
            assert part.is_valid(example), example
    for example in schema["examples"]:
        assert Draft202012Validator(schema).is_valid(example)
        CaseBody.model_validate(example)


MODEL = {"path": "m.onnx"}


@pytest.mark.parametrize(
    "body",
    [
        {"model": MODEL, "inputs": {"x": [1, 2], "y": {"fill": 0.5}, "z": {"fill": "normal"}}},
        {"model": MODEL, "inputs": {"x": {"fill": {"kind": "file", "path": "a.npy"}}}},
        {"model": MODEL, "runs": ["fp16", {"precision": "fp32"}], "tags": "one", "requires": ["a", "b"]},
        {"model": MODEL, "tolerances": [{"precision": ["fp16"], "output": "y", "max_abs": 1}]},
        {"model": {"builder": "models:f", "args": {"a": [1, None]}}, "build": {"tactic_sources": "cudnn"}},
        {"model": MODEL, "waivers": [{"reason": "r", "expires": "2026-12-31"}]},
        {},
        {"model": {}},
        {"model": {"path": "m.onnx", "builder": "models:f"}},
        {"model": {"builder": "models"}},
        {"model": MODEL, "sed": 1},
        {"model": MODEL, "samples": 0},
        {"model": MODEL, "samples": "1"},
        {"model": MODEL, "runs": []},
        {"model": MODEL, "runs": ["fp61"]},
        {"model": MODEL, "inputs": {"x": {"fill": {"path": "a.npy"}}}},
        {"model": MODEL, "inputs": {"x": {"fill": "norm"}}},
        {"model": MODEL, "inputs": {"x": {"shape": [-1]}}},
        {"model": MODEL, "build": {"optimization_level": 6}},
        {"model": MODEL, "tags": ["a b"]},
        {"model": MODEL, "tolerances": [{"cosine": 2}]},
    ],
)
def test_editors_and_harness_agree_on_what_is_valid(validator, body):
    try:
        CaseBody.model_validate(body)
    except ValidationError:
        accepted = False
    else:
        accepted = True
    assert validator.is_valid(body) is accepted
