"""The exception tree: what its errors say, and the data that they carry."""

from __future__ import annotations

import errno
import inspect
from pathlib import Path

import pytest

from harness import errors
from harness.errors import CandidateError, HarnessError, JournalError, Place, WorkerCrashedError

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == errors.__name__
]


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (Place(Path("x.yaml")), "x.yaml"),
        (Place(Path("x.yaml"), 3), "x.yaml:3"),
        (Place(Path("x.yaml"), 3, 5), "x.yaml:3:5"),
    ],
)
def test_a_place_is_a_file_its_line_and_its_column(place: Place, text: str) -> None:
    error = JournalError("is damaged", where=place, hint="delete it")
    assert (error.where, error.place) == (text, place)
    assert str(error) == f"{text}: is damaged (delete it)"


def test_a_file_is_a_place_and_a_case_is_none() -> None:
    assert JournalError("x", where=Path("a")).place == Place(Path("a"))
    assert JournalError("x", where="case mlp").place is None


def test_the_error_of_an_environment_has_its_name_and_says_it() -> None:
    error = WorkerCrashedError("the worker was killed", signal=9, environment="trt-8.6", evidence=["Killed"])
    assert (error.environment, error.signal, error.evidence) == ("trt-8.6", 9, ("Killed",))
    assert str(error) == "environment trt-8.6: the worker was killed"
    assert str(CandidateError("x", environment="a", where="the plan")) == "the plan: x"


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_every_error_is_one_of_the_tree_and_has_an_exit_status(error: type[Exception]) -> None:
    assert issubclass(error, HarnessError)
    assert error.exit_code > 1  # 1 says that something was judged and fails


def test_an_error_of_the_system_says_what_to_do() -> None:
    full = errors.of_system(OSError(errno.ENOSPC, "No space left on device", "/data/x.json"))
    assert full is not None
    assert (full.where, full.exit_code, full.hint) == (
        "/data/x.json",
        2,
        "free some space, or write to another disk",
    )
    long = errors.of_system(OSError(errno.ENAMETOOLONG, "File name too long", "a" * 5000))
    assert long is not None
    assert len(str(long)) < 300
    assert errors.of_system(OSError(errno.EBADF, "Bad file descriptor")) is None


def test_an_internal_error_keeps_its_traceback() -> None:
    try:
        raise ZeroDivisionError("of our own making")
    except ZeroDivisionError as error:
        found = errors.InternalError.of(error)
    assert found.message == "internal error: ZeroDivisionError: of our own making"
    assert any("test_errors.py" in line for line in found.evidence)
