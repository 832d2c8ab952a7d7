"""How a case describes the inputs of its model: shapes, dtypes, and what fills them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from harness.case.scalars import Bool, Float, Frozen, Int, Text, describe, examples, mistake, one_or_list

Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]
Dim = Annotated[int, Field(strict=True, ge=0)]
Shape = tuple[Dim, ...]
DType = Literal[
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
]


_Number = TypeVar("_Number", int, float)


def _above_low(high: _Number, info: ValidationInfo) -> _Number:
    low = info.data.get("low")
    if low is not None and not high > low:
        raise mistake(f"must be above `low`, which is {low}, not {high}")
    return high


class UniformFill(Frozen):
    """Floats drawn evenly from `low` ≤ x < `high`."""

    kind: Literal["uniform"] = "uniform"
    low: Float = 0.0
    """Smallest value."""
    high: Annotated[Float, AfterValidator(_above_low)] = 1.0
    """Upper end, itself not drawn."""


class NormalFill(Frozen):
    """Floats of a normal distribution."""

    kind: Literal["normal"] = "normal"
    mean: Float = 0.0
    """Centre of the distribution."""
    std: Annotated[float, Field(strict=True, ge=0)] = 1.0
    """Standard deviation."""


class IntegersFill(Frozen):
    """Whole numbers drawn evenly from `low` ≤ n < `high`. A float input may have them too."""

    kind: Literal["integers"] = "integers"
    low: Int = 0
    """Smallest value."""
    high: Annotated[Int, AfterValidator(_above_low)] = 2
    """Upper end, itself not drawn: for token ids the size of the vocabulary."""


class PositionsFill(Frozen):
    """Whole numbers that count up along the last axis from 0, in every row alike."""

    kind: Literal["positions"] = "positions"
    high: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Where counting starts anew, itself not counted: the rows of the table that they select from."""


class MaskFill(Frozen):
    """Ones, and zeros at the end of the last axis in the last row: a batch whose last row is padded."""

    kind: Literal["mask"] = "mask"
    padded: Fraction = 0.25
    """The share of the last row that is padded."""
    inverted: Bool = False
    """Ones where it is padded, and zeros elsewhere: a mask that says what is left out."""


def _number(value: Any) -> Any:
    # One message of our own in place of one for each member of the union.
    if not isinstance(value, (bool, int, float)):
        raise mistake(f"must be a number, true or false, not {describe(value)}")
    return value


class ConstantFill(Frozen):
    """Every element has the same value."""

    kind: Literal["constant"] = "constant"
    value: Annotated[Bool | Int | Float, BeforeValidator(_number)] = 0
    """The value; it must fit the dtype of the input."""


class FileFill(Frozen):
    """The array in a file: `.npy`, `.npz`, `.safetensors`, or `.pb` (an ONNX TensorProto)."""

    kind: Literal["file"] = "file"
    path: Annotated[tuple[Text, ...], Field(min_length=1), one_or_list(Text)]
    """The file, relative to the case file, used for every sample; or a list of files, one for each sample."""
    key: Text | None = None
    """Which array of an `.npz` or `.safetensors` file; by default the one named as the input, or the only
    one."""


_AnyFill = UniformFill | NormalFill | IntegersFill | PositionsFill | MaskFill | ConstantFill | FileFill


FILL_KINDS = tuple(model.model_fields["kind"].default for model in get_args(_AnyFill))


def _expand_fill(value: Any) -> Any:
    if isinstance(value, str):
        return {"kind": value}
    if isinstance(value, (bool, int, float)):
        return {"kind": "constant", "value": value}
    return value


Fill = Annotated[
    _AnyFill,
    Field(discriminator="kind"),
    BeforeValidator(
        _expand_fill,
        json_schema_input_type=Literal["uniform", "normal", "integers", "positions", "mask"]
        | float
        | bool
        | _AnyFill,
    ),
]


class InputSpec(Frozen):
    """One input of the model. In a file, a list alone is its shape."""

    model_config = examples(
        {"shape": [1, 3, 224, 224], "fill": "uniform"},
        {"shape": [4, 128], "min": [1, 1], "opt": [4, 128], "max": [16, 512]},
        {"fill": {"kind": "integers", "low": 0, "high": 32000}},
        {"fill": {"kind": "file", "path": ["first.npy", "second.npy"]}},
    )

    shape: Shape | None = None
    """The shape of the data, needed for dynamic axes; by default `opt`, else the file's or the model's."""
    dtype: DType | None = None
    """The dtype that the model must have for this input; another one is a mistake, never a cast."""
    fill: Fill | None = None
    """`normal`, `uniform`, `integers`, `positions`, `mask`, a number, or a mapping with `kind`. By default `normal`
    for floats; for integers and booleans what the graph does with them: rows of the table that they select from,
    positions, or a mask. Where it does not show, all values for booleans and 8-bit integers, else 0 or 1."""
    min: Shape | None = None
    """Smallest shape that the engine must accept."""
    opt: Shape | None = None
    """Shape that the engine is tuned for; by default `shape`."""
    max: Shape | None = None
    """Largest shape that the engine must accept."""

    @field_validator("min", "opt", "max")
    @classmethod
    def _fits(cls, value: Shape | None, info: ValidationInfo) -> Shape | None:
        below = info.field_name != "min"
        for other in {"min": ("shape",), "opt": ("min",)}.get(str(info.field_name), ("shape", "min", "opt")):
            _check_order(other, info.data.get(other), value, below=below)
        return value

    @model_validator(mode="after")
    def _whole_range(self) -> Self:
        if (self.min is None) != (self.max is None):
            raise mistake("`min` and `max` belong together: give both or neither")
        if self.opt is not None and self.min is None:
            raise mistake("`opt` needs `min` and `max` beside it")
        if self.min is not None and self.shape is None and self.opt is None:
            raise mistake("`min` and `max` need a `shape` or an `opt` beside them")
        return self

    @property
    def concrete_shape(self) -> Shape | None:
        """The shape that the case gives to the data: `shape`, else `opt`."""
        return self.shape if self.shape is not None else self.opt


def _check_order(name: str, other: Shape | None, value: Shape | None, *, below: bool) -> None:
    """Raise unless `other` ≤ `value` (or ≥, if not `below`) in every axis."""
    if value is None or other is None:
        return
    if len(value) != len(other):
        raise mistake(f"has {_axes(len(value))}, but `{name}` has {_axes(len(other))}")
    for axis, (mine, its) in enumerate(zip(value, other, strict=True)):
        if (its > mine) if below else (its < mine):
            relation = "below" if below else "above"
            raise mistake(f"axis {axis} is {mine}, {relation} the {its} of `{name}`")


def _axes(count: int) -> str:
    return f"{count} axis" if count == 1 else f"{count} axes"
