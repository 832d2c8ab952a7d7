"""Files that harness keeps itself, for `benchmarks.fuzz` to damage: golden references, baselines, journals, histories.

Each kind is made once a process, by harness, and copied for every file that is damaged.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from harness.golden import Provenance

PRECISION = "fp16"
Damage = Callable[[bytes], bytes]


@cache
def _whole(kind: str) -> Path:
    """A folder with the files of a kind as harness wrote them; it lives as long as the process."""
    made = tempfile.TemporaryDirectory()
    _FOLDERS.append(made)
    folder = Path(made.name)
    MAKERS[kind](folder)
    return folder


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def _model(folder: Path) -> Path:
    """A model that fails at FP16: squares of numbers about a thousand overflow."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Mul", ["x", "k"], ["large"], "large"),
        helper.make_node("Mul", ["large", "large"], ["squared"], "square"),
        helper.make_node("Sqrt", ["squared"], ["y"], "root"),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 8]) for name in "xy")
    factor = numpy_helper.from_array(np.float32(1000), "k")
    graph = helper.make_graph(nodes, "squares", [x], [y], [factor])
    path = folder / "squares.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def _golden(folder: Path) -> None:
    from harness.golden import GoldenStore

    GoldenStore(folder / "golden").update("case", _provenance(), _outputs())


def _provenance() -> Provenance:
    from harness.golden import Provenance

    return Provenance("a" * 64, "b" * 64, onnxruntime="1.20.0", cpu="a processor", harness="0.1.0")


def _outputs() -> list[dict[str, np.ndarray]]:
    import numpy as np

    rng = np.random.default_rng(3)
    return [{"y": rng.standard_normal((4, 10)).astype(np.float32), "label": rng.integers(0, 9, 4)}]


def _read_golden(folder: Path) -> None:
    from harness.golden import GoldenStore

    GoldenStore(folder / "golden").check("case", _provenance(), _outputs())


def _baseline(folder: Path) -> None:
    from harness.golden import Baseline, BaselineProvenance, BaselineStore, BaselineTensor

    made_with = BaselineProvenance(
        date="2026-01-31",
        command="harness drift",
        run="20260131T020304512Z-1f9a3c",
        release="trt",
        tensorrt="10.0.1",
        cuda="12.4",
        driver="550.54",
        gpu="H200",
        onnxruntime="1.20.0",
        harness="0.1.0",
    )
    tensor = BaselineTensor(
        kind="output",
        tensor="y",
        sample=0,
        index=0,
        node="root",
        op="Sqrt",
        errors=(1e-3, 2e-3, float("inf")),
        passed=(True, True, False),
        hashes=("a" * 64, "b" * 64, "c" * 64),
    )
    baseline = Baseline(
        case="case",
        precision=PRECISION,
        sm="sm90",
        case_sha256="a" * 64,
        model_sha256="b" * 64,
        provenance=made_with,
        tensors=(tensor,),
    )
    BaselineStore(folder / "golden").write(baseline)


def _read_baseline(folder: Path) -> None:
    from harness.golden import BaselineStore

    BaselineStore(folder / "golden").load("case", "sm90", PRECISION)


def _history(folder: Path) -> None:
    import harness
    from harness.history import DriftOptions

    releases = ["emulator:fp16", "emulator:fp16,seed=1"]
    harness.drift(
        _model(folder),
        environments=releases,
        precisions=PRECISION,
        history=folder / "history",
        options=DriftOptions(repeats=2),
    )


def _read_history(folder: Path) -> None:
    import harness
    from harness.history import report_of, runs_at

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is skipped is said in a warning
        for run in runs_at(folder / "history"):
            report_of(run)
        harness.load_history(folder / "history")


def _journal(folder: Path) -> None:
    import harness

    harness.diagnose(_model(folder), precision=PRECISION, journal=folder / "journal")


def _resume(folder: Path) -> None:
    import harness

    harness.diagnose(folder / "squares.onnx", precision=PRECISION, journal=folder / "journal", resume=True)


MAKERS = {"golden": _golden, "baseline": _baseline, "journal": _journal, "parquet": _history}
READERS = {"golden": _read_golden, "baseline": _read_baseline, "journal": _resume, "parquet": _read_history}
SUFFIXES = {
    "golden": (".json", ".safetensors"),
    "baseline": (".json",),
    "journal": (".jsonl", ".journal", ".safetensors"),
    "parquet": (".parquet",),
}
"""Of the files that are damaged."""


def read(folder: Path, kind: str, random: Random, damage: Damage) -> None:
    """Damage one file of a kind in `folder`, which is empty, and let harness read it.

    Raises:
        HarnessError: what harness says of it.
    """
    shutil.copytree(_whole(kind), folder, dirs_exist_ok=True)
    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES[kind])
    path = random.choice(files)
    path.write_bytes(damage(path.read_bytes()))
    READERS[kind](folder)
