"""What is kept of one release compared with itself on a GPU: the judgement of today says of it what was recorded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.drift_rebuilds import one_release_twice
from benchmarks.record import RESULTS

KEPT = sorted((RESULTS / "rebuilds").glob("*.parquet"))


def test_rebuilds_of_real_engines_are_no_drift() -> None:
    found = one_release_twice(KEPT)
    recorded = json.loads((RESULTS / "drift_rebuilds.json").read_text())["one_release_twice"]
    assert found == recorded
    judged = [rows[kind] for rows in found.values() for kind in ("output", "layer")]
    assert sum(rows["comparisons"] for rows in judged) >= 1000
    assert sum(rows["alarms"] for rows in judged) == 0


def test_a_release_that_errs_ten_times_as_much_is_an_alarm(tmp_path: Path) -> None:
    (kept,) = (path for path in KEPT if "rmsnorm-mlp" in set(pq.read_table(path)["case"].to_pylist()))
    path = tmp_path / kept.name
    shutil.copyfile(kept, path)
    table = pq.read_table(path)
    rows = table.to_pandas().astype({"release": str, "hash": object})
    newer = rows["release"].str.endswith("-again")
    rows.loc[newer, "error"] *= 10
    rows.loc[newer & rows["hash"].notna(), "hash"] = "other bits"
    pq.write_table(pa.Table.from_pandas(rows, schema=table.schema, preserve_index=False), path)
    (found,) = one_release_twice([path]).values()
    assert {run["case"] for run in found["runs_alarmed"]} >= {"lstm", "rmsnorm-mlp"}
    assert found["layer"]["alarms"] > 100
