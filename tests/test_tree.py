"""The plan of the house: which way imports go, and that a package is entered by its face.

A package is a folder with an `__init__`. Modules of one package import each other directly. From outside a package is
entered by its face: `from harness.case import Case`, never `from harness.case.schema import Case`. The same holds for
packages inside packages. Imports go down the floors below, and never along one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "harness"

FLOORS = (
    ("__main__",),
    ("cli", "pytest_plugin"),
    ("explore",),
    ("report",),
    ("history", "diagnosis", "conversion"),
    ("quantization",),
    ("judge",),
    ("tactics",),
    ("golden",),
    ("search", "comparison", "backends"),
    ("compiler", "cluster"),
    ("model", "environments"),
    ("worker.protocol",),
    ("case",),
    ("tensors", "text"),
    ("errors",),
)
"""From the top to the ground. What is on no floor (`harness` itself, `worker`, `scripts`) has rules of its own, and
nothing on a floor imports it."""

EXCEPTIONS: dict[tuple[str, str], str] = {}
"""(importing module, imported module): why this import may break the rules. An exception that nobody needs fails."""


@dataclass(frozen=True)
class Import:
    """One import statement. `line` is where it stands; `module` and `target` are dotted, without `harness.`."""

    module: str
    target: str
    line: int

    def __str__(self) -> str:
        return f"harness/{self.module.replace('.', '/')}.py:{self.line}: imports harness.{self.target}"


def modules() -> Iterator[tuple[str, bool, Path]]:
    """Dotted name without `harness.`, whether it is the `__init__` of a package, and file of each module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        is_face = parts[-1] == "__init__"
        yield ".".join(parts[:-1] if is_face else parts), is_face, path


def imports(module: str, is_face: bool, source: str) -> Iterator[Import]:
    """The imports of harness in `source`, relative ones resolved."""
    package = module.split(".") if is_face else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "harness" or alias.name.startswith("harness."):
                    yield Import(module, alias.name.partition(".")[2], node.lineno)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - (node.level - 1)]
                target = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            elif node.module and node.module.split(".")[0] == "harness":
                target = node.module.partition(".")[2]
            else:
                continue
            for alias in node.names:
                named = f"{target}.{alias.name}".strip(".")
                yield Import(module, named if is_module(named) else target, node.lineno)


def is_module(dotted: str) -> bool:
    """Whether `harness.<dotted>` is a module or a package."""
    path = PACKAGE.joinpath(*dotted.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def is_package(dotted: str) -> bool:
    """Whether `harness.<dotted>` is a package."""
    return (PACKAGE.joinpath(*dotted.split(".")) / "__init__.py").is_file()


def floor(module: str) -> int | None:
    """The floor of a module, counted from the top; None if it stands on none."""
    for number, rooms in enumerate(FLOORS):
        if any(module == room or module.startswith(f"{room}.") for room in rooms):
            return number
    return None


def room(module: str) -> str:
    """The room that a module belongs to."""
    return next(
        (name for rooms in FLOORS for name in rooms if module == name or module.startswith(f"{name}.")),
        module.split(".")[0],
    )


def wrong_way(found: Import) -> bool:
    """Whether an import goes up, or along a floor."""
    if room(found.module) == room(found.target):
        return False
    here, there = floor(found.module), floor(found.target)
    return here is not None and (there is None or there <= here)


def past_the_face(found: Import) -> bool:
    """Whether an import reaches into a package from outside of it."""
    if room(found.target) == found.target:
        return False  # the face of a room
    here, there = found.module.split("."), found.target.split(".")
    common = 0
    while common < min(len(here), len(there)) and here[common] == there[common]:
        common += 1
    # The first part beyond what both share may be named: a module, or a package by its face.
    return len(there) > common + 1


def all_imports() -> list[Import]:
    return [
        found for module, is_face, path in modules() for found in imports(module, is_face, path.read_text())
    ]


def excused(found: Import) -> bool:
    return (found.module, found.target) in EXCEPTIONS


def test_imports_go_down():
    wrong = [str(found) for found in all_imports() if wrong_way(found) and not excused(found)]
    assert not wrong, "imports that do not go down:\n" + "\n".join(wrong)


def test_packages_are_entered_by_their_face():
    wrong = [str(found) for found in all_imports() if past_the_face(found) and not excused(found)]
    assert not wrong, "imports past the face of a package:\n" + "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle():
    graph: dict[str, set[str]] = {}
    for found in all_imports():
        graph.setdefault(found.module, set()).add(found.target)
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_every_module_stands_on_a_floor():
    off = {"", "worker", "scripts"}
    lost = sorted(
        {module for module, _, _ in modules() if floor(module) is None and module.split(".")[0] not in off}
    )
    assert not lost, f"give these a floor in FLOORS: {', '.join(lost)}"


def test_programs_that_are_copied_out_import_nothing_of_harness():
    wrong = [str(found) for found in all_imports() if found.module.split(".")[0] == "scripts"]
    assert not wrong, "imports that a copy of the program does not find:\n" + "\n".join(wrong)


def test_every_exception_is_needed():
    broken = {
        (found.module, found.target) for found in all_imports() if wrong_way(found) or past_the_face(found)
    }
    assert not set(EXCEPTIONS) - broken
