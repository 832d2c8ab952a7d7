"""What engines make of the sweep and of the models of the score, on a GPU: one file of lines a process.

Run: python -m benchmarks.emulation.measure --env NAME --part 0/4 --out FOLDER [--seconds 240] [--only sweep|models]
Several parts and environments run side by side, as making a context is work of the CPU. `--collect FOLDER` joins the
lines into benchmarks/results/emulation_engines.json.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.emulation.models import catalogue
from benchmarks.emulation.sweep import sweep
from benchmarks.record import RESULTS, record
from benchmarks.spread import no_scheduler
from harness.backends import Plan, Reference, TensorRTCandidate
from harness.backends.requests import shape_ranges
from harness.comparison import compare_tensors
from harness.compiler import kernels_of
from harness.environments import Supervisor, select
from harness.errors import HarnessError
from harness.model import Model, load_model
from harness.tensors import Precision

PRECISIONS = (Precision.FP16, Precision.BF16)
METRICS = ("rmse", "nrmse", "reference_rms", "nonfinite")
_GRAPH = re.compile(r"_myl\d+.*")
KEPT = 1 << 15
"""So many elements of an output are kept beside its metrics."""

Feeds = dict[str, np.ndarray]


def main() -> int:
    """Measure a part, or join parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    no_scheduler(parser, "each GPU gets a --part")
    parser.add_argument("--env")
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--only", choices=("sweep", "models"))
    parser.add_argument("--names", type=Path, help="a file with the names of those to measure, one a line")
    parser.add_argument("--collect", type=Path)
    parser.add_argument(
        "--relist", nargs="*", help="environments that are asked, here, for all kernels of --names"
    )
    options = parser.parse_args()
    if options.collect:
        lines = [json.loads(line) for file in sorted(options.collect.glob("*.jsonl")) for line in file.open()]
        numbers = collected(row for row in lines if row["what"] == "model")
        print(record("emulation_engines", numbers, module="emulation.measure", indent=None))
        return 0
    if options.relist:
        kept = json.loads((RESULTS / "emulation_engines.json").read_text())
        names = (
            set(options.names.read_text().split()) if options.names else {row["name"] for row in kept["rows"]}
        )
        numbers = relisted(kept, names, options.relist)
        print(record("emulation_engines", numbers, module="emulation.measure", indent=None))
        return 0
    number, parts = map(int, options.part.split("/"))
    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.out / f"{options.env}-{options.only or 'all'}-{number}"
    until, arrays = time.monotonic() + options.seconds, {}
    names = set(options.names.read_text().split()) if options.names else None
    supervisor = Supervisor(select(options.env))
    with stem.with_name(f"{stem.name}.jsonl").open("a") as file:
        for place, (what, name, precision, source) in enumerate(_work(options.only)):
            if place % parts != number or (names is not None and name not in names):
                continue
            if time.monotonic() > until:
                break
            row = {"what": what, "name": name, "precision": precision.value, "environment": options.env}
            try:
                model, feeds = source()
                found, kept = _measured(supervisor, model, feeds, precision)
                row |= found
                arrays |= {f"{name}/{precision}/{tensor}": value for tensor, value in kept.items()}
            except HarnessError as error:
                row |= {"release": supervisor.probe().tensorrt, "error": str(error).splitlines()[0][:300]}
            file.write(json.dumps(row) + "\n")
            file.flush()
    np.savez_compressed(stem.with_name(f"{stem.name}.npz"), **arrays)
    supervisor.close()
    return 0


def collected(lines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What is kept of engines: each output's error, once for all releases that gave the same, and the kernels that name
    nodes, each list of them once."""
    lists: dict[str, int] = {}
    rows: dict[str, dict[str, Any]] = {}
    for line in sorted(
        lines, key=lambda line: (line["name"], line["precision"], line["release"], "error" in line)
    ):
        about = {"name": line["name"], "precision": line["precision"]}
        if "error" in line:
            about["error"] = line["error"]
        else:
            kernels = [[_GRAPH.sub("", name), nodes] for name, _, nodes, *_ in line["layers"] if nodes]
            about["kernels"] = lists.setdefault(json.dumps(kernels), len(lists))
            about["kept"] = line["kept"]
            about["outputs"] = {
                name: [_short(metrics[key]) for key in METRICS] for name, metrics in line["outputs"].items()
            }
        row = rows.setdefault(json.dumps(about), {**about, "releases": []})
        if line["release"] not in row["releases"]:
            row["releases"].append(line["release"])
    built = [row for row in rows.values() if "outputs" in row]
    done = {(row["name"], row["precision"], release) for row in built for release in row["releases"]}
    for row in rows.values():
        if "error" in row:  # unless a later try went well
            left = (each for each in row["releases"] if (row["name"], row["precision"], each) not in done)
            row["releases"] = list(left)
    kept = [row for row in rows.values() if row["releases"]]
    return {"metrics": METRICS, "kernels": [json.loads(each) for each in lists], "rows": kept}


def relisted(kept: Mapping[str, Any], names: set[str], environments: Iterable[str]) -> dict[str, Any]:
    """What is kept of engines, with the lists of kernels that compilers of the same releases give on a CPU."""
    lists, rows = list(kept["kernels"]), []
    compilers = [(environment, select(environment)) for environment in environments]
    entries = {entry.name: entry for entry in catalogue()}
    for row in kept["rows"]:
        if row["name"] not in names or "outputs" not in row:
            rows.append(row)
            continue
        model, feeds = entries[row["name"]].made
        left = list(row["releases"])
        for _, compiler in compilers:
            found = kernels_of(
                model, Precision(row["precision"]), compiler, profiles=shape_ranges(model, feeds, {})
            )
            if found.release not in left:
                continue
            left.remove(found.release)
            listed = [
                [_GRAPH.sub("", each.name), each.onnx_nodes] for each in found.kernels if each.onnx_nodes
            ]
            listed = json.loads(json.dumps(listed))
            if listed not in lists:
                lists.append(listed)
            rows.append({**row, "releases": [found.release], "kernels": lists.index(listed)})
        if left:
            rows.append({**row, "releases": left})
    merged: dict[str, dict[str, Any]] = {}
    for row in rows:
        same = json.dumps({key: value for key, value in row.items() if key != "releases"}, sort_keys=True)
        known = merged.setdefault(same, {**row, "releases": []})
        known["releases"] += [each for each in row["releases"] if each not in known["releases"]]
    used = sorted({row["kernels"] for row in merged.values() if "kernels" in row})
    kept_lists = {number: place for place, number in enumerate(used)}
    final = [
        row | ({"kernels": kept_lists[row["kernels"]]} if "kernels" in row else {}) for row in merged.values()
    ]
    return {"metrics": kept["metrics"], "kernels": [lists[number] for number in used], "rows": final}


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _work(only: str | None) -> Iterator[tuple[str, str, Precision, Any]]:
    if only != "models":
        for place, product in enumerate(sweep()):
            for precision in PRECISIONS if place % 8 == 0 else PRECISIONS[:1]:

                def made(product=product) -> tuple[Model, Feeds]:
                    proto, feeds = product.model()
                    return load_model(proto, name=product.name), feeds

                yield "product", product.name, precision, made
    if only != "sweep":
        for precision in PRECISIONS:
            for entry in catalogue():
                yield "model", entry.name, precision, lambda entry=entry: entry.made


def _measured(
    supervisor: Supervisor, model: Model, feeds: Feeds, precision: Precision
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    start = time.perf_counter()
    candidate = TensorRTCandidate(supervisor.environment, model, supervisor=supervisor)
    evaluation = candidate.evaluate(Plan(precision), feeds)
    candidate.close()
    seconds, expected, engine = time.perf_counter() - start, Reference(model).run(feeds), evaluation.engine
    assert engine is not None
    outputs, kept = {}, {}
    for name, reference in expected.items():
        value = np.asarray(evaluation.tensors[name])
        metrics = asdict(compare_tensors(value, reference, dtype=precision.storage_dtype))
        chosen = (
            "rmse",
            "nrmse",
            "reference_rms",
            "nonfinite",
            "nan_count",
            "inf_count",
            "count",
            "mismatch_fraction",
        )
        outputs[name] = {key: _plain(metrics[key]) for key in chosen}
        kept[name] = value.reshape(-1)[:KEPT].astype(
            np.float16 if precision is Precision.FP16 else np.float32
        )
    layers = [[layer.name, layer.kind, list(layer.onnx_nodes), layer.tactic] for layer in engine.layers]
    release = supervisor.probe().tensorrt
    kept_nodes = list(engine.realised.kept)
    return {
        "release": release,
        "outputs": outputs,
        "kept": kept_nodes,
        "layers": layers,
        "seconds": round(seconds, 2),
    }, kept


def _plain(value: Any) -> Any:
    return value if not isinstance(value, float) or np.isfinite(value) else str(value)


if __name__ == "__main__":
    sys.exit(main())
