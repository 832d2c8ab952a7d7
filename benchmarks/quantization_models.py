"""Real graphs: what ranking their pairs costs, how well it ranks, and how accurate they are quantised.

Only `minilm` has trained weights. The pairs of ONNX Runtime's static quantisation with its defaults are ranked. That is
timed from the file to reasons, in processor time over that of one inference of the float model, and compared with the
ranking that running the model with each pair alone gives; also with a scale clipped or far too large (`planted`).
`--ranking` measures that, and what it writes is quantization_ranking.json.

Errors are nrmse of the worst output over the float model, on samples that nothing was calibrated with, at no smaller a
share of multiply-adds that are quantised than ONNX Runtime's and ModelOpt's; `harness` has everything quantised, and
`harness_default` leaves small products in float, where there are any. Run: python -m
benchmarks.quantization_models [--ranking] [--scheduler ADDRESS] [--write]; what `--ranking` times is not spread.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from benchmarks import minilm
from benchmarks.record import record
from benchmarks.spread import add_scheduler, each_answer
from harness.backends import Reference
from harness.case import load_case, make_feeds, resolve_model
from harness.model import Model, at_opset, load_model, save_model
from harness.quantization import (
    PairKind,
    Quantization,
    Ranking,
    Scale,
    Setting,
    SwitchedModel,
    find_pairs,
    float_weights,
    multiply_adds,
    quantize,
    quantized_products,
    with_scales,
)
from harness.quantization.calibration import observe_pairs
from harness.quantization.mixed import small_products
from harness.quantization.outputs import Outputs
from harness.quantization.ranking import candidates, rank

CASES = Path(__file__).parents[1] / "cases"
SAMPLES = {"resnet50": 8}
"""How many samples, where the model is a large one; on two unseen ones chance decides by more than methods differ."""
PLANTED = 8
"""Faults in each model; two where there are more pairs than MANY, each of which is run alone."""
MANY = 100
Samples = list[dict[str, np.ndarray]]


class Reader(CalibrationDataReader):
    """Samples, one after the other."""

    def __init__(self, samples: Samples) -> None:
        self.samples = iter(samples)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next sample."""
        return next(self.samples, None)


def error(model: Model, reference: Model, samples: Samples) -> float:
    """nrmse of the worst output."""
    wrong: dict[str, float] = {}
    right: dict[str, float] = {}
    candidate, float_model = Reference(model), Reference(reference)
    for feeds in samples:
        found, expected = candidate.run(feeds), float_model.run(feeds)
        for name, values in expected.items():
            wrong[name] = wrong.get(name, 0.0) + float(
                np.square(found[name] - values, dtype=np.float64).sum()
            )
            right[name] = right.get(name, 0.0) + float(np.square(values, dtype=np.float64).sum())
    return max(float(np.sqrt(wrong[name] / right[name])) for name in wrong)


def share(model: Model, products: Mapping[str, int]) -> float:
    """The share of the multiply-adds of the float model that a quantised one computes on quantised operands."""
    found = quantized_products(find_pairs(model), products)
    return sum(products[name] for name in found) / sum(products.values())


def processor_time(run: Callable[[], object]) -> float:
    """Seconds that this process computed for `run`, in all threads: what else runs here does not disturb them much."""
    start = time.process_time()
    run()
    return time.process_time() - start


def rank_pairs(
    model: Model, reference: Model, feeds: dict[str, np.ndarray], expected: dict[str, np.ndarray]
) -> tuple[Ranking, Outputs]:
    """From a quantised file to what its pairs cost, and why."""
    pairs = find_pairs(model)
    switched = SwitchedModel(model, pairs, float_weights(model, pairs, reference))
    outputs = Outputs(switched, [feeds], [expected])
    observed = observe_pairs(switched, [feeds])
    return rank(outputs, observed, {pair.name: candidates(pair, observed) for pair in pairs}), outputs


def agreement(ranking: Ranking, outputs: Outputs) -> dict[str, Any]:
    """How well a ranking agrees with that of each pair alone (Spearman): its first pair, and its first ten."""
    names = frozenset(each.pair for each in ranking.pairs)
    alone = np.array([outputs.error(Setting(off=names - {each.pair})) for each in ranking.pairs])
    places = np.argsort(np.argsort(-alone, kind="stable"))
    rows = np.arange(len(alone))
    return {
        "rank_correlation": round(float(np.corrcoef(rows, places)[0, 1]), 4),
        "first": bool(places[0] == 0),
        "first_ten": int(np.count_nonzero(places[:10] < 10)),
    }


def measure_ranking(model: Model, reference: Model, feeds: dict[str, np.ndarray]) -> dict[str, Any]:
    """What ranking the pairs of a model takes, in inferences of the float model, and how well it ranks."""
    plain = Reference(reference)
    expected = plain.run(feeds)
    one = statistics.median(processor_time(lambda: plain.run(feeds)) for _ in range(9))
    found: list[tuple[Ranking, Outputs]] = []
    times = [
        processor_time(lambda: found.append(rank_pairs(model, reference, feeds, expected))) for _ in range(3)
    ]
    ranking, outputs = found[-1]
    return {
        "pairs": len(ranking.pairs),
        "ranking_inferences": outputs.switched.inferences + 1,
        "measured_alone": sum(each.alone is not None for each in ranking.pairs),
        "one_inference_seconds": round(one, 4),
        "ranking_over_one_inference": round(statistics.median(times) / one, 1),
        **agreement(ranking, outputs),
    }


def measure_planted(model: Model, reference: Model, feeds: dict[str, np.ndarray]) -> dict[str, Any]:
    """The same with one scale of an activation planted, a quarter of its size or less, or eight times or more."""
    expected = Reference(reference).run(feeds)
    pairs = find_pairs(model)
    weights = float_weights(model, pairs, reference)
    random = np.random.default_rng(0)
    activations = [pair for pair in pairs if pair.kind is PairKind.ACTIVATION and pair.readers]
    rows = []
    for number in range(PLANTED if len(pairs) <= MANY else 2):
        pair = activations[int(random.integers(len(activations)))]
        factor = np.float32(random.uniform(8, 40) if number % 2 else 1 / random.uniform(4, 40))
        scale = Scale(pair.scale.values * factor, pair.scale.zero_point)
        ranking, outputs = rank_pairs(
            with_scales(model, pairs, {pair.name: scale}, weights), reference, feeds, expected
        )
        rows.append(agreement(ranking, outputs))
        print("  planted", pair.name, f"{factor:.3g}", ranking.pairs[0].pair, rows[-1], flush=True)
    return {
        "planted": len(rows),
        "planted_first": sum(row["first"] for row in rows),
        "planted_rank_correlation": [row["rank_correlation"] for row in rows],
        "planted_first_ten": [row["first_ten"] for row in rows],
    }


MODELOPT = """
import sys
import numpy as np
from modelopt.onnx.quantization import quantize
held = dict(np.load(sys.argv[2]))
quantize(
    sys.argv[1], quantize_mode="int8", calibration_data=held, calibration_eps=["cpu"], output_path=sys.argv[3],
    high_precision_dtype="fp32",
)
"""


def measure_modelopt(
    python: str, model: Model, seen: Samples, unseen: Samples, products: Mapping[str, int], folder: Path
) -> dict[str, Any]:
    """ModelOpt's INT8 with its defaults, calibrated on the same samples on a CPU; `failure` where it has none."""
    data, out = folder / "seen.npz", folder / "modelopt.onnx"
    np.savez(data, **{name: np.concatenate([feeds[name] for feeds in seen]) for name in seen[0]})
    command = [python, "-c", MODELOPT, str(folder / "float.onnx"), str(data), str(out)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if not out.exists():
        return {"failure": ended.stderr.strip().splitlines()[-1][:200]}
    theirs = load_model(out)
    return {"share": round(share(theirs, products), 4), "error": error(theirs, model, unseen)}


def subject(name: str) -> tuple[Model, Samples]:
    """A case, or the trained encoder of `benchmarks.minilm`, with four samples to calibrate on, and others."""
    if name == "minilm":
        return load_model(minilm.build(), name=name), minilm.samples()
    case = load_case(CASES / f"{name}.case.yaml").model_copy(update={"samples": SAMPLES.get(name, 36)})
    model = load_model(resolve_model(case), name=name)
    return model, make_feeds(case, model.inputs)


def quantize_default(model: Model, seen: Samples, folder: Path) -> Model:
    """What ONNX Runtime's static quantisation makes of a model with its defaults."""
    plain, out = folder / "float.onnx", folder / "ort.onnx"
    save_model(model, plain)
    quantize_static(plain, out, Reader(seen), quant_format=QuantFormat.QDQ)
    made = load_model(out)
    return at_opset(made, 13) if made.opset < 13 else made


def measure_rankings(name: str) -> dict[str, Any]:
    """What ranking the pairs of ONNX Runtime's quantisation takes, and how well it ranks."""
    model, samples = subject(name)
    with tempfile.TemporaryDirectory() as folder:
        theirs = quantize_default(model, samples[:4], Path(folder))
        found = measure_ranking(theirs, model, samples[0])
        print(name, found, flush=True)
        return found | measure_planted(theirs, model, samples[0])


def summary(made: Quantization, reference: Model, unseen: Samples) -> dict[str, Any]:
    """What came of quantising a model; its error is that of the file."""
    return {
        "share": round(made.chosen.share, 4),
        "error": error(made.quantized, reference, unseen),
        "method": made.method.value,
    }


def measure_accuracy(python: str | None, name: str) -> dict[str, Any]:
    """Errors of one model, quantised by each."""
    model, samples = subject(name)
    seen, unseen = samples[:4], samples[4:]
    products = multiply_adds(model, samples[0])
    with tempfile.TemporaryDirectory() as folder:
        theirs = quantize_default(model, seen, Path(folder))
        theirs_share, theirs_error = share(theirs, products), error(theirs, model, unseen)
        modelopt = (
            {} if python is None else measure_modelopt(python, model, seen, unseen, products, Path(folder))
        )
    made = quantize(model, seen, unseen=unseen, keep_float=0)
    default = quantize(model, seen, unseen=unseen) if small_products(model, samples[0]) else None

    def at(least: float) -> dict[str, Any]:
        """With the costliest products in float, as far as no less is quantised."""
        mixed = quantize(model, seen, unseen=unseen, method=made.method, keep_float=1 - least + 1e-4)
        return {"share": round(mixed.chosen.share, 4), "error": mixed.chosen.unseen}

    return {
        "unseen_samples": len(unseen),
        "onnxruntime_default": {"share": round(theirs_share, 4), "error": theirs_error},
        **({"modelopt_default": modelopt} if modelopt else {}),
        **({"harness_at_modelopts_share": at(modelopt["share"])} if modelopt.get("share", 1) < 1 else {}),
        **({} if default is None else {"harness_default": summary(default, model, unseen)}),
        "harness": summary(made, model, unseen),
        "methods": {each.method.value: each.unseen for each in made.methods},
        "curve": [[round(point.share, 4), point.unseen] for point in made.curve],
    }


def main() -> int:
    """Measure each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["resnet50", "whisper-encoder", "minilm", "unet"])
    parser.add_argument(
        "--modelopt", metavar="PYTHON", help="compare with ModelOpt, too, installed for this Python"
    )
    parser.add_argument("--ranking", action="store_true", help="measure ranking alone")
    parser.add_argument("--write", action="store_true")
    add_scheduler(parser)
    options = parser.parse_args()
    if options.ranking and options.scheduler:
        parser.error("--ranking times what one machine does, so it takes no --scheduler")
    measure = measure_rankings if options.ranking else partial(measure_accuracy, options.modelopt)
    found = {}
    for name, numbers in each_answer(measure, options.names, options.scheduler):
        found[name] = numbers
        print(name, numbers, flush=True)
    models = {name: found[name] for name in options.names}
    if options.write:
        kept = "quantization_ranking" if options.ranking else "quantization_models"
        record(kept, {"models": models}, module="quantization_models")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
