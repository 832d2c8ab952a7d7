"""The journal on disk: round trips, damage, the wrong problem, a second writer."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_oracles import Counting, conjunction, names

from harness.errors import JournalError
from harness.search import Journal, Outcome, Problem, Trial, search
from harness.search.journal import Record

PROBLEM = Problem(names(20), identity="a model")
CULPRITS = ("n3", "n11")

numbers = st.none() | st.floats(allow_nan=False)
trials = st.builds(
    Trial, st.sampled_from(Outcome), badness=numbers, margin=numbers, seconds=numbers, note=st.text()
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "journal.jsonl"


def write_a_search(path: Path) -> int:
    with Journal.create(path, PROBLEM) as journal:
        return search(PROBLEM, conjunction(CULPRITS), journal=journal).evaluations


@settings(max_examples=40)
@given(st.lists(st.tuples(st.frozensets(st.sampled_from(PROBLEM.units)), trials), max_size=5))
def test_what_is_written_is_read_back_exactly(written):
    with TemporaryDirectory() as folder:
        path = Path(folder, "journal")
        for treated, trial in written:  # opened anew for each, as after a crash
            with Journal.resume(path, PROBLEM) as journal:
                journal.append(treated, trial)
        with Journal.resume(path, PROBLEM) as journal:
            assert journal.records == tuple(Record(*each) for each in written)


def test_a_badness_that_is_not_a_number_survives(path):
    with Journal.create(path, PROBLEM) as journal:
        journal.append(frozenset(), Trial(Outcome.FAIL, math.nan, -math.inf))
    with Journal.resume(path, PROBLEM) as journal:
        (record,) = journal.records
    assert math.isnan(record.evaluation.badness)
    assert record.evaluation.margin == -math.inf


def test_lines_are_readable_json_with_ranges_of_positions(path):
    with Journal.create(path, PROBLEM) as journal:
        journal.append(frozenset(names(4)) | {"n9"}, Trial(Outcome.PASS, 0.5, 0.25, 2.0, "fine"))
    line = path.read_text().splitlines()[1]
    assert line == (
        '{"treated": "0-3,9", "outcome": "pass", "badness": 0.5, "margin": 0.25, "seconds": 2.0, "note": "fine"}'
    )


def test_a_file_torn_at_any_byte_loses_its_last_line_only(path):
    write_a_search(path)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    ends = [sum(map(len, lines[: number + 1])) for number in range(len(lines))]
    for size in (0, 1, ends[0] - 1, ends[0], *range(ends[-2] - 1, ends[-1] + 1)):
        path.write_bytes(whole[:size])
        with Journal.resume(path, PROBLEM) as journal:
            assert len(journal.records) == max(sum(end <= size for end in ends) - 1, 0)
        assert path.read_bytes() == whole[: max([end for end in ends if end <= size], default=ends[0])]


def test_a_search_goes_on_after_a_torn_line(path):
    total = write_a_search(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    oracle = Counting(conjunction(CULPRITS))
    with Journal.resume(path, PROBLEM) as journal:
        result = search(PROBLEM, oracle, journal=journal)
    assert result.culprits == CULPRITS
    assert len(oracle.asked) == 1
    with Journal.resume(path, PROBLEM) as journal:
        assert len(journal.records) == total


def test_a_last_line_of_zeros_as_a_power_cut_leaves_it_is_dropped(path):
    total = write_a_search(path)
    with path.open("ab") as file:
        file.write(b"\0" * 40 + b"\n")
    with Journal.resume(path, PROBLEM) as journal:
        assert len(journal.records) == total


@pytest.mark.parametrize(
    "damage", [b"nonsense", b"{}", b'{"treated": "99", "outcome": "pass"}', b'{"treated": 4}', b"[]"]
)
def test_a_damaged_line_in_the_middle_is_refused_with_its_number(path, damage):
    write_a_search(path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = damage + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(JournalError, match=r"journal\.jsonl:3: this line of the journal is damaged"):
        Journal.resume(path, PROBLEM)
    assert path.read_bytes() == b"".join(lines)


def test_the_journal_of_another_problem_is_refused(path):
    write_a_search(path)
    before = path.read_bytes()
    with pytest.raises(JournalError, match="belongs to another problem: it has 20 units"):
        Journal.resume(path, Problem(names(21), identity="a model"))
    with pytest.raises(JournalError, match="start the search again"):
        Journal.resume(path, Problem(names(20), identity="another model"))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("hello\n", "not the journal of a search"),
        ("[1]\n", "not the journal of a search"),
        ('{"schema": "harness.search-journal/9", "problem": "", "units": 1}\n', "unknown schema"),
    ],
)
def test_another_file_is_refused_and_left_alone(path, first, message):
    path.parent.mkdir()
    path.write_text(first)
    with pytest.raises(JournalError, match=message):
        Journal.resume(path, PROBLEM)
    assert path.read_text() == first


def test_create_starts_anew(path):
    write_a_search(path)
    Journal.create(path, PROBLEM).close()
    with Journal.resume(path, PROBLEM) as journal:
        assert journal.records == ()


def test_a_second_writer_is_kept_out_until_the_first_is_gone(path):
    script = "import sys, time; from harness.search import *; from pathlib import Path\n"
    script += (
        f"j = Journal.create(Path({str(path)!r}), Problem(('a',)))\nprint('open', flush=True)\ntime.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(JournalError, match="another process is writing"):
            Journal.resume(path, Problem(("a",)))
    finally:
        process.kill()
        process.communicate()
    Journal.resume(path, Problem(("a",))).close()


def test_a_closed_journal_takes_nothing(path):
    journal = Journal.create(path, PROBLEM)
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match="closed"):
        journal.append(frozenset(), Trial(Outcome.PASS))
