"""docs/tactics.md says what is so: its table follows the contract data, the tests that it names exist."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "tactics.md").read_text("utf-8")
sys.path.insert(0, str(ROOT / "tests" / "worker" / "contract"))

import trt_double  # noqa: E402

from harness.worker.adapter.release import Release  # noqa: E402
from harness.worker.adapter.tactics.tactics import mechanism_of  # noqa: E402

RELEASES = trt_double.releases()


def rows() -> list[list[str]]:
    table = TEXT[TEXT.index("| releases |") :]
    lines = table[: table.index("\n\n")].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def described() -> dict[str, list[str]]:
    """Each release with the row that speaks of it."""
    found = {}
    for first, *cells in rows():
        start, _, end = first.removeprefix("TensorRT for RTX ").partition(" to ")
        for release in RELEASES[RELEASES.index(start) : RELEASES.index(end or start) + 1]:
            found[release] = cells
    return found


def test_every_release_is_in_the_table() -> None:
    assert tuple(described()) == RELEASES


@pytest.mark.parametrize("release", RELEASES)
def test_a_row_of_the_table_is_what_the_release_offers(release: str) -> None:
    offers = Release.of(trt_double.make(release))
    selector, cache = offers.offers("algorithm_selector"), offers.offers("editable_timing_cache")
    mechanism = "editable timing cache" if mechanism_of(offers, "auto") == "cache" else "algorithm selector"
    if selector and cache:
        mechanism += ", algorithm selector on request"
    formats = ["strides"] if selector else ["not reported"]
    formats += ["layout"] if offers.offers("algorithm_layouts") else []
    formats += ["vectors"] if offers.offers("algorithm_vectors") else []
    features = ("editable_timing_cache", "error_on_timing_cache_miss", "optimization_level", "build_routes")
    answers = ["yes" if offers.offers(feature) else "no" for feature in features]
    assert described()[release] == [mechanism, ", ".join(formats), *answers]


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`((?:tests/[\w/]+\.py)?(?:::[\w…]+)+)`", TEXT)
    assert len(named) > 20
    file = ""
    for reference in named:
        path, *names = reference.split("::")
        file = path or file
        source = (ROOT / file).read_text("utf-8")
        for name in names:
            assert re.search(rf"(?:def|class) {name.rstrip('…')}", source), f"{file} has no {name}"


def test_every_file_that_is_named_exists() -> None:
    for path in re.findall(r"`((?:tests|benchmarks|docs)/[\w/.-]+\.(?:py|md|json))", TEXT):
        assert (ROOT / path).is_file(), path
