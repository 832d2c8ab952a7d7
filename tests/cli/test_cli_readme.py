"""The README's commands, as a newcomer types them from the top."""

from __future__ import annotations

import re
from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_shapes_stand_in_quotes_as_brackets_are_globs_to_a_shell() -> None:
    given = re.findall(r"^(?:\$ )?harness .*--input (.*)", README, re.MULTILINE)
    assert given
    assert all(re.match(r"'[^']+:\[[\d,]+\]'", shape) for shape in given)
