"""How well the emulator predicts engines: verdicts and errors, plain, with kernels, with FP16 sums, and with both.

Run: python -m benchmarks.emulation.score [--only NAME…] [--scheduler ADDRESS] [--write], on what
`benchmarks.emulation.measure --collect` kept of engines; no GPU is needed. With --only, --write keeps the other models
as they are: enough where a rule changed that is about these alone. Both are held to the bound of the precision.
Beside it stands how many engines fail by their own gate, which is relative to the emulation, where emulation passes.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.emulation.models import catalogue
from benchmarks.record import RESULTS, record
from benchmarks.spread import add_scheduler, each_answer
from harness.backends import Assumed, Emulator, Reference
from harness.comparison import DEFAULT_GATES, Metrics, compare_tensors
from harness.compiler import within_kernels
from harness.model import Arithmetic, Model
from harness.tensors import Accumulate, Precision
from harness.worker.protocol import TENSORRT_RTX, Kernel, KernelList

VARIANTS = ("plain", "kernels", "sums", "both")
NEAR = 1.15
"""An error within this factor of the engine's counts as predicted."""


@dataclass(frozen=True)
class Known(Assumed):
    """Assumes kernels that are known already."""

    known: KernelList | None = None

    def arithmetic(
        self, model: Model, precision: Precision, feeds: Any, *more: Any, **options: Any
    ) -> Arithmetic:
        """As Assumed, with the kernels at hand."""
        found = super().arithmetic(model, precision, feeds, *more, **options)
        if self.known is None:
            return found
        return within_kernels(self.known, model, precision).arithmetic(found.sums)


def main() -> int:
    """Score every variant on every model that engines were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--rows", type=Path, default=RESULTS / "emulation_engines.json")
    parser.add_argument("--plot", type=Path, help="draw what is kept, instead")
    add_scheduler(parser)
    options = parser.parse_args()
    if options.plot:
        draw(json.loads((RESULTS / "emulation_score.json").read_text())["runs"], options.plot)
        return 0
    rows = list(engine_rows(json.loads(options.rows.read_text())))
    kept = {row["name"] for row in rows if not row["kept"]}
    chosen = [
        entry.name
        for entry in catalogue()
        if entry.name in kept and not (options.only and entry.name not in options.only)
    ]
    found: dict[str, list[dict[str, Any]]] = {}
    for name, mine in each_answer(partial(score, options.rows.resolve()), chosen, options.scheduler):
        found[name] = mine
        told = [f"{row['precision']} {row['release'][:3]} {_line(row)}" for row in mine]
        print(f"{name}\n  " + "\n  ".join(told), flush=True)
    scores = [row for name in chosen for row in found[name]]
    if options.only and options.write:
        scores = _replaced(scores)
    summary = summarize(scores)
    print(json.dumps(summary, indent=2))
    if options.write:
        print(
            record(
                "emulation_score", {"summary": summary, "runs": scores}, module="emulation.score", indent=None
            )
        )
    return 0


def _replaced(scores: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is kept, with these in place of those of the same models."""
    kept = json.loads((RESULTS / "emulation_score.json").read_text())["runs"]
    done = {row["name"] for row in scores}
    return [row for row in kept if row["name"] not in done] + scores


def score(file: Path, name: str) -> list[dict[str, Any]]:
    """The scores of one model, a row for each precision and release that engines were asked for in `file`."""
    mine = [row for row in _kept(file) if row["name"] == name and not row["kept"]]
    entry = next(entry for entry in catalogue() if entry.name == name)
    model, feeds = entry.made
    emulated = _emulated(model, feeds, mine)
    about = {"name": name, "group": entry.group, "stressing": entry.stressing}
    return [{**about, **_score(row, emulated)} for row in mine]


@cache
def _kept(file: Path) -> list[dict[str, Any]]:
    return list(engine_rows(json.loads(file.read_text())))


def engine_rows(kept: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What engines gave, a row for each model, precision and release that could be built."""
    for row in kept["rows"]:
        for release in row["releases"] if "outputs" in row else ():
            outputs = {
                name: dict(zip(kept["metrics"], values, strict=True))
                for name, values in row["outputs"].items()
            }
            yield {**row, "release": release, "outputs": outputs, "kernels": kept["kernels"][row["kernels"]]}


def _line(row: Mapping[str, Any]) -> str:
    return (
        " ".join(
            f"{name} {'=' if row['agrees'][name] else 'DIFFERS'} {row['ratio'][name]}" for name in VARIANTS
        )
        + f" (engine {row['engine']})"
    )


def _kernels(row: Mapping[str, Any]) -> KernelList:
    kernels = tuple(Kernel(name, "kgen", tuple(nodes)) for name, nodes in row["kernels"])
    return KernelList(TENSORRT_RTX, row["release"], "inspector", kernels or (Kernel("", ""),))


def _emulated(
    model: Model, feeds: Mapping[str, np.ndarray], rows: Iterable[Mapping[str, Any]]
) -> dict[tuple[str, str, str], dict[str, Metrics]]:
    """By precision, release and variant, the metrics of each output; what is the same is computed once."""
    expected = Reference(model).run(feeds)
    found: dict[tuple[str, str, str], dict[str, Metrics]] = {}
    known: dict[tuple[Any, ...], dict[str, Metrics]] = {}
    for row in rows:
        precision = Precision(row["precision"])
        for variant in VARIANTS:
            sums = Accumulate.FP16 if variant in ("sums", "both") else Accumulate.FP32
            kernels = _kernels(row) if variant in ("kernels", "both") else None
            assumed = Known(sums, known=kernels, release=row["release"] if kernels else "")
            how = assumed.arithmetic(model, precision, feeds, {})
            key = (
                precision,
                how.unrounded,
                how.halves,
                *(tuple(sorted(each.items())) for each in (how.steps, how.sums)),
            )
            if key not in known:
                emulator = Emulator(model, assumed=assumed)
                run = emulator.attempt(feeds, precision)
                known[key] = {
                    name: compare_tensors(run.tensors[name], value, dtype=precision.storage_dtype)
                    for name, value in expected.items()
                    if name in run.tensors
                }
                emulator.close()
            found[row["precision"], row["release"], variant] = known[key]
    return found


def _score(
    row: Mapping[str, Any], emulated: Mapping[tuple[str, str, str], Mapping[str, Metrics]]
) -> dict[str, Any]:
    gate, outputs = DEFAULT_GATES[Precision(row["precision"])], row["outputs"]
    agrees, ratios, fails = {}, {}, {}
    for variant in VARIANTS:
        found = emulated[row["precision"], row["release"], variant]
        emulated_holds = [name in found and _holds(vars(found[name]), gate.bound) for name in outputs]
        engine_holds = [_holds(each, gate.bound) for each in outputs.values()]
        engine_passes = []
        for name, each in outputs.items():
            rms, error = each["reference_rms"], float(each["rmse"])
            predicted = found[name].rmse if name in found else math.inf
            limit = gate.factor * min(predicted, gate.bound * rms) + gate.floor * rms
            engine_passes.append(each["nonfinite"] == 0 and error <= limit)
        agrees[variant] = all(emulated_holds) == all(engine_holds)
        fails[variant] = all(emulated_holds) and not all(engine_passes)
        ratios[variant] = _ratio(outputs, found)
    worst = max(float(each["nrmse"]) for each in outputs.values())
    return {
        "precision": row["precision"],
        "release": row["release"],
        "engine": float(f"{worst:.4g}") if math.isfinite(worst) else "inf",
        "agrees": agrees,
        "fails by its gate": fails,
        "ratio": ratios,
    }


def _holds(metrics: Mapping[str, Any], bound: float) -> bool:
    """Whether an output, of an engine or of the emulator, is finite and within the bound of the precision."""
    return metrics["nonfinite"] == 0 and float(metrics["nrmse"]) <= bound


def _ratio(outputs: Mapping[str, Any], found: Mapping[str, Metrics]) -> float | None:
    """The engine's error over the emulated one, of the output where they differ most; None if one is not finite."""
    ratios = []
    for name, each in outputs.items():
        mine, engine = found[name].nrmse if name in found else math.inf, float(each["nrmse"])
        if not (math.isfinite(mine) and math.isfinite(engine)):
            return None
        if mine > 1e-6 or engine > 1e-6:
            ratios.append(engine / max(mine, 1e-9))
    worst = max(ratios, key=lambda ratio: abs(math.log(max(ratio, 1e-9))), default=1.0)
    return float(f"{worst:.4g}")


def summarize(scores: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """For each variant, the share of verdicts that agree and of errors that are near, of all and of the stressing."""
    scores = list(scores)
    found: dict[str, Any] = {"models": len({row["name"] for row in scores}), "runs": len(scores)}
    for part, chosen in (("all", scores), ("stressing", [row for row in scores if row["stressing"]])):
        for precision in ("fp16", "bf16"):
            mine = [row for row in chosen if row["precision"] == precision]
            if not mine:
                continue
            found[f"{part} {precision}"] = {"runs": len(mine)} | {
                variant: {
                    "verdicts agree": sum(row["agrees"][variant] for row in mine),
                    "engines that fail alone": sum(row["fails by its gate"][variant] for row in mine),
                    "median ratio": _median(row["ratio"][variant] for row in mine),
                    "errors": sum(row["ratio"][variant] is not None for row in mine),
                    "within 1.15": sum(_is_near(row["ratio"][variant]) for row in mine),
                }
                for variant in VARIANTS
            }
    return found


def draw(runs: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Each run's error on the engine over the emulated one, plain and with both, at FP16."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "harness"
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 4.2), sharex=True, sharey=True)
    for panel, variant, title in zip(
        panels, ("plain", "both"), ("plain", "kernels and FP16 sums"), strict=True
    ):
        known = [
            row
            for row in runs
            if row["precision"] == "fp16" and row["ratio"][variant] and row["engine"] != "inf"
        ]
        engine = [row["engine"] for row in known]
        panel.scatter([row["engine"] / row["ratio"][variant] for row in known], engine, s=6, alpha=0.5)
        panel.plot([1e-7, 2], [1e-7, 2], linewidth=0.8, color="grey")
        panel.set(
            xscale="log", yscale="log", xlim=(1e-5, 2), ylim=(1e-5, 2), title=title, xlabel="emulated nrmse"
        )
    panels[0].set_ylabel("nrmse of the engine")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def _median(ratios: Iterable[float | None]) -> float | None:
    finite = [ratio for ratio in ratios if ratio is not None]
    return round(statistics.median(finite), 4) if finite else None


def _is_near(ratio: float | None) -> bool:
    return ratio is not None and 1 / NEAR <= ratio <= NEAR


if __name__ == "__main__":
    sys.exit(main())
