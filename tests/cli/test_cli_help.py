"""`--help` of every command, in a terminal of 80 columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
import typer.main

from harness.cli import COMMANDS, app, main
from harness.cli.options import history_path
from harness.tensors import typed_path

OF_TYPER = "Usage harness OPTIONS ARGS COMMAND Options Arguments Commands default required h x 1 0"
"""Words that are in no help text of ours."""


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The words and the command of `group` and all commands below it."""
    yield words, group
    for name, inner in getattr(group, "commands", {}).items():
        loaded = COMMANDS[name].load(name) if group.name == "harness" else inner
        yield from commands(loaded, (*words, name))


ALL = dict(commands(typer.main.get_command(app)))


def texts(command: Any) -> str:
    """Everything that the help of a command is made from."""
    parts = [command.help, command.epilog, *(name for name in getattr(command, "commands", ()))]
    parts += [inner.help for inner in getattr(command, "commands", {}).values()]
    for option in command.get_params(typer.Context(command)):
        parts += [option.help, option.metavar, *option.opts, *option.secondary_opts, str(option.default)]
    return " ".join(filter(None, parts))


def words_of(*texts: str) -> set[str]:
    return set(re.findall(r"\w+", " ".join(texts)))


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_help_fits_80_columns_and_breaks_no_word(words: tuple[str, ...], monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    assert main([*words, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    known = words_of(texts(ALL[words]), *words, OF_TYPER)
    known |= words_of(*(getattr(option, "rich_help_panel", None) or "" for option in ALL[words].params))
    unknown = words_of(*lines) - known
    assert not unknown, "parts of broken words"


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_paragraphs_of_a_help_flow(words: tuple[str, ...], monkeypatch, capsys) -> None:
    """A line ends where the next word has no room, not where a line of the source ends."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    main([*words, "--help"])
    text = capsys.readouterr().out.split("╭")[0].split("Usage:")[1]
    for paragraph in re.split(r"\n\s*\n", text)[1:]:
        lines = paragraph.strip("\n").splitlines()
        for line, after in pairwise(lines):
            assert len(line.rstrip()) + 1 + len(after.split()[0]) > 79, line


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_path_is_read_in_one_place(words: tuple[str, ...]) -> None:
    """So that `~` is expanded in all of them."""
    callback = ALL[words].callback
    for option in ALL[words].params:
        parser = option.type_descriptor.parameter_info.parser
        annotation = option.type_descriptor.annotation
        if Path in (annotation, *get_args(annotation)):
            assert parser in (typed_path, history_path), f"{callback}: {option.name}"


def test_the_place_of_a_history_is_a_path_like_others_unless_it_is_a_url(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert history_path("~/nights") == typed_path("~/nights") == Path("/home/me/nights")
    assert str(history_path("memory://nights")) == "memory://nights"
