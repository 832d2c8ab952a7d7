"""Limits of size, and of loose types: what a reader can hold in mind, and what a type checker can check."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from test_tree import PACKAGE, modules

FUNCTION_LINES = 80
MODULES_IN_A_FOLDER = 15
LINES = 79_019
"""Of all modules of harness together, docstrings included: some 48,000 judge, diagnose and compare releases, 7,500 say
what converts and cure it, 3,400 quantise, and the rest emulates compilers and judges by slices and other references."""

LOOSE_TYPES = {
    "environments.add_environment(build)": "build options, as a user gives them",
    "text.command(words)": "whatever has a text",
    "tensors.json_schema": "a JSON document",
    "worker.protocol.Choice.place": "a layer with its shapes, or a key of the timing cache",
    "worker.protocol.Choice.variant": "numbers and texts, which ones depends on the release",
    "worker.protocol.from_plain(document)": "what a message holds before it is checked",
    "worker.protocol.message_from_json(document)": "what a message holds before it is checked",
    "worker.protocol.message_to_json": "a JSON document",
}
"""Package and name of an attribute, a parameter or what is returned that has `Any` or `object` in its type: why."""

TYPED_ROOMS = ("diagnosis", "judge", "history", "tactics", "report")
"""Rooms that read what an engine, a run or a row is from fields, never from a dictionary by string."""

DICTIONARIES = {
    "diagnosis.context.journal": "writes lines of JSON",
    "diagnosis.explain.bodies": "attributes of an ONNX node, whose names ONNX has",
    "diagnosis.handover.recipes": "makes a JSON document",
    "diagnosis.results": "makes a JSON document",
    "history.judgement.report": "makes a JSON document",
    "history.store.cells": "what reads a column, by its name",
    "judge.results.report": "makes a JSON document",
    "judge.results.runs": "makes a JSON document",
    "report.figures.canvas": "options of matplotlib",
    "report.figures.releases": "options of matplotlib",
    "report.quantization.page": "values of a template",
    "tactics.record": "makes a JSON document",
    "tactics.samples": "makes a JSON document",
}
"""Module of a typed room that has dictionaries of anything by string: why. None reads what it is from them."""

FACTS = {"facts", "fingerprint", "environment", "probe", "engine", "result", "record", "signature"}
"""What facts are called where they are at hand."""

JSON = {"to_dict", "from_dict", "to_json", "from_json"}
"""Functions that make and read JSON documents of users: `Any` is the type of those."""


def functions() -> Iterator[tuple[str, int]]:
    """Package and name of each function, and its lines."""
    for module, _, path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                yield f"{module.rpartition('.')[0]}.{node.name}", lines


def folders() -> Iterator[tuple[str, int]]:
    """Each package, and how many modules are in its folder."""
    for init in sorted(PACKAGE.rglob("__init__.py")):
        name = ".".join(init.parent.relative_to(PACKAGE).parts)
        yield name, sum(path != init for path in init.parent.glob("*.py"))


def public_definitions() -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Each function and class that one package of harness offers the others."""
    for package in (
        *(path.parent for path in sorted(PACKAGE.glob("*/__init__.py"))),
        PACKAGE / "worker/protocol",
    ):
        for name, module in names_of(package).items():
            definition = find(package, module, name)
            if definition is not None:
                yield f"{'.'.join(package.relative_to(PACKAGE).parts)}.{name}", definition


def names_of(package: Path) -> dict[str, str]:
    """The names of a face, and the module that each comes from."""
    face = package / "__init__.pyi" if (package / "__init__.pyi").is_file() else package / "__init__.py"
    return {
        alias.name: node.module or ""
        for node in ast.parse(face.read_text()).body
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names
    }


def find(package: Path, module: str, name: str) -> ast.FunctionDef | ast.ClassDef | None:
    """The definition of a public name, through the faces between. None: it is a constant or an alias."""
    path = package.joinpath(*module.split("."))
    if (path / "__init__.py").is_file() and name in names_of(path):
        return find(path, names_of(path)[name], name)
    source = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node
    return None


def loose_types() -> Iterator[str]:
    """What faces offer and the type checker cannot check."""
    for name, definition in public_definitions():
        if isinstance(definition, ast.FunctionDef):
            yield from loose_in_signature(name, definition)
            continue
        for node in definition.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                if not node.target.id.startswith("_") and is_loose(node.annotation):
                    yield f"{name}.{node.target.id}"
            elif isinstance(node, ast.FunctionDef) and (node.name == "__init__" or node.name[0] != "_"):
                yield from loose_in_signature(f"{name}.{node.name}", node)


def loose_in_signature(name: str, function: ast.FunctionDef) -> Iterator[str]:
    of = function.args
    arguments = [*of.posonlyargs, *of.args, *of.kwonlyargs, of.vararg, of.kwarg]
    if function.name in JSON:
        return
    for argument in filter(None, arguments):
        if is_loose(argument.annotation):
            yield f"{name}({argument.arg})"
    if is_loose(function.returns):
        yield name


def is_loose(annotation: ast.expr | None) -> bool:
    """Whether `Any` or `object` is in a type."""
    return annotation is not None and any(
        isinstance(node, ast.Name) and node.id in {"Any", "object"} for node in ast.walk(annotation)
    )


def typed_modules() -> Iterator[tuple[str, ast.Module]]:
    """The modules of typed rooms."""
    for module, _, path in modules():
        if module.split(".")[0] in TYPED_ROOMS:
            yield module, ast.parse(path.read_text())


def facts_by_string(tree: ast.Module) -> Iterator[int]:
    """The lines that read `facts["…"]` or `facts.get("…")`, whatever the facts are called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            read, key = node.value, node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            read, key = node.func.value, node.args[0]
        else:
            continue
        name = read.attr if isinstance(read, ast.Attribute) else read.id if isinstance(read, ast.Name) else ""
        if name in FACTS and isinstance(key, ast.Constant) and isinstance(key.value, str):
            yield node.lineno


def has_dictionaries(tree: ast.Module) -> bool:
    """Whether a module has an annotation `dict[str, Any]`, or the like."""
    return any(
        isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id in {"dict", "Mapping"}
        and isinstance(node.slice, ast.Tuple)
        and is_loose(node.slice.elts[-1])
        for node in ast.walk(tree)
    )


def test_facts_are_read_from_fields():
    wrong = [f"{module}:{line}" for module, tree in typed_modules() for line in facts_by_string(tree)]
    assert not wrong, "read a field of a frozen dataclass instead:\n" + "\n".join(wrong)


def test_rows_are_typed():
    found = {module for module, tree in typed_modules() if has_dictionaries(tree)}
    assert found == set(DICTIONARIES), "give rows a dataclass, or say why there is none"


def test_functions_fit_a_screen():
    long = [f"{name}: {lines} lines" for name, lines in functions() if lines > FUNCTION_LINES]
    assert not long, f"more than {FUNCTION_LINES} lines:\n" + "\n".join(long)


def test_folders_are_small():
    crowded = [f"{name}: {count} modules" for name, count in folders() if count > MODULES_IN_A_FOLDER]
    assert not crowded, f"more than {MODULES_IN_A_FOLDER} modules:\n" + "\n".join(crowded)


def test_harness_does_not_grow():
    lines = sum(len(path.read_text().splitlines()) for _, _, path in modules())
    assert lines <= LINES, f"harness/ has {lines} lines, at most {LINES}"


def test_public_names_have_types():
    found = set(loose_types())
    worse = sorted(found - set(LOOSE_TYPES))
    assert not worse, "give these a type without Any and object:\n" + "\n".join(worse)
    mended = sorted(set(LOOSE_TYPES) - found)
    assert not mended, f"typed now, so take them off the list: {', '.join(mended)}"
