"""The repro folder: the smallest failing part of the model, its real inputs, and a script that shows the fault.

It is written to a folder beside its place, run there in a clean process, and only then moved into place.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
from onnx import numpy_helper

from harness.diagnosis.context import GraphPart
from harness.diagnosis.results import Repro, ReproOutput
from harness.errors import ModelError
from harness.model import (
    LOW_DTYPE,
    PLAIN,
    Arithmetic,
    Model,
    element_type,
    lower,
    round_array,
    save_model,
    units_of,
    with_islands,
)
from harness.tensors import Precision, from_json, to_json, write_text

SCRIPT = files("harness.scripts") / "repro.py"
Signature: TypeAlias = Mapping[str, ReproOutput]
"""What was measured, by output."""

SECONDS = 300.0
SAME = 2.0
"""A repro shows the same fault if its error is within this factor of what was measured here."""


@dataclass(frozen=True)
class ReproInfo:
    """What the folder is to say about itself.

    Args:
        case: name of the case.
        precision: the precision under test.
        what: the fault in one line.
        emulated: whether the emulation shows the fault, so that no GPU is needed.
        limits: by output, the nrmse beyond which it counts as the fault.
        arithmetic: what the emulation does otherwise than rounding each tensor: FP16 sums.
    """

    case: str
    precision: Precision
    what: str
    emulated: bool
    limits: Mapping[str, float]
    arithmetic: Arithmetic = PLAIN


class ReproRun:
    """A repro in a folder of its own, beside the place where it goes, and the process that runs it.

    Args:
        folder: where it goes.
        part: the failing part.
        info: what it says about itself.
        signature: what was measured of it here.

    Raises:
        ModelError: the part cannot be saved.
    """

    def __init__(self, folder: Path, part: GraphPart, info: ReproInfo, signature: Signature) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._folder, self._part, self._info, self._signature = folder, part, info, signature
        self._temporary = tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.")
        self._made = Path(self._temporary.name).resolve() / "repro"
        self._process: subprocess.Popen[str] | None = None
        try:
            self._made.mkdir()
            _write(self._made, part, info, signature)
            self._process = _start(self._made) if info.emulated else None
        except BaseException:
            self.close()
            raise

    def is_of(self, folder: Path, part: GraphPart, info: ReproInfo, signature: Signature) -> bool:
        """Whether it is this repro, whatever it says of the fault."""
        mine = (self._folder, replace(self._info, what=info.what), self._signature)
        return part is self._part and mine == (folder, info, signature)

    def finish(self, info: ReproInfo) -> Repro:
        """Wait for the process, move the folder to its place, and say what was shown."""
        if info != self._info:
            _write_about(self._made, self._part, info, self._signature)
        shown = (False, _ENGINE_ONLY, dict(self._signature))
        shows, note, found = shown if self._process is None else _verify(self._process, self._signature)
        if self._folder.exists():
            shutil.move(self._folder, Path(self._temporary.name) / "old")
        shutil.move(self._made, self._folder)
        return Repro(self._folder, len(self._part.model.nodes), shows, found, note)

    def close(self) -> None:
        """End the process, and leave nothing but what was moved to its place."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
        self._temporary.cleanup()


@contextmanager
def repro_under_way(
    folder: Path, part: GraphPart, info: ReproInfo, signature: Signature, begun: ReproRun | None = None
) -> Iterator[Callable[[], Repro]]:
    """Write the folder and run it in a clean process; what is given waits for that, and says what it showed.

    What is in the folder is replaced. A run that was `begun` before is used; one of another repro is ended.

    Raises:
        ModelError: the part cannot be saved.
    """
    if begun is not None and not begun.is_of(folder, part, info, signature):
        begun.close()
        begun = None
    run = begun or ReproRun(folder, part, info, signature)
    try:
        yield partial(run.finish, info)
    finally:
        run.close()


_ENGINE_ONLY = "it shows on an engine only: run repro.py --tensorrt on the machine with the GPU"


def _write(folder: Path, part: GraphPart, info: ReproInfo, signature: Signature) -> None:
    save_model(part.model, folder / "model.onnx")
    if info.emulated:
        proto = emulated_model(part.model, info.precision, list(part.expected), info.arithmetic)
        (folder / "emulated.onnx").write_bytes(proto.SerializeToString(deterministic=True))
    if info.precision in LOW_DTYPE:
        save_model(with_islands(part.model, info.precision), folder / "typed.onnx")
    _save_arrays(folder / "inputs.npz", part.feeds)
    _save_arrays(folder / "expected.npz", part.expected)
    _write_about(folder, part, info, signature)
    (folder / "repro.py").write_bytes(SCRIPT.read_bytes())


def _write_about(folder: Path, part: GraphPart, info: ReproInfo, signature: Signature) -> None:
    about = {
        "case": info.case,
        "what": info.what,
        "precision": info.precision.value,
        "emulated": info.emulated,
        "limits": dict(info.limits),
        "inputs": list(part.feeds),
        "outputs": list(part.expected),
        "nodes": [node.name for node in part.model.nodes],
        "signature": to_json(signature),
    }
    write_text(folder / "repro.json", json.dumps(about, indent=1, allow_nan=False) + "\n")


def _save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, **{f"t{number}": array for number, array in enumerate(arrays.values())})  # type: ignore[arg-type]


def emulated_model(
    model: Model, precision: Precision, outputs: list[str], arithmetic: Arithmetic = PLAIN
) -> onnx.ModelProto:
    """`model` with every lowerable node lowered for good, weights included: runs anywhere, shows what rounding does.

    Its outputs stand in the order of `outputs`.

    Raises:
        ModelError: it does not fit into one protobuf.
    """
    graph = lower(model, precision, outputs, switched=False, arithmetic=arithmetic)
    proto = graph.proto
    lowered = {node.name for node in units_of(model, precision)}
    fed = {feed.feed for feed in graph.weights}
    for value in [value for value in proto.graph.input if value.name in fed]:
        proto.graph.input.remove(value)
    for feed in graph.weights:
        values = model.weight(feed.weight)
        if feed.reader in lowered:
            values = feed.moved(round_array(values, precision))
        proto.graph.initializer.append(numpy_helper.from_array(values, feed.feed))
    for value, name in zip(proto.graph.output, outputs, strict=True):
        # TensorRT and the checker want types; ONNX Runtime refuses wrong ones.
        if not value.type.WhichOneof("value"):
            dtype = model.dtypes.get(name, "float32")
            # NumPy has no bfloat16: such a tensor comes as float32.
            value.type.tensor_type.elem_type = element_type("float32" if dtype == "bfloat16" else dtype)
    if proto.ByteSize() > 1 << 31:
        raise ModelError("the part is over 2 GB", where=model.name)
    return proto


def _start(folder: Path) -> subprocess.Popen[str]:
    """The script, run as somebody else would."""
    command = [sys.executable, "-I", str(folder / "repro.py"), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)


def _verify(process: subprocess.Popen[str], signature: Signature) -> tuple[bool, str, Signature]:
    """Compare what the script shows with what was measured here."""
    try:
        stdout, stderr = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return False, f"it did not end within {SECONDS:.0f} seconds", {}
    if process.returncode not in (0, 1):
        last = (stderr.strip().splitlines() or ["no message"])[-1]
        return False, f"it could not be run in a clean process: {last}", {}
    outputs = _read(stdout)
    if outputs is None:
        return False, "it could not be run in a clean process: what it printed cannot be read", {}
    if process.returncode == 0:
        return False, "run in a clean process, it does not show the fault", outputs
    if not _same(outputs, signature):
        return False, "run in a clean process, it fails in another way than here", outputs
    return True, "run in a clean process, it shows the same fault", outputs


@dataclass(frozen=True)
class _Printed:
    """What the script prints as JSON."""

    outputs: dict[str, ReproOutput]


def _read(printed: str) -> Signature | None:
    """The numbers by output that the script printed; None if it printed something else."""
    try:
        return from_json(_Printed, json.loads(printed)).outputs
    except ValueError:
        return None


def _same(found: Signature, signature: Signature) -> bool:
    """The same outputs are not finite, and the other errors are of the same order."""
    for name, expected in signature.items():
        row = found.get(name)
        if row is None or bool(row.nonfinite) != bool(expected.nonfinite):
            return False
        # Where elements are not finite, the two sides count the others differently.
        if expected.nonfinite or not 0 < expected.nrmse < math.inf:
            continue
        if not expected.nrmse / SAME <= row.nrmse <= expected.nrmse * SAME:
            return False
    return True
