"""Every benchmark runs on the workers of a scheduler, or says why not."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
WITH_A_COMMAND_LINE = [
    path.relative_to(TREE).with_suffix("")
    for path in sorted(TREE.glob("benchmarks/**/*.py"))
    if "argparse.ArgumentParser(" in path.read_text(encoding="utf-8")
]


class Seen(Exception):
    """The command line that a benchmark was about to read."""


def command_lines(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The one of a benchmark, or those of its commands where these have any that run."""
    commands = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    if commands and "No --scheduler" not in parser.format_help():
        yield from commands[0].choices.values()
    else:
        yield parser


@pytest.mark.parametrize("path", WITH_A_COMMAND_LINE, ids=lambda path: path.name)
def test_a_benchmark_has_a_scheduler_or_says_why_not(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(parser: argparse.ArgumentParser, *_: object) -> None:
        raise Seen(parser)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", seen)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", seen)
    with pytest.raises(Seen) as raised:
        importlib.import_module(".".join(path.parts)).main()
    (parser,) = raised.value.args
    for each in command_lines(parser):
        told = each.format_help()
        assert ("--scheduler ADDRESS" in told) != ("No --scheduler: " in told), told
