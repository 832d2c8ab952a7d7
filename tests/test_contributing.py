"""What CONTRIBUTING says of the tree is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return TEXT.split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_layout_lists_every_package():
    listed = set(re.findall(r"^\| `harness/([a-z_]+)(?:/|\.py)`", section("Layout"), re.MULTILINE))
    packages = {path.parent.name for path in ROOT.glob("harness/*/__init__.py")}
    modules = {path.stem for path in ROOT.glob("harness/*.py")} - {"__init__", "__main__"}
    assert listed == packages | modules


@pytest.mark.parametrize("path", re.findall(r"`([a-z_]+/[\w/.]*)`", section("Layout")))
def test_the_layout_names_what_exists(path: str):
    packages = [ROOT, *(folder for folder in (ROOT / "harness").rglob("*") if folder.is_dir())]
    assert any((folder / path).exists() for folder in packages), path


ANSWERS = [
    line for line in section("Where is it decided?").splitlines() if line.startswith("| ") and "`" in line
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_is_said_to_be_decided_somewhere_is_there(answer: str):
    places = re.findall(r"(?:`(\w+)` in )?`(harness/[\w/]+\.py)`", answer)
    assert places
    for name, path in places:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert not name or re.search(rf"^(?:def |class ){name}\b|^{name}\b.*=", source, re.MULTILINE), (
            name,
            path,
        )


def test_ten_questions_have_an_answer():
    assert len(ANSWERS) >= 10
