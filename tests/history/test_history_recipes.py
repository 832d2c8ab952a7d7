"""The CI recipes of docs/: they parse, their commands exist, and the cron script runs."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from harness.cli import COMMANDS
from harness.errors import UsageError
from harness.history.matrix.emulated import EmulatedRelease

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RECIPES = {"github.yml": "vendor.github-workflows", "gitlab.yml": "vendor.gitlab-ci"}


def document(name: str) -> Any:
    return YAML(typ="safe").load((DOCS / "ci" / name).read_text())


def scripts(node: Any) -> Iterator[str]:
    """Every shell script in a recipe."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("run", "script", "before_script", "after_script"):
                yield "\n".join(value) if isinstance(value, list) else value
            else:
                yield from scripts(value)
    elif isinstance(node, list):
        for item in node:
            yield from scripts(item)


def fenced(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)


def commands(script: str) -> Iterator[list[str]]:
    """Every `harness …` command of a script, as its words."""
    for line in re.sub(r"\\\n", " ", script).splitlines():
        words = shlex.split(line, comments=True)
        for place, word in enumerate(words):
            if Path(word).name == "harness":
                rest = words[place + 1 :]
                ends = [end for end, other in enumerate(rest) if other in (";", "&&", "||", ">", ">>", "|")]
                yield rest[: ends[0]] if ends else rest


def all_scripts() -> list[str]:
    found = [script for name in RECIPES for script in scripts(document(name))]
    return found + fenced("ci.md", "sh")


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_yaml_with_scripts_that_bash_reads(name: str) -> None:
    found = list(scripts(document(name)))
    assert len(found) >= 4
    for script in found:
        plain = re.sub(r"\$\{\{.*?\}\}", "value", script)
        assert subprocess.run(["bash", "-n", "-c", plain], capture_output=True, check=False).returncode == 0


def test_every_command_of_the_recipes_is_one_that_exists() -> None:
    found = [words for script in all_scripts() for words in commands(script)]
    assert len(found) >= 10
    for name, *rest in found:
        command = COMMANDS[name].load(name)
        while hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        command.make_context(name, list(rest))  # parses, and runs nothing


@pytest.mark.skipif(
    importlib.util.find_spec("check_jsonschema") is None, reason="check-jsonschema is not installed"
)
@pytest.mark.parametrize(("name", "schema"), RECIPES.items())
def test_recipes_keep_to_the_published_schemas(name: str, schema: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, DOCS / "ci" / name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_pytest_has_the_options_that_the_recipes_give_it() -> None:
    joined = [script.replace("\\\n", " ") for script in all_scripts()]
    lines = [line for script in joined for line in script.splitlines() if "pytest cases" in line]
    assert len(lines) == 3
    for line in lines:
        assert "--dist loadgroup" in line
        assert "--harness-env" in line
    assert importlib.util.find_spec("xdist") is not None


def test_the_conftest_of_the_page_is_that_of_this_repository() -> None:
    (block,) = fenced("ci.md", "python")
    assert block.strip() in (ROOT / "conftest.py").read_text()


def test_the_waiver_of_the_page_is_one(tiny_cases) -> None:
    from harness.case import load_case

    (block,) = (block for block in fenced("ci.md", "yaml") if block.startswith("waivers:"))
    path = tiny_cases("clean") / "clean.case.yaml"
    path.write_text(path.read_text() + block)
    assert load_case(path).waivers[0].tensorrt == "==10.13.*"


@pytest.mark.parametrize("fault", [False, True])
def test_the_cron_script_keeps_pages_by_date_and_exits_with_the_verdict(
    tiny_cases, tmp_path: Path, fault: bool
) -> None:
    tiny_cases("clean")
    script = tmp_path / "docs" / "ci" / "nightly.sh"
    script.parent.mkdir(parents=True)
    shutil.copy(DOCS / "ci" / "nightly.sh", script)
    new = "emulator:fp16,noise=0.2,seed=2" + (",plant=square@bf16" if fault else "")
    harness = Path(sys.executable).with_name("harness")
    assert harness.exists(), "harness is not installed as a command beside this Python"
    done = subprocess.run(
        ["bash", script, "emulator:fp16,noise=0.2,seed=1", new],
        capture_output=True,
        text=True,
        env={**os.environ, "HARNESS": str(harness)},
        check=False,
    )
    assert done.returncode == int(fault), done.stderr
    assert len(done.stdout.splitlines()) == 1
    (folder,) = (tmp_path / "reports" / "nightly").iterdir()
    names = {path.name for path in folder.iterdir()}
    assert {"drift.html", "drift.md", "drift.json", "nightly.html"} <= names


def test_releases_in_the_docs_are_written_as_they_must() -> None:
    found = 0
    for path in (*DOCS.rglob("*.md"), ROOT / "README.md"):
        for text in re.findall(r"emulator[:,][A-Za-z0-9_:,=.@/-]+", path.read_text()):
            try:
                EmulatedRelease.parse(text.rstrip(".,:"))
            except UsageError as error:
                raise AssertionError(f"{path.name}: {error}") from None
            found += 1
    assert found, "there are some"
