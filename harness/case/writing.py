"""What helps to write case files: a first one for a model, and the JSON schema that editors check them by."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from harness.case.feeds import TensorLike
from harness.case.fills import DrawnFill
from harness.case.scalars import Frozen
from harness.case.schema import MODEL_SOURCES, CaseBody

SCHEMA_FILE = "case.schema.json"

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_BATCH = (1, 1, 8)  # min, opt and max that are guessed for a dynamic first axis …
_LENGTH = (1, 16, 64)  # … and for any other


def case_template(
    inputs: Sequence[TensorLike], *, model: str, schema: str, fills: Mapping[str, DrawnFill] | None = None
) -> str:
    """The text of a case file.

    Args:
        inputs: the inputs of the model.
        model: path of the model, as the case file should say it.
        schema: path of the JSON schema, seen from the case file.
        fills: by input, what its use in the graph asks for.
    """
    lines = [
        f"# yaml-language-server: $schema={schema}",
        "# With the schema, editors complete and explain every key: harness case schema --out FILE",
        "",
        "model:",
        f"  path: {_quote(model)}",
        "",
    ]
    if inputs:
        lines.append("inputs:")
        sizes: dict[str, tuple[int, int, int]] = {}
        for info in inputs:
            lines += _input(info, sizes, (fills or {}).get(info.name))
        lines.append("")
    lines += [
        "samples: 1  # sets of inputs to judge",
        "seed: 0",
        "",
        "runs:  # fp32, tf32, fp16, bf16, fp8, int8",
        "  - fp32",
        "  - fp16",
        "  # - precision: bf16  # a run that is known to fail",
        "  #   expect: fail",
        "  #   reason: why",
        "",
        "# Without tolerances, the default gates of each precision apply.",
        "# tolerances:",
        "#   - {precision: fp16, nrmse: 1e-2}",
    ]
    return "\n".join(lines) + "\n"


def _input(info: TensorLike, sizes: dict[str, tuple[int, int, int]], fill: DrawnFill | None) -> list[str]:
    lines = [f"  {_quote(info.name)}:", f"    dtype: {info.dtype}"]
    if info.shape is None:
        lines.append("    shape: []  # SET THIS: the model does not say how many axes there are")
    else:
        smallest, likely, largest = (
            zip(*(_sizes(axis, dim, sizes) for axis, dim in enumerate(info.shape)), strict=True)
            if info.shape
            else ((), (), ())
        )
        dynamic = [
            f"{axis} ({dim})" if dim else str(axis)
            for axis, dim in enumerate(info.shape)
            if not isinstance(dim, int)
        ]
        lines.append(f"    shape: {list(likely)}")
        if dynamic:
            axes = ("axes " if len(dynamic) > 1 else "axis ") + ", ".join(dynamic)
            lines[-1] += f"  # dynamic: {axes}; these sizes and the ranges below are guesses, set them"
            lines += [f"    min: {list(smallest)}", f"    opt: {list(likely)}", f"    max: {list(largest)}"]
    lines.append(f"    {_fill(info.dtype, fill)}")
    return lines


def _sizes(axis: int, dim: int | str | None, sizes: dict[str, tuple[int, int, int]]) -> tuple[int, int, int]:
    """Smallest, likely and largest size of an axis; an axis of one name has one size everywhere."""
    if isinstance(dim, int):
        return dim, dim, dim
    guess = _BATCH if axis == 0 else _LENGTH
    return sizes.setdefault(dim, guess) if dim else guess


def _fill(dtype: str, guessed: DrawnFill | None) -> str:
    if guessed is not None:
        given = guessed.model_dump(exclude_unset=True, exclude_none=True)
        entries = ", ".join(f"{name}: {value}" for name, value in {"kind": guessed.kind, **given}.items())
        return f"fill: {{{entries}}}" if given else f"fill: {guessed.kind}"
    if "float" in dtype:
        return "fill: normal  # or uniform, a number, {kind: file, path: data.npy}"
    if dtype in ("bool", "int8", "uint8"):
        return "fill: integers" if dtype == "bool" else f"fill: {_integers(*_EIGHT_BITS[dtype])}"
    return f"fill: {_integers(0, 2)}  # SET THIS: the graph does not show what these numbers are"


_EIGHT_BITS = {"int8": (-128, 128), "uint8": (0, 256)}


def _integers(low: int, high: int) -> str:
    return f"{{kind: integers, low: {low}, high: {high}}}"


def _quote(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _SPECIAL:
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


_SPECIAL = ("true", "false", "null", "y", "n", "yes", "no", "on", "off")


def case_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a case file."""
    schema = CaseBody.model_json_schema()
    definitions = schema["$defs"]
    for kind in _parts_of(Frozen):
        made = schema if kind is CaseBody else definitions.get(kind.__name__, {})
        fields: dict[str, Any] = made.get("properties", {})
        for name, text in _docstrings(kind).items() if fields else ():
            fields[name] = dict(sorted({**fields[name], "description": text}.items()))
    for name in definitions:
        if name.endswith("Fill"):
            required = definitions[name].setdefault("required", [])
            required.insert(0, "kind")  # it has a default in Python, but a file must say it
    definitions["ModelSource"]["oneOf"] = [{"required": [key]} for key in MODEL_SOURCES]
    _tidy(schema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "harness case",
        "description": "One model, its inputs, its runs and their tolerances.",
    }


def _parts_of(kind: type[Frozen]) -> Iterator[type[Frozen]]:
    """`kind` and all that derive from it."""
    yield kind
    for each in kind.__subclasses__():
        yield from _parts_of(each)


def _docstrings(kind: type[Frozen]) -> dict[str, str]:
    """By field of a model, its own or inherited, the text below it.

    pydantic would read them when the model is made, by every command, from the source.
    """
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__[: kind.__mro__.index(Frozen)]):
        body = ast.parse(inspect.getsource(each)).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in pairwise(body.body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                    found[name] = inspect.cleandoc(words)
    return found


def case_schema_text() -> str:
    """The text of `case.schema.json`."""
    return json.dumps(case_schema(), indent=2, ensure_ascii=False) + "\n"


def _tidy(schema: Any) -> None:
    """Drop what only repeats: titles made from the names of fields, and defaults of nothing."""
    if isinstance(schema, list):
        for item in schema:
            _tidy(item)
    elif isinstance(schema, dict):
        for field in schema.get("properties", {}).values():
            field.pop("title", None)
            if field.get("default", "") in (None, [], {}):
                del field["default"]
        if isinstance(schema.get("description"), str):
            schema["description"] = schema["description"].replace("\n", " ")
        for item in schema.values():
            _tidy(item)
