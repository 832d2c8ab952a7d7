"""Files of a session: pictures of the error's growth, and recipes that keep nodes in FP32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from harness.diagnosis import Findings, Lab, Verdict, hand_over
from harness.errors import UsageError
from harness.explore.answers import Attempt, Exported
from harness.judge import RunResult
from harness.tensors import typed_path, write_text

PICTURE = "growth-{}.png"
RECIPES = "recipes.sh"
FILES = ("layer_list", "typed_model")
"""Recipes that are no commands, but files."""


def draw(result: RunResult, folder: Path, path: str | None, *, note: str = "") -> Path:
    """Draw the growth of the error of `result` to `path`, by default to a new picture in `folder`.

    Args:
        result: the run.
        folder: of the new picture.
        path: of the picture, if the person named one.
        note: what the title says of the run: `4 nodes in FP32`.

    Raises:
        UsageError: the file is neither a .png nor a .svg, or cannot be written.
    """
    from harness.report import save_error_growth

    fresh = (folder / PICTURE.format(number) for number in count(1))
    target = typed_path(path) if path is not None else next(each for each in fresh if not each.exists())
    with _writing(target):
        return save_error_growth(result, target, note=note)


def write_recipes(lab: Lab, attempt: Attempt, folder: Path) -> Exported:
    """Write the files that a diagnosis hands over for an island, without the repro, and the commands in one file.

    Args:
        lab: whose model it is.
        attempt: the island, evaluated.
        folder: where to.

    Raises:
        UsageError: the folder cannot be written to.
    """
    # By hand it was shown that this island passes, not what kind of fault it cures.
    found = Findings(Verdict.UNRESOLVED, culprits=attempt.kept, island=attempt.kept, confirmed=attempt.passed)
    with _writing(folder):
        handed = hand_over(lab, found, "", folder)
        commands = {tool: text for tool, text in handed.recipes.items() if tool not in FILES}
        write_text(folder / RECIPES, "".join(f"# {tool}\n{text}\n\n" for tool, text in commands.items()))
        files = sorted(path.name for path in folder.iterdir() if path.is_file())
    return Exported(
        folder=folder,
        files=tuple(files),
        commands=tuple(commands.items()),
        evidence=tuple(each.text for each in handed.evidence),
        attempt=attempt,
    )


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        where = problem.filename or target
        raise UsageError(f"cannot be written: {problem.strerror or problem}", where=where) from problem
