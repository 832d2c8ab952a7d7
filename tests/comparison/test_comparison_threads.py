"""No vector as long as a tensor goes to BLAS, which takes a dot product of it in threads that wait for each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import harness

ROOT = Path(harness.__file__).parent
LONG = ("comparison", "judge", "backends/joining.py", "diagnosis/context/formats.py")
"""What goes through whole tensors."""

DOTS = {"dot", "inner", "vdot", "matmul", "linalg"}


def products(path: Path) -> list[str]:
    """Lines of a module that multiply vectors or matrices with NumPy, outside of `dot`, which takes runs of them."""
    tree = ast.parse(path.read_text())
    own = {
        id(node) for each in ast.walk(tree) if getattr(each, "name", "") == "dot" for node in ast.walk(each)
    }
    found = []
    for node in ast.walk(tree):
        at = isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult)
        named = isinstance(node, ast.Attribute) and node.attr in DOTS and ast.unparse(node.value) == "np"
        if (at or named) and id(node) not in own:
            found.append(f"{path.name}:{node.lineno} {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("room", LONG)
def test_no_vector_as_long_as_a_tensor_goes_to_blas(room: str) -> None:
    place = ROOT / room
    modules = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    assert modules
    assert [line for module in modules for line in products(module)] == []
