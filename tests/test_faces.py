"""The public surface: each name that a package of harness offers, pinned in `faces.txt`.

A face is the `__init__.pyi` of a package, or its `__init__.py` where it has no stub; `errors` is one module. After a
change that is meant, write the file anew: `python tests/test_faces.py`.
"""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "harness"
PINNED = Path(__file__).with_name("faces.txt")


def faces() -> dict[str, list[str]]:
    """The public names of each package, by its dotted name without `harness.`; those of harness itself under ''."""
    found = {}
    for init in sorted(PACKAGE.rglob("__init__.py")):
        stub = init.with_suffix(".pyi")
        if not stub.exists() and "lazy_loader" in init.read_text():
            continue
        names = public_names(stub if stub.exists() else init)
        if names:
            found[".".join(init.parent.relative_to(PACKAGE).parts)] = names
    tree = ast.parse((PACKAGE / "errors.py").read_text())
    found["errors"] = sorted(node.name for node in tree.body if isinstance(node, ast.ClassDef))
    return found


def public_names(face: Path) -> list[str]:
    """The names that a face imports from its own package."""
    return sorted(
        alias.asname or alias.name
        for node in ast.parse(face.read_text()).body
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names
        if not (alias.asname or alias.name).startswith("_")
    )


def lines(found: dict[str, list[str]]) -> list[str]:
    """One line a name, so that two changes of one face can be merged."""
    return [
        f"harness{'.' if package else ''}{package}: {name}" for package in found for name in found[package]
    ]


def test_the_public_surface_is_the_pinned_one():
    now, pinned = lines(faces()), PINNED.read_text().splitlines()
    came = [f"+ {line}" for line in now if line not in pinned]
    went = [f"- {line}" for line in pinned if line not in now]
    assert not came + went, "\n".join(
        ["the public surface changed; if it is meant, run `python tests/test_faces.py`:", *came, *went]
    )
    assert pinned == now, "faces.txt is not in order: run `python tests/test_faces.py`"


@pytest.mark.parametrize("package", faces())
def test_each_public_name_is_there(package: str):
    module = import_module(f"harness.{package}" if package else "harness")
    missing = [name for name in faces()[package] if not hasattr(module, name)]
    assert not missing


def test_no_two_packages_offer_different_things_under_one_name():
    offered: dict[str, dict[str, object]] = {}
    for package, names in faces().items():
        module = import_module(f"harness.{package}" if package else "harness")
        for name in names:
            offered.setdefault(name, {})[f"harness.{package}".rstrip(".")] = getattr(module, name)
    different = [
        f"{name}: {', '.join(found)}"
        for name, found in offered.items()
        if any(each != next(iter(found.values())) for each in found.values())
    ]
    assert not different, "call one of them something else:\n" + "\n".join(different)


if __name__ == "__main__":
    PINNED.write_text("\n".join(lines(faces())) + "\n")
