"""The language of the prompt."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.explore.commands import COMMANDS, Command, Order, parse


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("layers", Command("layers")),
        ("layers b7_* up", Command("layers", ("b7_*", "up"))),
        ("layers by introduced", Command("layers", (), Order.INTRODUCED)),
        ("layers b7_* by max", Command("layers", ("b7_*",), Order.MAX)),
        ("why b7_sq", Command("why", ("b7_sq",))),
        ("keep", Command("keep")),
        ("keep a b", Command("keep", ("a", "b"))),
        ("lower *", Command("lower", ("*",))),
        ("try", Command("try")),
        ("try --engine", Command("try", ("--engine",))),
        ("bisect", Command("bisect")),
        ("bisect /model/layers.3/*", Command("bisect", ("/model/layers.3/*",))),
        ("plot", Command("plot")),
        ("plot a.svg", Command("plot", ("a.svg",))),
        ("undo", Command("undo")),
        ("history", Command("history")),
        ("export", Command("export")),
        ("export some/where", Command("export", ("some/where",))),
        ("help", Command("help")),
        ("? why", Command("help", ("why",))),
        ("quit", Command("quit")),
        ("exit", Command("quit")),
        ("  keep   'a node'  ", Command("keep", ("a node",))),
        (r"why scope\node#1", Command("why", (r"scope\node#1",))),
    ],
)
def test_a_line_is_a_command(line: str, command: object) -> None:
    assert parse(line) == command


@pytest.mark.parametrize("line", ["", "   ", "# a comment", "  # keep b7_*"])
def test_blank_lines_and_comments_are_not_commands(line: str) -> None:
    assert parse(line) is None


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("layrs", "there is no command `layrs`", "did you mean `layers`?"),
        ("Keep x", "there is no command `Keep`", "did you mean `keep`?"),
        ("frobnicate", "there is no command", "`help` lists the commands"),
        ("layers by intro", "cannot be sorted by `intro`", "did you mean `introduced`?"),
        ("layers by", "`by` takes one word", "layers"),
        ("layers by introduced twice", "`by` takes one word", "layers"),
        ("why", "`why` needs NODE", "why NODE"),
        ("why a b", "`why` does not take `b`", "why NODE"),
        ("lower", "`lower` needs PATTERN", "lower PATTERN"),
        ("try engine", "`try` does not take `engine`", "try [--engine]"),
        ("undo 3", "`undo` does not take `3`", "`undo`"),
        ("plot a b", "`plot` does not take `b`", "plot [FILE]"),
        ("help wy", "there is no command `wy`", "did you mean `why`?"),
        ("keep 'a", "a quotation mark is not closed", "quote"),
    ],
)
def test_a_mistake_comes_with_what_to_type_instead(line: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(line)
    assert message in caught.value.message
    assert hint in str(caught.value.hint)


@given(st.text() | st.builds(" ".join, st.lists(st.sampled_from([*COMMANDS, "by", "--engine", "b*", "'"]))))
def test_any_line_is_a_command_or_a_mistake(line: str) -> None:
    with suppress(UsageError):
        parse(line)


def test_every_usage_names_its_command_and_fits_the_help() -> None:
    for name, spec in COMMANDS.items():
        assert spec.usage.split()[0] == name
        assert len(spec.help) <= 60
