from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from harness.case import Case, make_feeds
from harness.case.inputs import DType
from harness.errors import InputDataError
from harness.tensors import dtype_of, save_tensors

DTYPES = DType.__args__


@dataclass(frozen=True)
class Info:
    name: str = "x"
    dtype: str = "float32"
    shape: tuple[int | str | None, ...] | None = (2, 3)


def case(inputs=None, **keys) -> Case:
    body = {"name": "c", "model": {"path": "m.onnx"}, "inputs": inputs or {}, **keys}
    return Case.model_validate({"path": Path("c.case.yaml"), **body})


def feed(inputs=None, *infos: Info, **keys) -> dict[str, np.ndarray]:
    return make_feeds(case(inputs, **keys), infos or (Info(),))[0]


def refused(inputs=None, *infos: Info, **keys) -> str:
    with pytest.raises(InputDataError) as caught:
        make_feeds(case(inputs, **keys), infos or (Info(),))
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_without_a_case_file_a_shape_is_given_on_the_command_line() -> None:
    nameless = case().model_copy(update={"path": None})
    for shape, tried in ((("batch", 3), "x:[1,3]"), (None, "x:[1,3,224,224]")):
        with pytest.raises(InputDataError) as caught:
            make_feeds(nameless, (Info(shape=shape),))
        assert caught.value.hint == f"give a shape, such as --input '{tried}'"


def test_a_wrong_shape_from_the_command_line_is_blamed_on_it() -> None:
    bare = case({"x": [5, 16]}).model_copy(update={"path": None})
    with pytest.raises(InputDataError, match=r"--input gives shape \[5, 16\]; the model wants \[n, 8\]"):
        make_feeds(bare, (Info(shape=("n", 8)),))


# Seeds


@given(seed=st.integers(0, 2**70), name=st.text(max_size=20), other=st.text(max_size=20))
@settings(max_examples=50)
def test_an_input_depends_on_seed_sample_and_its_own_name_only(seed, name, other):
    alone = make_feeds(case(seed=seed, samples=2), [Info(name)])
    again = make_feeds(case(seed=seed, samples=3), [Info(other + "x", shape=(5,)), Info(name)])
    for before, after in zip(alone, again, strict=False):
        np.testing.assert_array_equal(before[name], after[name])
    assert not np.array_equal(alone[0][name], alone[1][name])
    assert not np.array_equal(alone[0][name], make_feeds(case(seed=seed + 1), [Info(name)])[0][name])


def test_the_data_of_a_seed_stay_what_they_are():
    """Golden references hold only while the inputs are the same on every machine and NumPy release."""
    np.testing.assert_allclose(feed()["x"][0], [1.0867772, -0.8383031, -0.943904], rtol=1e-6)
    fills = {"fill": {"kind": "integers", "low": 0, "high": 100}}
    assert feed({"x": fills}, Info(dtype="int64"))["x"][0].tolist() == [58, 59, 60]


def test_a_model_and_its_half_precision_sibling_see_the_same_data():
    full = feed({}, Info(shape=(100,)))["x"]
    half = feed({}, Info(shape=(100,), dtype="float16"))["x"]
    np.testing.assert_array_equal(full.astype(np.float16), half)


# Fills and dtypes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (4, 5)])
def test_every_dtype_has_a_default_fill(dtype, shape):
    array = feed({}, Info(dtype=dtype, shape=shape))["x"]
    assert array.dtype == dtype_of(dtype)
    assert array.shape == shape
    assert array.flags.c_contiguous
    assert np.isfinite(array.astype(np.float64)).all()


@pytest.mark.parametrize("dtype", ["int4", "uint4"])
def test_four_bit_integers_are_filled(dtype):
    spec = {"fill": {"kind": "integers", "low": 0, "high": 8}}
    array = feed({"x": spec}, Info(dtype=dtype, shape=(100,)))["x"]
    assert array.dtype == getattr(ml_dtypes, dtype)
    assert set(array.astype(int)) <= set(range(8))


def test_integers_by_default_are_valid_as_index_mask_and_token_type():
    assert set(feed({}, Info(dtype="int64", shape=(50,)))["x"]) == {0, 1}
    pixels = feed({}, Info(dtype="uint8", shape=(5000,)))["x"]
    assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if "float" in dtype])
def test_uniform_and_normal_draw_floats_of_their_distribution(dtype):
    wide = Info(dtype=dtype, shape=(4000,))
    uniform = feed({"x": {"fill": {"kind": "uniform", "low": -2, "high": 4}}}, wide)["x"].astype(np.float64)
    assert uniform.min() >= -2
    assert uniform.max() <= 4
    assert abs(uniform.mean() - 1) < 0.15
    normal = feed({"x": {"fill": {"kind": "normal", "mean": 1, "std": 2}}}, wide)["x"].astype(np.float64)
    assert abs(normal.mean() - 1) < 0.15
    assert abs(normal.std() - 2) < 0.15


def test_integers_stay_below_high_and_reach_both_ends():
    spec = {"fill": {"kind": "integers", "low": -3, "high": 3}}
    for dtype in ("int8", "int32", "int64", "float32", "bfloat16"):
        assert set(feed({"x": spec}, Info(dtype=dtype, shape=(500,)))["x"].astype(int)) == {
            -3,
            -2,
            -1,
            0,
            1,
            2,
        }


def test_the_largest_integers_can_be_drawn():
    spec = {"fill": {"kind": "integers", "low": 2**64 - 2, "high": 2**64}}
    assert feed({"x": spec}, Info(dtype="uint64", shape=(20,)))["x"].min() >= 2**64 - 2


@pytest.mark.parametrize(
    ("fill", "dtype", "value"),
    [(0.5, "float16", 0.5), (7, "uint8", 7), (True, "bool", True), (1, "bool", True), (2.0, "int32", 2)],
)
def test_a_constant_fills_every_element(fill, dtype, value):
    assert (feed({"x": {"fill": fill}}, Info(dtype=dtype))["x"] == value).all()


def test_a_constant_may_be_infinite():
    assert np.isinf(feed({"x": {"fill": float("inf")}}, Info(dtype="float16"))["x"]).all()


@pytest.mark.parametrize(
    ("fill", "dtype", "message"),
    [
        (1e6, "float16", "the value 1e+06 overflows float16"),
        (500, "float8_e4m3fn", "the value 500 overflows float8_e4m3fn"),
        (0.5, "int32", "the constant 0.5 does not fit int32"),
        (256, "uint8", "the constant 256 does not fit uint8"),
        (2, "bool", "the constant 2 does not fit bool"),
        (float("nan"), "int8", "the constant nan does not fit int8"),
        (
            {"kind": "integers", "low": 0, "high": 300},
            "uint8",
            "whole numbers from 0 to 299 do not fit uint8",
        ),
        ({"kind": "integers", "low": -1, "high": 2}, "bool", "whole numbers from -1 to 1 do not fit bool"),
        ({"kind": "integers", "low": 0, "high": 2**64}, "float32", "whole numbers from 0 to"),
        ({"kind": "normal", "std": 1e6}, "float16", "overflows float16"),
        ({"kind": "uniform", "high": 1e300}, "float32", "`uniform` draws values beyond float32"),
        ("normal", "int64", "`normal` fills floats, this input is int64 (use `integers`)"),
        ("uniform", "bool", "`uniform` fills floats, this input is bool (use `integers`)"),
    ],
)
def test_values_that_do_not_fit_are_refused(fill, dtype, message):
    text = refused({"x": {"fill": fill}}, Info(dtype=dtype))
    assert text.startswith("c.case.yaml: input 'x': ")
    assert message in text


# Shapes


def test_a_static_input_needs_no_description():
    assert feed({}, Info(shape=(4, 1)))["x"].shape == (4, 1)


def test_dynamic_axes_take_the_shape_of_the_case():
    assert feed({"x": [7, 3]}, Info(shape=("batch", 3)))["x"].shape == (7, 3)
    ranged = {"min": [1, 3], "opt": [2, 3], "max": [4, 3]}
    assert feed({"x": ranged}, Info(shape=("batch", 3)))["x"].shape == (2, 3)
    assert feed({"x": [2, 2]}, Info(shape=None))["x"].shape == (2, 2)


@pytest.mark.parametrize(
    ("spec", "info", "message"),
    [
        (
            {},
            Info(shape=("batch", 3, None)),
            "input 'x': axes 0 (batch), 2 of [batch, 3, ?] are dynamic (give `inputs.x.shape` in the case)",
        ),
        (
            {},
            Info(shape=(1, "length")),
            "input 'x': axis 1 (length) of [1, length] is dynamic (give `inputs.x.shape` in the case)",
        ),
        ({}, Info(shape=None), "input 'x': its rank is unknown (give `inputs.x.shape` in the case)"),
        (
            {"x": [2, 3, 4]},
            Info(),
            "input 'x': the case gives rank 3, shape [2, 3, 4]; the model wants rank 2, shape [2, 3]",
        ),
        (
            {"x": [2, 4]},
            Info(shape=("batch", 3)),
            "input 'x': the case gives shape [2, 4]; the model wants [batch, 3], axis 1 differs",
        ),
        (
            {"x": {"dtype": "float16"}},
            Info(),
            "input 'x': the model wants dtype float32, the case says float16",
        ),
        *(
            (
                {},
                Info(dtype=dtype, shape=None),
                f"input 'x': inputs of dtype {dtype} cannot be fed: engines of TensorRT have tensors of numbers alone "
                "(let the model begin behind what reads it)",
            )
            for dtype in ("string", "seq(float32)", "optional(float32)")
        ),
        ({"imag": [1]}, Info("image"), "the model has no input 'imag' (did you mean `image`?)"),
        ({"zzz": [1]}, Info("image"), "the model has no input 'zzz' (its inputs are image)"),
        (
            {"x": {"shape": [9, 3], "min": [1, 3], "max": [9, 3]}},
            Info(shape=(4, 3)),
            "input 'x': the case gives shape [9, 3]; the model wants [4, 3], axis 0 differs",
        ),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(spec, info, message):
    assert refused(spec, info) == f"c.case.yaml: {message}"


def test_inputs_that_share_an_axis_agree_on_its_length():
    infos = (Info("a", shape=("batch", 2)), Info("b", shape=("batch",)))
    assert feed({"a": [3, 2], "b": [3]}, *infos)["b"].shape == (3,)
    assert "axis 'batch' has length 4, in input 'a' it has 3" in refused({"a": [3, 2], "b": [4]}, *infos)


# Files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def file(path, **keys) -> dict:
    return {"x": {"fill": {"kind": "file", "path": path, **keys}}}


ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


def write(name: str, **arrays: np.ndarray) -> str:
    path = Path(name)
    if path.suffix == ".npy":
        np.save(path, next(iter(arrays.values())))
    elif path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".safetensors":
        save_tensors(path, arrays)
    else:
        path.write_bytes(numpy_helper.from_array(next(iter(arrays.values()))).SerializeToString())
    return name


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".pb"])
def test_an_array_is_read_from_every_kind_of_file(folder, suffix):
    name = write(f"data{suffix}", anything=np.asfortranarray(ARRAY))
    array = feed(file(name))["x"]
    np.testing.assert_array_equal(array, ARRAY)
    assert array.flags.c_contiguous


@pytest.mark.parametrize("suffix", [".safetensors", ".pb"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn"])
def test_narrow_floats_are_read_from_files_that_keep_them(folder, suffix, dtype):
    array = ARRAY.astype(dtype_of(dtype))
    got = feed(file(write(f"data{suffix}", x=array)), Info(dtype=dtype))["x"]
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got.astype(np.float32), ARRAY)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_of_several_arrays_the_key_or_the_input_name_chooses(folder, suffix):
    name = write(f"data{suffix}", x=ARRAY, other=ARRAY + 1)
    np.testing.assert_array_equal(feed(file(name))["x"], ARRAY)
    np.testing.assert_array_equal(feed(file(name, key="other"))["x"], ARRAY + 1)
    assert "the file has no array 'othr', it holds" in refused(file(name, key="othr"))
    assert "did you mean `other`?" in refused(file(name, key="othr"))
    name = write(f"unnamed{suffix}", a=ARRAY, b=ARRAY)
    assert "has no array 'x', it holds a, b (name one with `key`)" in refused(file(name))


def test_a_list_of_files_gives_one_to_each_sample(folder):
    names = [write(f"{index}.npy", x=ARRAY + index) for index in range(2)]
    feeds = make_feeds(case(file(names), samples=2), [Info()])
    assert [each["x"][0, 0] for each in feeds] == [0, 1]
    same = make_feeds(case(file(names[1]), samples=2), [Info()])
    assert [each["x"][0, 0] for each in same] == [1, 1]


def test_a_file_gives_dynamic_axes_their_length(folder):
    assert feed(file(write("data.npy", x=ARRAY)), Info(shape=("batch", 3)))["x"].shape == (2, 3)


def test_other_byte_orders_are_read(folder):
    got = feed(file(write("data.npy", x=ARRAY.astype(">f4"))))["x"]
    assert got.dtype.isnative
    np.testing.assert_array_equal(got, ARRAY)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            ARRAY.astype(np.float64),
            "data.npy: input 'x': the file holds dtype float64, the model wants float32"
            " (convert the file: data are never cast silently)",
        ),
        (
            ARRAY[None],
            "data.npy: input 'x': the file holds rank 3, shape [1, 2, 3]; the model wants rank 2, shape [2, 3]",
        ),
        (
            ARRAY.T,
            "data.npy: input 'x': the file holds shape [3, 2]; the model wants [2, 3], axis 0 differs",
        ),
    ],
)
def test_a_file_that_does_not_fit_names_file_input_expected_and_actual(folder, array, message):
    assert refused(file(write("data.npy", x=array))) == message


def test_a_file_must_have_the_shape_that_the_case_gives(folder):
    spec = {"x": {"shape": [4, 3], **file(write("data.npy", x=ARRAY))["x"]}}
    text = refused(spec, Info(shape=("batch", 3)))
    assert text == "data.npy: input 'x': the file holds shape [2, 3]; the case wants [4, 3]"


def test_a_file_must_lie_in_the_range_of_the_case(folder):
    fill = file(write("data.npy", x=ARRAY))["x"]
    spec = {"x": {"min": [3, 3], "opt": [4, 3], "max": [8, 3], **fill}}
    assert "shape [2, 3] lies outside of `min` [3, 3] to `max` [8, 3]" in refused(spec, Info(shape=("b", 3)))


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("data.npy", b"not an array", "data.npy: input 'x': not a readable .npy file"),
        ("data.npy", b"", "data.npy: input 'x': not a readable .npy file"),
        ("data.npz", b"PK\x03\x04 nothing", "data.npz: input 'x': not a readable .npz file"),
        ("data.npz", b"x" * 20, "data.npz: input 'x': not a readable .npz file"),
        ("data.safetensors", b"\xff" * 20, "data.safetensors: input 'x': not a readable safetensors file"),
        ("data.pb", b"\xff" * 20, "data.pb: input 'x': not a readable .pb file"),
        ("data.pb", b"", "data.pb: input 'x': not an ONNX TensorProto"),
        (
            "data.csv",
            b"1,2",
            "data.csv: input 'x': cannot read .csv files (use .npy, .npz, .safetensors, .pb)",
        ),
    ],
)
def test_a_damaged_file_is_one_message(folder, name, raw, message):
    Path(name).write_bytes(raw)
    assert message in refused(file(name))


def test_a_truncated_file_is_one_message(folder):
    for suffix in (".npy", ".npz", ".safetensors"):
        path = Path(write(f"data{suffix}", x=np.ones((2, 3), np.float32)))
        path.write_bytes(path.read_bytes()[:-5])
        assert f"data{suffix}: input 'x': not a readable" in refused(file(path.name))


def test_pickled_arrays_are_refused_and_not_run(folder):
    class Evil:
        def __reduce__(self):
            return (Path("ran").touch, ())

    np.save("data.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    np.savez("data.npz", x=np.array([Evil()], dtype=object))
    for name in ("data.npy", "data.npz"):
        assert "not a readable" in refused(file(name))
    assert not Path("ran").exists()


def test_a_dtype_that_a_numpy_file_has_lost_is_explained(folder):
    text = refused(file(write("data.npy", x=ARRAY.astype(ml_dtypes.bfloat16))), Info(dtype="bfloat16"))
    assert "the dtype is lost: 2 raw bytes a value" in text
    assert "use .safetensors" in text


def test_a_missing_file_names_its_nearest_neighbour(folder):
    write("batch.npy", x=ARRAY)
    assert refused(file("bach.npy")) == "bach.npy: input 'x': no such file (did you mean `batch.npy`?)"


def test_external_data_of_a_tensor_outside_its_folder_is_refused(folder):
    (folder / "in").mkdir()
    (folder / "secret").write_bytes(b"\0" * 24)
    tensor = onnx.TensorProto(data_type=1, dims=[2, 3], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    Path("in/data.pb").write_bytes(tensor.SerializeToString())
    assert "in/data.pb: input 'x': not a readable .pb file" in refused(file("in/data.pb"))
