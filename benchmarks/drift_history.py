"""The drift page of the newest night of a long history: how long it takes, and how much memory.

    python -m benchmarks.drift_history [--nights 365] [--cases 50] [--layers 300] [--write]

A history is generated in a temporary folder (5.5 million rows by default), with a step in one case and a fault in
the newest night of another. Then, each in a process of its own: pandas reads the columns that the judgement needs
from the files of the newest night and the thirty before it; the page of the newest night against those thirty is
made; and `load_history` reads the needed columns of all nights.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from benchmarks.record import record
from benchmarks.spread import no_scheduler
from harness.history.store.schema import METADATA_KEY, NAMES, NEEDED, SCHEMA, arrow_schema

RELEASE = "trt-nightly"
STEPPED, FAULTY = "case-07", "case-21"


def generate(folder: Path, nights: int, cases: int, layers: int) -> None:
    """Write the history: one file a night."""
    stream = np.random.default_rng(0)
    size = cases * layers
    level = 10 ** stream.uniform(-4, -2.5, size)
    spread = np.where(stream.random(size) < 0.7, 0.0, 0.02)  # most tensors repeat their bits every night
    for night in range(nights):
        errors = level * (1 + spread * stream.standard_normal(size))
        write_night(folder, night, nights, cases, layers, errors, spread == 0)


def write_night(
    folder: Path, night: int, nights: int, cases: int, layers: int, errors: np.ndarray, exact: np.ndarray
) -> None:
    size = cases * layers
    case = np.repeat(np.arange(cases), layers)
    layer = np.tile(np.arange(layers), cases)
    if night >= nights // 2:
        errors = np.where(case == int(STEPPED[-2:]), errors * 1.6, errors)
    late = night == nights - 1
    if late:
        faulty = (case == int(FAULTY[-2:])) & (layer >= layers // 3)
        errors = np.where(faulty, errors * 4, errors)
        exact = exact & ~faulty
    if night == nights // 2:
        exact = exact & (case != int(STEPPED[-2:]))
    salt = np.where(exact, 0, night)
    hashes = (case * 1000003 + layer * 1009 + salt * 7919 + (night >= nights // 2)) % (1 << 60)
    output = layer == layers - 1
    day = np.datetime64("2025-01-01") + night
    run = f"{str(day).replace('-', '')}T020000Z-{night:06x}"
    names = np.array([f"case-{number:02d}" for number in range(cases)])
    tensors = np.array([f"t{number}" for number in range(layers)])
    columns: dict[str, Any] = {
        "run": np.full(size, run),
        "case": names[case],
        "case_sha256": np.char.add("sha-", names[case]),
        "model_sha256": np.char.add("model-", names[case]),
        "precision": np.full(size, "fp16"),
        "release": np.full(size, RELEASE),
        "build": np.zeros(size, dtype=np.int64),
        "kind": np.where(output, "output", "layer"),
        "tensor": tensors[layer],
        "sample": np.where(output, 0, -1),
        "index": layer,
        "node": np.char.add("node_", tensors[layer]),
        "op": np.where(layer % 3 == 0, "MatMul", "Add"),
        "reads": [[] if place == 0 else [f"t{place - 1}"] for place in layer],
        "error": errors.astype(np.float32),
        "rmse": errors.astype(np.float32),
        "max_abs": (errors * 5).astype(np.float32),
        "passed": np.ones(size, dtype=bool),
        "hash": np.char.mod("%016x", hashes),
        "distance": np.zeros(size, dtype=np.float32),
    }
    engines = {
        **{name: columns[name][::layers] for name in ("run", "case", "case_sha256", "model_sha256")},
        **{name: columns[name][::layers] for name in ("precision", "release", "build")},
        "kind": np.full(cases, "engine"),
        "sample": np.full(cases, -1),
        "index": np.full(cases, -1),
        "verdict": np.full(cases, "pass"),
        "cause": np.full(cases, "gates hold"),
        "why": np.full(cases, '{"cause":"gates hold"}'),
        "latency_ms": np.full(cases, 1.0 + 0.01 * (night % 5), dtype=np.float32),
        "tensorrt": np.full(cases, "10.13.3.9"),
    }
    document = {
        "schema": SCHEMA,
        "run": run,
        "finished": True,
        "fingerprint": {},
        "releases": [RELEASE],
        "repeats": 1,
        "cases": dict.fromkeys(names.tolist(), ""),
    }
    table = pa.concat_tables([_table(columns, size), _table(engines, cases)]).unify_dictionaries()
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(document)})
    pa.parquet.write_table(table, folder / f"{run}.parquet", compression="zstd")


def _table(columns: dict[str, Any], size: int) -> pa.Table:
    schema = arrow_schema()
    arrays = []
    for name in NAMES:
        kind = schema.field(name).type
        if name not in columns:
            arrays.append(pa.nulls(size, kind))
        elif pa.types.is_dictionary(kind):
            arrays.append(pa.array(columns[name].tolist(), pa.string()).dictionary_encode())
        else:
            arrays.append(pa.array(columns[name], kind))
    return pa.Table.from_arrays(arrays, schema=schema)


def read_by_pandas(folder: Path, last: int) -> dict[str, Any]:
    """What pandas takes to read the needed columns of the newest files."""
    import pandas as pd

    files = sorted(folder.glob("*.parquet"))[-(last + 1) :]
    pd.read_parquet(files[0], columns=list(NEEDED))
    return _timed(lambda: len(pd.concat([pd.read_parquet(file, columns=list(NEEDED)) for file in files])))


def make_page(folder: Path, last: int) -> dict[str, Any]:
    """What the drift page of the newest night takes, from the files to the text."""
    import matplotlib.figure  # noqa: F401 - importing is not what is measured
    import pandas as pd  # noqa: F401

    from harness.history import nightly_report
    from harness.report import drift_page

    found: dict[str, Any] = {}

    def work() -> int:
        report = nightly_report(folder, last=last)
        page = drift_page(report)
        found["bad"] = sorted(run.case for run in report.runs if run.status.value == "fail")
        found["origins"] = [origin.node for run in report.runs for origin in run.origins]
        found["bytes"] = len(page)
        return len(report.records)

    return {**_timed(work), **found}


def load_all(folder: Path, last: int) -> dict[str, Any]:
    """What `load_history` takes for all nights, and the steps of the outputs over them."""
    from harness.history import Floors, load_history
    from harness.history.nightly.series import series_of

    found: dict[str, Any] = {}

    def work() -> int:
        frame = load_history(folder, columns=NEEDED)
        outputs = frame[(frame["kind"] == "output").to_numpy()]
        found["stepped"] = [
            {"case": one.case, "first_night": one.night(step)}
            for one in series_of(outputs, Floors())
            for step in one.steps or ()
        ]
        return len(frame)

    return {**_timed(work, times=1), **found}


def _timed(work: Callable[[], int], times: int = 5) -> dict[str, Any]:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        rows = work()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "rows": rows,
        "seconds": round(statistics.median(seconds), 3),
        "fastest": round(min(seconds), 3),
        "peak_mib": round(peak),
    }


def main() -> None:
    """Generate, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    no_scheduler(parser, "it times what one machine does, which others would disturb")
    parser.add_argument("--nights", type=int, default=365)
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--layers", type=int, default=300)
    parser.add_argument("--last", type=int, default=30)
    parser.add_argument("--write", action="store_true", help="keep the result in benchmarks/results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(folder, arguments.nights, arguments.cases, arguments.layers)
        size = sum(path.stat().st_size for path in folder.glob("*.parquet"))
        numbers: dict[str, Any] = {
            "nights": arguments.nights,
            "rows": arguments.nights * arguments.cases * (arguments.layers + 1),
            "megabytes": round(size / 1e6, 1),
            "last": arguments.last,
        }
        for work in (read_by_pandas, make_page, load_all):  # each in a process of its own, for its own memory
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                numbers[work.__name__] = pool.apply(work, (folder, arguments.last))
    numbers["page_over_read"] = round(
        numbers["make_page"]["seconds"] / numbers["read_by_pandas"]["seconds"], 2
    )
    print(json.dumps(numbers, indent=1))
    if arguments.write:
        print(record("drift_history", numbers))


if __name__ == "__main__":
    main()
