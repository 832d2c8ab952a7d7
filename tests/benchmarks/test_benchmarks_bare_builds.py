import sys
import time

import pytest

from benchmarks.bare_builds import Tally, merged, watch

BEGIN = "import os, signal, sys, time\nprint('tensorrt 8.6.0', flush=True)\nprint('built', flush=True)\n"


def tally_of(code: str, seconds: float = 60.0, patience: float = 30.0) -> Tally:
    tally = Tally()
    until = time.monotonic() + seconds
    release = watch([sys.executable, "-c", BEGIN + code], tally, until=until, patience=patience)
    assert release == "8.6.0"
    return tally


@pytest.mark.parametrize(
    ("code", "crashed"),
    [("os.kill(os.getpid(), signal.SIGSEGV)", {"SIGSEGV": 1}), ("sys.exit(3)", {"exit 3": 1})],
)
def test_a_process_that_ends_by_itself_has_crashed(code: str, crashed: dict[str, int]) -> None:
    tally = tally_of(code)
    assert (tally.built, tally.crashed, tally.hung) == (1, crashed, 0)


def test_a_process_that_builds_nothing_for_long_hangs_and_is_killed() -> None:
    began = time.monotonic()
    tally = tally_of("time.sleep(600)", patience=1.0)
    assert (tally.built, tally.crashed, tally.hung) == (1, {}, 1)
    assert time.monotonic() - began < 60


def test_a_build_that_is_under_way_when_the_time_is_over_is_counted_as_nothing() -> None:
    tally = tally_of("print('none', flush=True)\ntime.sleep(600)", seconds=1.5, patience=30.0)
    assert (tally.built, tally.none, tally.crashed, tally.hung) == (1, 1, {}, 0)


def test_tallies_add_up() -> None:
    total = merged([Tally(2, 0, {"SIGSEGV": 1}, 0, 1, [1.0]), Tally(3, 1, {"SIGSEGV": 2}, 1, 2, [2.0])])
    assert total == Tally(5, 1, {"SIGSEGV": 3}, 1, 3, [1.0, 2.0])
