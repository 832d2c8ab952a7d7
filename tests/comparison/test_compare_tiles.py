"""How tensors are cut, and that mapped memory is given back, but never at the cost of changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.comparison import compare_tensors
from harness.comparison.accumulator import TiledArray, tiles

CHILD = r"""
import re, sys
import numpy as np
from harness.comparison import compare_tensors
pair = [np.memmap(path, np.float32, "r").reshape(-1, 512) for path in sys.argv[1:]]
found = compare_tensors(*pair)
assert found.count == pair[0].size and found.max_abs == 0
print(re.search(r"VmHWM:\s*(\d+) kB", open("/proc/self/status").read())[1])
"""
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@given(size=st.integers(0, 400), columns=st.integers(0, 50), tile=st.integers(1, 60))
def test_tiles_cover_everything_once_and_respect_rows(size: int, columns: int, tile: int) -> None:
    size -= size % max(columns, 1)
    ranges = list(tiles(size, columns, tile))
    assert [index for start, stop in ranges for index in range(start, stop)] == list(range(size))
    assert all(0 < stop - start <= tile for start, stop in ranges)
    if columns > tile:
        assert all(start // columns == (stop - 1) // columns for start, stop in ranges)
    elif columns:
        assert all(start % columns == stop % columns == 0 for start, stop in ranges)


@on_linux
def test_mapped_tensors_are_read_without_keeping_them_in_memory(tmp_path: Path) -> None:
    paths = [tmp_path / "candidate", tmp_path / "reference"]
    for path in paths:
        with path.open("wb") as file:
            file.truncate(192 << 20)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, paths)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) * 1024 < 128e6


@on_linux
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_what_was_written_to_a_mapping_survives(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "values"
    np.arange(1 << 22, dtype=np.float32).tofile(path)
    mapped = np.memmap(path, np.float32, mode)  # type: ignore[call-overload]
    if mode != "r":
        mapped[:5] = -1
    before = mapped[:10].tolist()
    assert compare_tensors(mapped, np.array(mapped)).max_abs == 0
    assert mapped[:10].tolist() == before


def test_slices_of_a_mapping_find_their_place_in_it(tmp_path: Path) -> None:
    path = tmp_path / "values"
    values = np.arange(6 << 20, dtype=np.float32)
    values.tofile(path)
    mapped = np.memmap(path, np.float32, "r", offset=4096 * 3)[1000:].view(np.ndarray)
    tiled = TiledArray(mapped)
    tiled.drop(0, 100_000)
    np.testing.assert_array_equal(tiled[: 1 << 20], values[3 * 1024 + 1000 :][: 1 << 20])
    tiled.drop(1 << 20, mapped.size)
    assert compare_tensors(mapped, values[3 * 1024 + 1000 :]).max_abs == 0
