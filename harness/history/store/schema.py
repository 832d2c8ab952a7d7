"""The columns of the history: one table for outputs, layers and engines, the same in every file.

A row is one tensor (or the engine itself) in one build of one case at one precision on one release. `kind` says
which: `output` rows come from the engine that a user would deploy, one for each sample; `layer` rows from the
observed engine, all samples together; the `engine` row holds what is known of the build, and its errors.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, get_args, get_type_hints

from harness.history.types import RowKind

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = "harness.history/2"
METADATA_KEY = b"harness.history"

MISTAKE = "mistake"
"""The verdict of an engine row whose case, model or inputs are wrong."""
COMPILED, NOT_BUILT = "compiled", "not built"
"""The verdicts of engine rows of what was compiled and not run."""


class ColumnKind(StrEnum):
    """What a column holds. TEXTS is a list of texts."""

    TEXT = "text"
    TIME = "time"
    INTEGER = "integer"
    NUMBER = "number"
    FLAG = "flag"
    TEXTS = "texts"


@dataclass(frozen=True)
class Column:
    """One column of the history, and what it means."""

    name: str
    kind: ColumnKind
    meaning: str


Text = str | None
Number = float | None
Integer = int | None
Flag = bool | None
Texts = tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the history. What is None is null in the file."""

    # fmt: off
    # What was run.
    run: Annotated[Text, "the invocation: name of its file, which begins with the time in UTC"] = None
    time: Annotated[datetime.datetime | None, "when the build was judged, UTC"] = None
    case: Annotated[Text, "name of the case"] = None
    case_path: Annotated[Text, "the case file, or the model itself"] = None
    inputs: Annotated[Text, "shapes that such a model was given with `--input`: a JSON list of what that takes"] = None
    case_sha256: Annotated[
        Text, "SHA-256 of what decides the numbers: model, inputs, samples, seed, build options"
    ] = None
    model_sha256: Annotated[Text, "SHA-256 of the model"] = None
    seed: Annotated[Integer, "seed of the inputs"] = None
    precision: Annotated[Text, "the precision under test"] = None
    release: Annotated[Text, "the environment, or the emulated release"] = None
    build: Annotated[Integer, "number of the build of this engine in this run, from 0"] = None
    timing_cache: Annotated[Flag, "whether the build used the timing cache; null on the emulator"] = (
        None
    )
    # What the row is about.
    kind: Annotated[RowKind | None, "`output`, `layer` or `engine`"] = None
    tensor: Annotated[Text, "ONNX name of the tensor; null on engine rows"] = None
    sample: Annotated[Integer, "number of the sample; -1 where all samples are measured together"] = None
    index: Annotated[Integer, "place of the node in topological order; -1 on engine rows"] = None
    node: Annotated[Text, "ONNX node that writes the tensor"] = None
    op: Annotated[Text, "its operator type"] = None
    reads: Annotated[Texts, "the nearest observed layers that it was computed from; itself if it is one"] = None
    # What was measured over the FP32 reference; see harness.comparison.Metrics.
    error: Annotated[
        Number, "nrmse; infinite where the reference is all zero, or finite where an element is not"
    ] = None
    rmse: Annotated[Number, "root mean square error"] = None
    max_abs: Annotated[Number, "largest absolute error"] = None
    cosine: Annotated[Number, "cosine similarity"] = None
    p99_ulp: Annotated[Number, "99th percentile of the distance in units in the last place"] = None
    max_ulp: Annotated[Number, "largest such distance"] = None
    topk_agreement: Annotated[Number, "share of the reference's largest elements kept; null without meaning"] = None
    nonfinite: Annotated[Integer, "elements that are not finite as the reference is"] = None
    overflow: Annotated[Integer, "elements that overflowed"] = None
    headroom: Annotated[
        Number,
        "largest reference value over the largest number of the dtype: beyond 1 it overflows, unless kept in FP32",
    ] = None
    reference_rms: Annotated[Number, "root mean square of the reference"] = None
    count: Annotated[Integer, "elements compared"] = None
    introduced: Annotated[Number, "nrmse of the emulated node alone, fed the reference's tensors (layers)"] = None
    gate: Annotated[Text, "the gate that fails, or the first on a metric: `nrmse`, `rmse`, …"] = None
    limit: Annotated[Number, "its limit"] = None
    passed: Annotated[Flag, "tensors: every gate holds; engines: every output passed"] = None
    origin: Annotated[Flag, "the tensor fails while all that it was computed from pass (layer rows)"] = None
    hash: Annotated[
        Text, "first 16 digits of the SHA-256 of the values, shape and dtype: equal means equal bits"
    ] = None
    distance: Annotated[Number, "rms difference from build 0 of the run's first release, over reference_rms"] = None
    # What is known of the engine.
    verdict: Annotated[
        Text,
        "as `harness run` gives it; `mistake` for a wrong case; `compiled`, `not built`: nothing ran (engine rows)",
    ] = None
    cause: Annotated[Text, "what decided that, as a code such as `gate failed` (engine rows)"] = None
    why: Annotated[Text, "JSON: the fields that say more of it; `harness.history.read_reason` makes a sentence"] = None
    evidence: Annotated[Texts, "the last lines of the log behind an error (engine rows)"] = None
    faithful: Annotated[Flag, "whether observing left the outputs alone; null where nothing was observed"] = None
    build_seconds: Annotated[Number, "seconds to build the unobserved engine"] = None
    engine_bytes: Annotated[Integer, "size of the serialized engine"] = None
    latency_ms: Annotated[Number, "median of the timed inferences, milliseconds"] = None
    latency_p99_ms: Annotated[Number, "their 99th percentile"] = None
    typing: Annotated[Text, "`weak` or `strong`"] = None
    structure: Annotated[Text, "JSON: the engine's layers, with nodes, operators, precision and tactic"] = None
    # What it ran on.
    product: Annotated[Text, "`TensorRT` or `TensorRT for RTX`; null on the emulator"] = None
    tensorrt: Annotated[Text, "version of the product; null on the emulator"] = None
    cuda: Annotated[Text, "version of CUDA"] = None
    driver: Annotated[Text, "version of the driver"] = None
    gpu: Annotated[Text, "name of the GPU"] = None
    compute_capability: Annotated[Text, "such as 9.0"] = None
    onnxruntime: Annotated[Text, "version of ONNX Runtime, which computes the reference"] = None
    harness: Annotated[Text, "version of harness"] = None
    host_cpu: Annotated[Text, "the processor"] = None
    # fmt: on


def _columns() -> Iterator[Column]:
    """The columns, from the fields of Row."""
    types = get_type_hints(Row, include_extras=True)
    for item in fields(Row):
        optional, meaning = get_args(types[item.name])
        kind = get_args(optional)[0]
        yield Column(item.name, _KINDS[kind], meaning)


_KINDS = {
    str: ColumnKind.TEXT,
    RowKind: ColumnKind.TEXT,
    datetime.datetime: ColumnKind.TIME,
    int: ColumnKind.INTEGER,
    float: ColumnKind.NUMBER,
    bool: ColumnKind.FLAG,
    tuple[str, ...]: ColumnKind.TEXTS,
}
COLUMNS = tuple(_columns())
NAMES = tuple(column.name for column in COLUMNS)
NEEDED = (
    *("run", "case", "precision", "release", "build"),
    *("kind", "tensor", "sample", "index", "node", "op"),
    *("error", "passed", "hash", "distance"),
)
"""What the judgement of tensors reads; the rest is for people."""


def arrow_schema() -> pa.Schema:
    """The pyarrow schema of every file."""
    import pyarrow as pa

    types = {
        ColumnKind.TEXT: pa.dictionary(pa.int32(), pa.string()),
        ColumnKind.TIME: pa.timestamp("ms", tz="UTC"),
        ColumnKind.INTEGER: pa.int64(),
        ColumnKind.NUMBER: pa.float32(),
        ColumnKind.FLAG: pa.bool_(),
        ColumnKind.TEXTS: pa.list_(pa.string()),
    }
    return pa.schema([pa.field(column.name, types[column.kind]) for column in COLUMNS])
