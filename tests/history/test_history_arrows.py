"""What the history may import: rooms below it, and its own modules without a circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOM = Path(__file__).parents[2] / "harness" / "history"
ABOVE = {"cli", "pytest_plugin", "report", "diagnose", "explore"}


def imported(path: Path) -> set[str]:
    """The modules of harness that `path` imports, also for type checkers and inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    froms = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {name for name in froms if name.startswith("harness.")}


def test_the_history_imports_no_room_above_it() -> None:
    found = {path.name: {name.split(".")[1] for name in imported(path)} & ABOVE for path in ROOM.glob("*.py")}
    assert {name: rooms for name, rooms in found.items() if rooms} == {}


def test_its_modules_import_each_other_in_no_circle() -> None:
    modules = [path for path in ROOM.glob("*.py") if path.stem != "__init__"]
    graph = {
        path.stem: {name.rpartition(".")[2] for name in imported(path) if name.startswith("harness.history.")}
        for path in modules
    }
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError
