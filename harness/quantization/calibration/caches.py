"""Calibration caches of TensorRT 10 and earlier: a line for each tensor, with its scale as the bits of a float32.

`image: 3c010a14`. They have none of weights, which TensorRT took from the weights themselves. TensorRT 11 reads none:
the scales go into Q/DQ nodes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from harness.errors import InputDataError
from harness.model import Model
from harness.quantization.pairs import find_pairs
from harness.quantization.types import PairKind, Scale
from harness.tensors import write_text

HEADER = "TRT-8600-EntropyCalibration2"
"""Any release reads what says the calibrator that it would use; the number is that of the release that wrote it."""
_LINE = re.compile(r"(?P<name>.+): (?P<bits>[0-9a-fA-F]{1,8})")


def read_cache(path: Path) -> dict[str, Scale]:
    """The scales of a calibration cache, by name of the tensor.

    Raises:
        InputDataError: the file is missing, or not such a cache; says which line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputDataError("cannot be read as a calibration cache", where=path) from error
    if not lines or not lines[0].startswith("TRT-"):
        raise InputDataError(
            "is not a calibration cache of TensorRT",
            where=path,
            hint=f"its first line is like {HEADER}",
        )
    found = {}
    for number, line in enumerate(lines[1:], start=2):
        match = _LINE.fullmatch(line.strip())
        if match is None and line.strip():
            raise InputDataError("is not a line of a calibration cache", where=f"{path}:{number}")
        if match is not None:
            value = struct.unpack("!f", bytes.fromhex(match["bits"].zfill(8)))[0]
            if not value > 0 or not np.isfinite(value):
                raise InputDataError(f"{match['name']} has a scale of {value:g}", where=f"{path}:{number}")
            found[match["name"]] = Scale(np.array(value, np.float32))
    return found


def write_cache(path: Path, model: Model) -> None:
    """Write the scales of a model's INT8 activations as a calibration cache.

    Raises:
        InputDataError: it has none.
    """
    scales: Mapping[str, float] = {
        pair.tensor: pair.scale.largest
        for pair in find_pairs(model)
        if pair.kind is PairKind.ACTIVATION and pair.dtype == "int8" and pair.scale.per_tensor
    }
    if not scales:
        raise InputDataError(
            "has no INT8 activations, which are all that a calibration cache holds", where=model.name
        )
    lines = [HEADER, *(f"{name}: {struct.pack('!f', scale).hex()}" for name, scale in scales.items())]
    write_text(path, "\n".join(lines) + "\n")
