"""The schema of a case file: one model, its inputs, its runs and their tolerances.

Pure pydantic: importing this module imports neither NumPy nor ONNX. Everything is frozen; scalars are strict
(the text `"3"` is not a number, nor `true` 1). What one field means to another is checked by the validator of
the later field, so that the mistake stands at its own key and other mistakes of the same mapping are still
reported beside it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from harness.case.inputs import FileFill, InputSpec
from harness.case.scalars import (
    Bool,
    Frozen,
    Sha256,
    Text,
    examples,
    mistake,
    one_or_list,
    short_for,
    text_like,
    version_in_range,
    version_range,
)
from harness.case.tolerances import Tolerance
from harness.case.waivers import Waiver
from harness.tensors import Accumulate, Precision
from harness.text import suggestion

CASE_SUFFIX = ".case.yaml"

Function = Annotated[
    str, text_like(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$", "`module:function`, such as `models:mlp`")
]
Url = Annotated[str, text_like(r"^(https?|file)://.", "a URL of http, https or file")]
Tag = Annotated[
    str,
    text_like(r"^[A-Za-z_][A-Za-z0-9_.-]*$", "a word of letters, digits, `_`, `-` and `.`, a letter first"),
]


#: A range of releases of TensorRT, or of TensorRT for RTX, whose numbers began anew.
_TENSORRT = re.compile(r"(tensorrt(?:-rtx)?)\s*(?=[<>=!~])")


def _release_range(value: str) -> str:
    if name := _TENSORRT.match(value):
        version_range(value[name.end() :])
    return value


Requirement = Annotated[
    str,
    text_like(
        r"^([A-Za-z_]\w*(\.[A-Za-z_]\w*)*|tensorrt(-rtx)?\s*[<>=!~].*)$",
        "the name that is imported, such as `onnxscript`, or a range of releases, such as `tensorrt>=8.6` "
        "or `tensorrt-rtx>=1.5`",
    ),
    AfterValidator(_release_range),
]


EMULATOR, EMULATOR_WITH_KERNELS = "emulator", "emulator+kernels"
_PLACES = (EMULATOR, EMULATOR_WITH_KERNELS, "tensorrt", "tensorrt-rtx")


def _place(value: str) -> str:
    name, releases = _place_parts(value)
    if name not in _PLACES:
        near = suggestion(name, _PLACES)
        raise mistake(f"{value!r} is not one of {', '.join(_PLACES)}" + (f", {near}" if near else ""))
    if releases and name.startswith(EMULATOR):
        raise mistake(f"the emulator has no releases; write {name!r}")
    version_range(releases)
    return value


def _place_parts(value: str) -> tuple[str, str]:
    name = re.split(r"[\s<>=!~]", value, maxsplit=1)[0]
    return name, value[len(name) :].strip()


Place = Annotated[
    Text,
    AfterValidator(_place),
    WithJsonSchema({"type": "string", "pattern": r"^(emulator(\+kernels)?|tensorrt(-rtx)?(\s*[<>=!~].*)?)$"}),
]
"""A candidate that a failure is expected on: `emulator`, `emulator+kernels`, or a product with a range of releases."""

MODEL_SOURCES = ("path", "url", "builder", "torch")


class ModelSource(Frozen):
    """Where the model comes from: exactly one of `path`, `url`, `builder` and `torch`."""

    model_config = examples(
        {"path": "resnet50.onnx"},
        {"builder": "models:mlp", "args": {"width": 256}},
        {"torch": "models:encoder", "opset": 17},
    )

    path: Text | None = None
    """An ONNX file, relative to the case file."""
    url: Url | None = None
    """An ONNX file to download once (http, https or file); needs `sha256`."""
    sha256: Sha256 | None = Field(default=None, validate_default=True)
    """The checksum that the file of `path` or `url` must have."""
    builder: Function | None = None
    """`module:function` that returns an ONNX model; the module is looked up beside the case file first."""
    torch: Function | None = None
    """`module:function` that returns a torch.nn.Module, a tuple of example inputs and, if it likes, a mapping
    of further arguments of torch.onnx.export."""
    args: dict[str, JsonValue] | None = None
    """Keyword arguments of the `builder` or `torch` function."""
    opset: Annotated[int, Field(strict=True, ge=7, le=64)] | None = None
    """The opset to which `torch` exports; 17 is the newest that TensorRT 8.5 and 8.6 read."""
    exporter: Literal["dynamo", "legacy"] | None = None
    """Which exporter of PyTorch `torch` takes: `dynamo` by default, or the `legacy` one by TorchScript."""

    @field_validator("sha256")
    @classmethod
    def _sha256_belongs(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("url") is not None:
            raise mistake("missing: a `url` needs the SHA-256 of its file")
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        _check_source(self, MODEL_SOURCES)
        return self


REFERENCE_SOURCES = ("path", "outputs", "torch")


class ReferenceSource(Frozen):
    """What candidates are compared with in place of the model in FP32: one of `path`, `outputs` and `torch`."""

    model_config = examples(
        {"path": "float.onnx"}, {"outputs": "golden.npz"}, {"torch": "models:encoder", "args": {"depth": 2}}
    )

    path: Text | None = None
    """Another ONNX file, relative to the case file, such as the one that this was converted from."""
    outputs: Annotated[tuple[Text, ...], one_or_list(Text)] = ()
    """Saved outputs by name, relative to the case file: `.npz`, `.safetensors`, or results of polygraphy (`.json`);
    a file for each sample, or one that holds all."""
    torch: Function | None = None
    """`module:function` that returns a torch.nn.Module and a tuple of example inputs; it is run as it is."""
    args: dict[str, JsonValue] | None = None
    """Keyword arguments of the `torch` function."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        _check_source(self, REFERENCE_SOURCES)
        return self


_OF_SOURCES = {
    "args": ("builder", "torch"),
    "opset": ("torch",),
    "exporter": ("torch",),
    "sha256": ("path", "url"),
}
"""Keys that belong to some sources alone."""


def _check_source(source: ModelSource | ReferenceSource, keys: Sequence[str]) -> None:
    """Raise a mistake unless exactly one of `keys` is given, and beside it only what belongs to it."""
    given = [f"`{key}`" for key in keys if getattr(source, key)]
    if len(given) != 1:
        *most, last = (f"`{key}`" for key in keys)
        found = " and ".join(given) or "none of them"
        raise mistake(f"needs exactly one of {', '.join(most)} and {last}, has {found}")
    for key, every in _OF_SOURCES.items():
        owners = [f"`{owner}`" for owner in every if owner in keys]
        if getattr(source, key, None) is not None and given[0] not in owners:
            verb = "belong" if key == "args" else "belongs"
            raise mistake(f"{verb} to {' or '.join(owners)}, not to {given[0]}", at=(key,))


class Metric(Frozen):
    """A metric of the user's own, over the outputs of all samples. In a file, `module:function` alone may not drop."""

    model_config = examples({"function": "scoring:top1", "max_drop": 0.01})

    function: Function
    """`module:function` that takes `reference` and `candidate`, for each sample a dict of outputs by name, and returns
    one number. It is called with the reference in both places, too, for what the candidate is compared with."""
    max_drop: Annotated[float, Field(strict=True, ge=0)] = 0.0
    """How much worse than the reference the candidate may be."""
    better: Literal["higher", "lower"] = "higher"
    """Whether a higher or a lower score is better: `lower` for a word error rate."""
    args: dict[str, JsonValue] | None = None
    """Further keyword arguments."""


class RunSpec(Frozen):
    """One run of a case. In a file, a precision alone is a run that must pass."""

    model_config = examples(
        {"precision": "fp16", "expect": "fail", "reason": "b7_sq overflows", "origin": "b7_sq"}
    )

    precision: Precision
    """The arithmetic under test."""
    expect: Literal["pass", "fail"] = "pass"
    """`fail` is an expected failure: the run is xfail while it fails, and a pass is a failure (xpass)."""
    where: Annotated[tuple[Place, ...], one_or_list(Place)] = ()
    """The candidates on which the failure is expected: `emulator`, `emulator+kernels` (with a kernel list), and
    releases, such as `tensorrt<9` and `tensorrt-rtx>=1.5`. On others the run must pass. By default everywhere."""
    reason: Text | None = Field(default=None, validate_default=True)
    """Why the run fails; needed with `expect: fail`."""
    origin: Annotated[tuple[Text, ...], one_or_list(Text)] = ()
    """Names of the nodes where the error starts; if given, the failing run must have exactly these."""

    @field_validator("reason")
    @classmethod
    def _reason_given(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("expect") == "fail":
            raise mistake("missing: an expected failure needs a reason")
        return value

    @field_validator("where", "origin")
    @classmethod
    def _only_with_failure(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("expect") == "pass":
            raise mistake("belongs to an expected failure; add `expect: fail` and a reason")
        return value

    def expects_failure(self, candidate: str = EMULATOR, release: str | None = None) -> bool:
        """Whether this run is expected to fail.

        Args:
            candidate: `emulator`, `emulator+kernels`, `tensorrt` or `tensorrt-rtx`.
            release: the release of a product.
        """
        if self.expect == "pass" or not self.where:
            return self.expect == "fail"
        return any(
            name == candidate
            and (not releases or (release is not None and version_in_range(release, releases)))
            for name, releases in map(_place_parts, self.where)
        )


class ExpectedFinding(Frozen):
    """A finding of `harness check` that stands in the way and is expected. In a file, a code alone is expected
    everywhere."""

    model_config = examples({"code": "topk-limit", "node": "top_scores", "where": "tensorrt-rtx"})

    code: Text
    """The code of the finding."""
    node: Text | None = None
    """The node that it is about; by default any."""
    where: Annotated[tuple[Place, ...], one_or_list(Place)] = ()
    """The releases on which it is expected, such as `tensorrt-rtx<1.5`; by default all. Rules alone, without an
    environment, speak of every release."""

    def holds_of(self, product: str, release: str) -> bool:
        """Whether it is expected of a release of `tensorrt` or `tensorrt-rtx`."""
        places = map(_place_parts, self.where)
        return not self.where or any(
            name == product and (not releases or version_in_range(release, releases))
            for name, releases in places
        )


class TacticSource(StrEnum):
    """Libraries that TensorRT may take kernels from. The last three end with TensorRT 10."""

    EDGE_MASK_CONVOLUTIONS = "edge_mask_convolutions"
    JIT_CONVOLUTIONS = "jit_convolutions"
    CUBLAS = "cublas"
    CUBLAS_LT = "cublas_lt"
    CUDNN = "cudnn"


PreviewFeature = Annotated[
    str,
    text_like(
        r"^[+-][A-Za-z]\w*$", "a preview feature with `+` or `-` in front, such as `+profile_sharing_0806`"
    ),
]


class BuildOptions(Frozen):
    """Options of the TensorRT builder; the emulator ignores them. Hashable; None is TensorRT's default."""

    typing: Literal["weak", "strong"] | None = None
    """Where the release offers both (10.x): `weak` is the FP16/BF16 flags, `strong` is a typed graph. By
    default weak up to 10.x, strong from 11 on."""
    pin_precision: Bool = False
    """Ask for the precision under test at every layer. Under weak typing the builder otherwise chooses FP32
    wherever it finds that faster, in small models throughout; under strong typing there is no such choice."""
    workspace_mib: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Limit of the workspace memory pool, in MiB."""
    optimization_level: Annotated[int, Field(strict=True, ge=0, le=5)] | None = None
    """The builder's optimization level; TensorRT 8.6 and later."""
    tactic_sources: Annotated[tuple[TacticSource, ...], one_or_list(TacticSource)] | None = None
    """The only libraries to take tactics from; an empty list is none."""
    avg_timing_iterations: Annotated[int, Field(strict=True, ge=1)] | None = None
    """How often the builder times each tactic: more makes its choices steadier, and the build slower."""
    timing_cache: Bool = True
    """Whether builds share a timing cache: faster, and steadier choices of tactics."""
    tf32: Bool | None = None
    """Whether layers that stay in FP32 may use TF32. By default only at precision tf32."""
    sparsity: Bool = False
    """Whether kernels for structured-sparse weights may be chosen."""
    version_compatible: Bool = False
    """Build an engine that later releases can load; TensorRT 8.6 and later."""
    hardware_compatibility: Literal["ampere_plus", "same_compute_capability"] | None = None
    """Build an engine for more GPUs than this one; 8.6 and later (`same_compute_capability`: 10.9)."""
    compute_capability: (
        Annotated[str, text_like(r"^(current|sm\d+)$", "`current`, or a compute capability such as `sm86`")]
        | None
    ) = None
    """The one GPU architecture to build for; TensorRT for RTX, which by default builds for all that it knows."""
    preview_features: Annotated[tuple[PreviewFeature, ...], one_or_list(PreviewFeature)] | None = None
    """Preview features of the release to switch on or off: `+profile_sharing_0806`, `-profile_sharing_0806`."""
    build_route: Text | None = None
    """The values of the builder's knobs, as `-knob=value -knob=value`; TensorRT 11.1 and later."""
    pins: Annotated[tuple[Text, ...], one_or_list(Text)] | None = None
    """Files of pinned tactics, relative to the case file. The one of the release, GPU and precision of a run is
    built with, and a run is an error when TensorRT does not take its choices."""


Run = Annotated[RunSpec, short_for("precision", str, schema=Precision | RunSpec)]
Finding = Annotated[ExpectedFinding, short_for("code", str, schema=str | ExpectedFinding)]
Input = Annotated[InputSpec, short_for("shape", list, tuple, schema=list[int] | InputSpec)]

DEFAULT_RUNS = (RunSpec(precision=Precision.FP32), RunSpec(precision=Precision.FP16))


class CaseBody(Frozen):
    """What a case file holds."""

    model_config = examples(
        {
            "model": {"path": "resnet50.onnx"},
            "inputs": {"image": [1, 3, 224, 224]},
            "runs": ["fp32", "fp16"],
            "tolerances": [{"precision": "fp16", "nrmse": 1e-2}],
        }
    )

    description: Text | None = None
    """One line for a person: what this case watches."""
    model: ModelSource
    """The model under test."""
    reference: ReferenceSource | None = None
    """What candidates are compared with; by default the model itself in FP32."""
    ops: Function | None = None
    """`module:function` that returns operators which ONNX Runtime lacks: classes derived from
    onnx.reference.op_run.OpRun, paths of libraries that ONNX Runtime registers, or a list of both."""
    data: Annotated[tuple[Text, ...], one_or_list(Text)] = ()
    """Files of inputs by name, relative to the case file: `.npz`, `.safetensors`, or inputs that polygraphy saved
    (`.json`). An array with one axis more than the model wants, or a list in `.json`, holds several samples."""
    samples: Annotated[int, Field(strict=True, ge=1)] | None = None
    """How many sets of inputs to judge; by default 1, or as many as `data` holds."""
    seed: Annotated[int, Field(strict=True, ge=0)] = 0
    """Seed of the fills and of exported PyTorch weights."""
    inputs: dict[str, Input] = Field(default_factory=dict)
    """What is fed to the model, by the name of the input. An input that is left out has its static shape and
    a default fill."""
    runs: Annotated[tuple[Run, ...], Field(min_length=1)] = DEFAULT_RUNS
    """The precisions to judge; by default fp32 and fp16."""
    tolerances: tuple[Tolerance, ...] = ()
    """Limits in place of the default gates. All rules that match a tensor are merged, the later one wins."""
    metric: Annotated[
        tuple[Annotated[Metric, short_for("function", str, schema=Function | Metric)], ...],
        one_or_list(Function | Metric, mapping=True),
    ] = ()
    """Metrics of the user's own, with a limit on their drop; one or a list."""
    build: BuildOptions = BuildOptions()
    """Options of the TensorRT builder."""
    accumulate: Accumulate = Accumulate.AUTO
    """What the emulator adds up products of FP16 in: fp16 as tensor cores do, in blocks of 16, or fp32; auto is as the
    product and the release beside it do, and fp32 where the emulator stands for none."""
    tags: Annotated[tuple[Tag, ...], one_or_list(Tag)] = ()
    """Words to select cases by; markers in pytest."""
    requires: Annotated[tuple[Requirement, ...], one_or_list(Requirement)] = ()
    """What the runs are skipped without: Python packages, by the name that is imported, and releases, as
    `tensorrt>=8.6` and `tensorrt-rtx>=1.5`. A range binds the product that it names, and never the emulator."""
    waivers: tuple[Waiver, ...] = ()
    """Known failures and drifts that are accepted until a day."""
    findings: tuple[Finding, ...] = ()
    """What `harness check` is expected to find: others that stand in the way fail it, and so do these if they are
    gone."""

    @field_validator("inputs")
    @classmethod
    def _one_file_a_sample(cls, inputs: dict[str, InputSpec], info: ValidationInfo) -> dict[str, InputSpec]:
        samples = info.data.get("samples")
        for name, spec in inputs.items():
            files = spec.fill.path if isinstance(spec.fill, FileFill) else ()
            wanted = 1 if samples is None and not info.data.get("data") else samples
            if wanted is not None and len(files) > 1 and len(files) != wanted:
                raise mistake(f"lists {len(files)} files for {wanted} samples", at=(name, "fill", "path"))
        return inputs

    @field_validator("runs")
    @classmethod
    def _each_precision_once(cls, runs: tuple[RunSpec, ...]) -> tuple[RunSpec, ...]:
        twice = [name for name, count in Counter(run.precision.value for run in runs).items() if count > 1]
        if twice:
            raise mistake(f"{' and '.join(twice)} given more than once")
        return runs


class Case(CaseBody):
    """A case with its name and file."""

    name: Text
    """Name of the case: the file's name without `.case.yaml`."""
    path: Path | None = None
    """The case file; None for a case made in memory."""
    given: tuple[str, ...] = ()
    """The options of a command that gave it data or a reference which no file says."""

    @property
    def folder(self) -> Path:
        """The folder that the relative paths of the case start from."""
        return Path() if self.path is None else self.path.parent

    @property
    def names_functions(self) -> bool:
        """Whether it names a function of the user's own: a builder, a PyTorch module, a metric, operators."""
        eager = self.reference is not None and self.reference.torch
        return bool(self.model.builder or self.model.torch or self.metric or self.ops or eager)

    def resolve(self, path: str | Path) -> Path:
        """`path` as the case means it: relative to the case file."""
        return self.folder / path

    @property
    def shape_arguments(self) -> tuple[str, ...]:
        """What `--input` gave to a bare .onnx file, as it takes it: `x:[1,3,224,224]`; a case file has its own."""
        if self.path is not None or self.model.path is None:
            return ()
        return tuple(
            f"{name}:[{','.join(map(str, spec.shape))}]"
            for name, spec in self.inputs.items()
            if spec.shape is not None
        )

    @property
    def required_packages(self) -> tuple[str, ...]:
        """The Python packages in `requires`."""
        return tuple(item for item in self.requires if not _TENSORRT.match(item))

    @property
    def required_releases(self) -> tuple[str, ...]:
        """The ranges of releases in `requires`."""
        return tuple(item for item in self.requires if _TENSORRT.match(item))

    def allows_release(self, version: str, product: str = "tensorrt") -> bool:
        """Whether engines of a release of `product`, `tensorrt` or `tensorrt-rtx`, are to be judged."""
        found = (_TENSORRT.match(item) for item in self.required_releases)
        ranges = [match.string[match.end() :] for match in found if match and match[1] == product]
        return all(version_in_range(version, item) for item in ranges)

    def __repr__(self) -> str:
        """`Case(mlp: fp32, fp16)`."""
        return f"Case({self.name}: {', '.join(run.precision for run in self.runs)})"

    def select_runs(self, precisions: Iterable[Precision] = ()) -> tuple[RunSpec, ...]:
        """The runs at one of `precisions`, in the case's order; all of them if none is named."""
        wanted = frozenset(precisions)
        return tuple(run for run in self.runs if not wanted or run.precision in wanted)
