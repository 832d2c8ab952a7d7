"""The columns of the history: one table for outputs, layers and engines, the same in every file.

A row is one tensor (or the engine itself) in one build of one case at one precision on one release. `kind` tells
which: `output` rows come from the engine that a user would deploy, one for each sample; `layer` rows from the
observed engine, all samples together; the `engine` row holds what is known of the build, and its errors.
"""

from __future__ import annotations

from dataclasses import dataclass

SCHEMA = "harness.history/1"
METADATA_KEY = b"harness.history"

OUTPUT, LAYER, ENGINE = "output", "layer", "engine"
MISTAKE = "mistake"  # the verdict of an engine row whose case, model or inputs are wrong


@dataclass(frozen=True)
class Column:
    """One column. `kind` is `text`, `integer`, `number`, `flag` or `texts` (a list)."""

    name: str
    kind: str
    meaning: str


COLUMNS = (
    # What was run.
    Column("run", "text", "the invocation: name of its file, which begins with the time in UTC"),
    Column("time", "time", "when the build was judged, UTC"),
    Column("case", "text", "name of the case"),
    Column("case_path", "text", "the case file, or the model itself"),
    Column("inputs", "text", "shapes that such a model was given with `--input`: a JSON list of what that takes"),
    Column("case_sha256", "text", "SHA-256 of what the case asks: model, inputs, samples, seed, build options"),
    Column("model_sha256", "text", "SHA-256 of the model"),
    Column("seed", "integer", "seed of the inputs"),
    Column("precision", "text", "the precision asked for"),
    Column("release", "text", "the environment, or the emulated release"),
    Column("build", "integer", "number of the build of this engine in this run, from 0"),
    Column("timing_cache", "flag", "whether the build used the timing cache; null on the emulator"),
    # What the row is about.
    Column("kind", "text", "`output`, `layer` or `engine`"),
    Column("tensor", "text", "ONNX name of the tensor; null on engine rows"),
    Column("sample", "integer", "number of the sample; -1 where all samples are measured together"),
    Column("index", "integer", "place of the node in topological order; -1 on engine rows"),
    Column("node", "text", "ONNX node that writes the tensor"),
    Column("op", "text", "its operator type"),
    Column("reads", "texts", "the nearest observed tensors that it was computed from (layer rows)"),
    # What was measured over the FP32 reference; see harness.comparison.Metrics.
    Column("error", "number", "nrmse; infinite where the reference is all zero, or finite where an element is not"),
    Column("rmse", "number", "root mean square error"),
    Column("max_abs", "number", "largest absolute error"),
    Column("cosine", "number", "cosine similarity"),
    Column("p99_ulp", "number", "99th percentile of the distance in units in the last place"),
    Column("max_ulp", "number", "largest such distance"),
    Column("topk_agreement", "number", "share of the reference's largest elements kept; null where senseless"),
    Column("nonfinite", "integer", "elements that are not finite as the reference is"),
    Column("overflow", "integer", "elements that overflowed"),
    Column(
        "headroom",
        "number",
        "largest reference value over the largest number of the dtype: beyond 1 it overflows, unless kept in FP32",
    ),
    Column("reference_rms", "number", "root mean square of the reference"),
    Column("count", "integer", "elements compared"),
    Column("introduced", "number", "nrmse of the emulated node alone, fed the reference's tensors (layers)"),
    Column("gate", "text", "the gate that fails, or the first on a metric: `nrmse`, `rmse`, …"),
    Column("limit", "number", "its limit"),
    Column("passed", "flag", "tensors: every gate holds; engines: every output passed"),
    Column("origin", "flag", "the tensor fails while all that it was computed from pass (layer rows)"),
    Column("hash", "text", "first 16 digits of the SHA-256 of the values, shape and dtype: equal means equal bits"),
    Column("distance", "number", "rms difference from build 0 of the run's first release, over reference_rms"),
    # What is known of the engine.
    Column("verdict", "text", "as `harness run` gives it, or `mistake` for a wrong case (engine rows)"),
    Column("reason", "text", "why, in one line (engine rows)"),
    Column("faithful", "flag", "whether observing left the outputs alone; null where nothing was observed"),
    Column("build_seconds", "number", "seconds to build the unobserved engine"),
    Column("engine_bytes", "integer", "size of the serialized engine"),
    Column("latency_ms", "number", "median of the timed inferences, milliseconds"),
    Column("latency_p99_ms", "number", "their 99th percentile"),
    Column("typing", "text", "`weak` or `strong`"),
    Column("structure", "text", "JSON: the engine's layers, with nodes, operators, precision and tactic"),
    # What it ran on.
    Column("tensorrt", "text", "version of TensorRT; null on the emulator"),
    Column("cuda", "text", "version of CUDA"),
    Column("driver", "text", "version of the driver"),
    Column("gpu", "text", "name of the GPU"),
    Column("compute_capability", "text", "such as 9.0"),
    Column("onnxruntime", "text", "version of ONNX Runtime, which computes the reference"),
    Column("harness", "text", "version of harness"),
    Column("host_cpu", "text", "the processor"),
)  # fmt: skip

NAMES = tuple(column.name for column in COLUMNS)
TEXTS = tuple(column.name for column in COLUMNS if column.kind == "text")
#: Columns that the first files did not have; they are null there.
LATER = ("inputs",)
#: What the judgement of tensors reads; the rest is for people.
NEEDED = (
    "run",
    "case",
    "precision",
    "release",
    "build",
    "kind",
    "tensor",
    "sample",
    "index",
    "node",
    "op",
    "error",
    "passed",
    "hash",
    "distance",
)


def arrow_schema():  # pyarrow comes without types
    """The pyarrow schema of every file."""
    import pyarrow as pa

    types = {
        "text": pa.dictionary(pa.int32(), pa.string()),
        "time": pa.timestamp("ms", tz="UTC"),
        "integer": pa.int64(),
        "number": pa.float32(),
        "flag": pa.bool_(),
        "texts": pa.list_(pa.string()),
    }
    return pa.schema([pa.field(column.name, types[column.kind]) for column in COLUMNS])
