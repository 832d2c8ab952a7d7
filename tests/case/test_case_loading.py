import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.case import InputSpec, IntegersFill, check_cases, load_case, load_cases, read_document
from harness.errors import CaseFileError, NothingSelectedError
from harness.tensors import Precision

MODEL = "model: {path: m.onnx}\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a case file in the working directory, which messages are relative to."""
    monkeypatch.chdir(tmp_path)

    def write_file(text: str | bytes, name: str = "x.case.yaml") -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_file


def mistakes(path) -> list[str]:
    with pytest.raises(CaseFileError) as caught:
        load_case(path)
    assert caught.value.exit_code == 2
    return str(caught.value).splitlines()


def test_a_whole_case_is_read(write):
    case = load_case(
        write(
            """
description: everything at once
model:
  builder: models:mlp
  args: {width: 256, deep: {list: [1, 2.5, null]}}
samples: 2
seed: 7
inputs:
  x: [1, 3]
  0: {dtype: int64, fill: {kind: integers, low: 0, high: 10}}
  yes: {shape: [2, 8], min: [1, 8], max: [4, 8]}
runs:
  - fp32
  - {precision: fp16, expect: fail, reason: overflow, origin: [sq], where: tensorrt>=8.6}
tolerances:
  - {precision: fp16, output: "y*", nrmse: 1e-3, relative: {factor: 2, floor: 1e-9}}
build: {workspace_mib: 4096, optimization_level: 5, tactic_sources: [cublas], typing: strong}
tags: [mlp, faulty]
requires: onnxscript
waivers:
  - {reason: known, expires: 2026-12-31, precision: fp16}
""",
            "sub/every-thing.case.yaml",
        )
    )
    assert case.name == "every-thing"
    assert case.path == Path("sub/every-thing.case.yaml")
    assert case.model.args == {"width": 256, "deep": {"list": [1, 2.5, None]}}
    assert list(case.inputs) == ["x", "0", "yes"]
    assert case.inputs["x"] == InputSpec(shape=(1, 3))
    assert case.inputs["0"].fill == IntegersFill(low=0, high=10)
    assert case.runs[1].precision is Precision.FP16
    assert case.runs[1].origin == ("sq",)
    assert case.runs[1].where == ("tensorrt>=8.6",)
    assert case.tolerances[0].gates() == {"nrmse": 0.001}
    assert case.tolerances[0].relative.factor == 2
    assert case.requires == ("onnxscript",)
    assert str(case.waivers[0].expires) == "2026-12-31"
    assert case.resolve("a/b.npy") == Path("sub/a/b.npy")


def test_packages_and_releases_are_required_side_by_side(write):
    case = load_case(write(MODEL + "requires: [onnxscript, 'tensorrt >=8.6,<10', 'tensorrt!=9.1']"))
    assert case.required_packages == ("onnxscript",)
    assert case.required_releases == ("tensorrt >=8.6,<10", "tensorrt!=9.1")
    assert [case.allows_release(release) for release in ("8.5.3.1", "8.6.0", "9.1", "9.2.0b1", "10.0")] == [
        *(False, True, False, True, False)
    ]


def test_a_range_of_releases_binds_the_product_that_it_names(write):
    case = load_case(write(MODEL + "requires: ['tensorrt>=8.6', 'tensorrt-rtx>=1.5']"))
    assert (case.allows_release("8.5.3.1"), case.allows_release("10.0.1")) == (False, True)
    assert [case.allows_release(release, "tensorrt-rtx") for release in ("1.4.0.76", "1.7.1.116")] == [
        False,
        True,
    ]
    only = load_case(write(MODEL + "requires: tensorrt-rtx>=1.5"))
    assert only.required_packages == ()
    assert only.allows_release("8.5.3.1")


@pytest.mark.parametrize("text", ["tensorrt>=", "tensorrt-rtx>=new", "tensorrt >= new", "2fast", "numpy>=2"])
def test_a_requirement_is_a_name_or_a_range_of_releases(write, text: str):
    (found,) = mistakes(write(MODEL + f"requires: '{text}'"))
    assert found.startswith("x.case.yaml:2:11: requires")


def test_exponents_are_numbers_and_quoted_numbers_are_not(write):
    assert load_case(write(MODEL + "tolerances: [{nrmse: 1e-3}]")).tolerances[0].nrmse == 0.001
    assert mistakes(write(MODEL + 'tolerances: [{nrmse: "1e-3"}]')) == [
        "x.case.yaml:2:22: tolerances[0].nrmse: must be a number, not the text '1e-3'"
    ]


def test_a_byte_order_mark_is_no_mistake(write):
    assert load_case(write(b"\xef\xbb\xbf" + MODEL.encode())).name == "x"


EVERY_MISTAKE = """\
model:
  builder: models-mlp
  arg: {width: 3}
inputs:
  x: [1, "a"]
  y: {fil: normal, shape: [-1]}
  y: [1]
  shape: {fil: normal}
  z: {fill: {kind: norml}}
  zz: {fill: {kind: normal, sdt: 3}}
  c: {fill: {kind: constant, value: abc}}
  w: {shape: [2, 3], min: [3, 3], max: [4, 4]}
  w2: {shape: [2, 3], min: [1, 3]}
  w3: {fill: {path: x}}
  w4: {dtype: float23}
  w5: {shape: [1], min: [1], opt: [1, 1], max: [0]}
runs:
  - fp61
  - {precision: fp16, expect: fial}
  - {precision: bf16, expect: fail, where: [tensort>=8, emulator>=1, tensorrt>=10x], tensorrt: "9"}
  - precision: fp32
    origin: [a]
sampels: 3
samples: true
seed: 1.5
name: foo
tolerances:
  - precision: [fp16, fp17]
  - {nrmse: abc, cosine: 2}
  - {precision: fp16}
tags: [1, "a b"]
build: {tactic_sources: [cudn], optimization_level: 9}
waivers:
  - {reason: "", expires: soon}
  - {reason: x, expires: 2026-13-45}
description: 3
requires: {}
zebra: 1
"""


def test_every_mistake_is_reported_at_once_at_its_place(write):
    fills = "uniform, normal, integers, positions, mask, constant, file"
    precisions = "fp32, tf32, fp16, bf16, fp8, int8"
    places = "emulator, emulator+kernels, tensorrt, tensorrt-rtx"
    expected = f"""\
2:12: model.builder: must be `module:function`, such as `models:mlp`, not the text 'models-mlp'
3:3: model.arg: unknown key, did you mean `args`?
5:10: inputs.x[1]: must be a whole number, not the text 'a'
6:7: inputs.y.fil: unknown key, did you mean `fill`?
6:28: inputs.y.shape[0]: must be at least 0, not -1
7:3: inputs.y: given twice; first at line 6
8:11: inputs.shape.fil: unknown key, did you mean `fill`?
9:20: inputs.z.fill.kind: 'norml' is not one of {fills}, did you mean `normal`?
10:29: inputs.zz.fill.sdt: unknown key, did you mean `std`?
11:37: inputs.c.fill.value: must be a number, true or false, not the text 'abc'
12:27: inputs.w.min: axis 0 is 3, above the 2 of `shape`
13:7: inputs.w2: `min` and `max` belong together: give both or neither
14:8: inputs.w3.fill.kind: missing; one of {fills}
16:35: inputs.w5.opt: has 2 axes, but `min` has 1 axis
16:48: inputs.w5.max: axis 0 is 0, below the 1 of `shape`
18:5: runs[0]: 'fp61' is not one of {precisions}, did you mean `fp16`?
19:31: runs[1].expect: 'fial' is not one of pass, fail, did you mean `fail`?
20:5: runs[2].reason: missing: an expected failure needs a reason
20:45: runs[2].where[0]: 'tensort>=8' is not one of {places}, did you mean `tensorrt`?
20:57: runs[2].where[1]: the emulator has no releases; write 'emulator'
20:70: runs[2].where[2]: '>=10x' is not a version range; write one such as '>=10.3,<11'
20:86: runs[2].tensorrt: unknown key; say where the failure is expected, such as `where: tensorrt>=10.3`
22:13: runs[3].origin: belongs to an expected failure; add `expect: fail` and a reason
23:1: sampels: unknown key, did you mean `samples`?
24:10: samples: must be a whole number, not true
25:7: seed: must be a whole number, not 1.5
26:1: name: unknown key; the name of a case is the name of its file
28:23: tolerances[0].precision[1]: 'fp17' is not one of {precisions}, did you mean `fp16`?
29:13: tolerances[1].nrmse: must be a number, not the text 'abc'
29:26: tolerances[1].cosine: must be at most 1.0, not 2
30:5: tolerances[2]: a tolerance without a limit; add one, such as `nrmse: 1e-2`
31:8: tags[0]: must be text, not 1; put it in quotes
31:11: tags[1]: must be a word of letters, digits, `_`, `-` and `.`, a letter first, not the text 'a b'
32:53: build.optimization_level: must be at most 5, not 9
34:14: waivers[0].reason: must not be empty
34:27: waivers[0].expires: must be a date such as 2026-12-31, not the text 'soon'
35:26: waivers[1].expires: '2026-13-45' cannot be read as !!timestamp: month must be in 1..12
36:14: description: must be text, not 3; put it in quotes
37:11: requires: must be a list, not a mapping of keys
38:1: zebra: unknown key; known are description, model, reference, ops, data, samples, seed, inputs, runs, tolerances, \
metric, build, accumulate, tags, requires, waivers, findings
"""
    found = [
        line for line in mistakes(write(EVERY_MISTAKE)) if ": 'float23'" not in line and "cudn" not in line
    ]
    assert found == [f"x.case.yaml:{line}" for line in expected.splitlines()]


def test_what_cannot_be_read_hides_no_mistake_of_another_key(write):
    text = MODEL + "inputs:\n  a: {shape: [2], min: [1]}\n  ab: {shape: !!foo [2]}\n"
    assert mistakes(write(text)) == [
        "x.case.yaml:3:6: inputs.a: `min` and `max` belong together: give both or neither",
        "x.case.yaml:4:15: inputs.ab.shape: the tag !!foo is not allowed",
    ]


def test_mistakes_of_all_files_are_reported_together(write):
    write(MODEL + "sed: 1\n", "cases/a.case.yaml")
    write("model: 3\n", "cases/deep/b.case.yaml")
    write(MODEL, "cases/fine.case.yaml")
    with pytest.raises(CaseFileError) as caught:
        load_cases(["cases", "nowhere.case.yaml", "cases/notes.txt"])
    assert str(caught.value).splitlines() == [
        "cases/a.case.yaml:2:1: sed: unknown key, did you mean `seed`?",
        "cases/deep/b.case.yaml:1:8: model: must be a mapping of keys, not 3",
        "cases/notes.txt: no such file or folder",
        "nowhere.case.yaml: no such file or folder",
    ]
    assert [(m.line, m.key) for m in caught.value.mistakes][:2] == [(2, "sed"), (1, "model")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1: the file is empty; a case needs at least a `model`"),
        ("# nothing\n", "1:1: the file is empty; a case needs at least a `model`"),
        ("---\n...\n", "1:1: a case is a mapping of keys, this is empty"),
        ("- a\n- b\n", "1:1: a case is a mapping of keys, this is a list"),
        ("just text\n", "1:1: a case is a mapping of keys, this is the text 'just text'"),
        ("{}\n", "1:1: model: missing"),
        ("model:\n", "1:1: model: must be a mapping of keys, not empty"),
        (
            "model: {}\n",
            "1:8: model: needs exactly one of `path`, `url`, `builder` and `torch`, has none of them",
        ),
        (
            "model: {path: a, builder: b:c}\n",
            "1:8: model: needs exactly one of `path`, `url`, `builder` and `torch`, has `path` and `builder`",
        ),
        ("model: {path: a, args: {}}\n", "1:24: model.args: belong to `builder` or `torch`, not to `path`"),
        ("model: {builder: b:c, opset: 17}\n", "1:30: model.opset: belongs to `torch`, not to `builder`"),
        (
            "model: {url: 'https://x/y'}\n",
            "1:1: model.sha256: missing: a `url` needs the SHA-256 of its file",
        ),
        ("model: {path: m.onnx}\nruns: []\n", "2:7: runs: must hold at least one item"),
        ("model: {path: m.onnx}\nruns: [fp16, fp16]\n", "2:7: runs: fp16 given more than once"),
        ("model: {path: m.onnx}\n\tseed: 1\n", "2:1: a tab cannot stand here; indent with spaces"),
        (
            "model: {path: m.onnx}\n  seed: 1\n",
            "2:3: not YAML: expected <block end>, but found '<block mapping start>' while parsing a block"
            " mapping that starts at line 1",
        ),
        (
            "description: a: b\n",
            "1:15: not YAML: `key: value` cannot start here; check the indentation, and quote text that holds `: `",
        ),
        (
            "model: {path: [a\nruns: b\n",
            "2:5: not YAML: expected ',' or ']', but got ':' while parsing a flow sequence that starts at line 1",
        ),
        (
            "model: @x\n",
            "1:8: not YAML: found character '@' that cannot start any token; put the text in quotes",
        ),
        ("model: *x\n", "1:8: not YAML: found undefined alias 'x'"),
        ("model: 1\n---\nmodel: 2\n", "2:1: a second document starts here; a case file holds one"),
        (b"seed: 1\nmodel: {path: \xe4.onnx}\n", "2:15: byte 0xe4 is not UTF-8; save the file as UTF-8"),
        (b"seed: 1\nmodel: a\x07b\n", "2:9: the character U+0007 is not allowed in YAML"),
        (
            "model: !!python/object:os.system ls\n",
            "1:8: model: the tag !!python/object:os.system is not allowed",
        ),
        ("model: !!set {path}\n", "1:8: model: the tag !!set is not allowed"),
        ("model: &a {path: m, args: *a}\n", "1:8: model.args: holds itself through an alias"),
        ("model: {<<: {path: m}}\n", "1:9: model: merge keys (`<<`) are not supported; repeat the keys"),
        ("model: {[a]: m}\n", "1:9: model: a key must be text, not a list or a mapping"),
        ("model: " + "[" * 800, "1:1: nested too deeply"),
    ],
)
def test_a_file_that_is_no_case_is_refused(write, text, expected):
    assert mistakes(write(text))[0] == f"x.case.yaml:{expected}"


def test_aliases_cannot_grow_without_bound(write):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for level in range(1, 12):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    found = mistakes(write("\n".join(lines)))
    assert any("more than 100000 values, aliases counted" in line for line in found)


def test_a_number_of_files_that_is_not_the_number_of_samples_is_refused(write):
    files = "inputs: {x: {fill: {kind: file, path: [a.npy, b.npy]}}}\n"
    assert load_case(write(MODEL + files + "samples: 2"))
    assert mistakes(write(MODEL + files + "samples: 3")) == [
        "x.case.yaml:2:39: inputs.x.fill.path: lists 2 files for 3 samples"
    ]


def test_a_missing_file_names_its_nearest_neighbour(write):
    write(MODEL, "mobilenet.case.yaml")
    assert mistakes("moblenet.case.yaml") == [
        "moblenet.case.yaml: no such file, did you mean `mobilenet.case.yaml`?"
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_a_mistake(write):
    path = write(MODEL)
    path.chmod(0)
    assert mistakes(path) == ["x.case.yaml: cannot be read: permission denied"]


def test_a_folder_named_as_a_case_is_walked_and_sorted(write):
    for name in ("b.case.yaml", "a.case.yaml", "deep/c.case.yaml", ".hidden/d.case.yaml", "e.yaml"):
        write(MODEL, f"cases/{name}")
    assert [case.name for case in load_cases(["cases"])] == ["a", "b", "c"]
    twice = load_cases(["cases/b.case.yaml", "cases", "./cases/../cases/a.case.yaml"])
    assert [case.name for case in twice] == ["b", "a", "c"]


def test_two_cases_of_one_name_are_refused(write):
    write(MODEL, "cases/one/x.case.yaml")
    write(MODEL, "cases/two/x.case.yaml")
    with pytest.raises(CaseFileError, match=r"a case named 'x' is also in cases/one/x\.case\.yaml"):
        load_cases(["cases"])


def test_a_target_that_is_no_case_file_is_refused(write):
    write("x", "model.onnx")
    with pytest.raises(CaseFileError, match=r"not a case file; its name must end in \.case\.yaml"):
        load_cases(["model.onnx"])


def test_an_empty_folder_selects_nothing(tmp_path):
    with pytest.raises(NothingSelectedError, match=r"no \*\.case\.yaml found") as caught:
        load_cases([tmp_path])
    assert caught.value.exit_code == 5


def test_checking_finds_the_files_that_a_case_names(write):
    write("", "there.npy")
    write("", "net.onnx")
    write(
        "model: {path: nett.onnx}\nsamples: 2\n"
        "inputs:\n  x: {fill: {kind: file, path: [there.npy, here.npy]}}\n",
        "x.case.yaml",
    )
    assert load_case("x.case.yaml")
    with pytest.raises(CaseFileError) as caught:
        check_cases(["."])
    assert str(caught.value).splitlines() == [
        "x.case.yaml:1:15: model.path: no such file: nett.onnx, did you mean `net.onnx`?",
        "x.case.yaml:4:44: inputs.x.fill.path[1]: no such file: here.npy, did you mean `there.npy`?",
    ]


@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
@settings(max_examples=150)
def test_no_bytes_make_the_reader_raise(tmp_path_factory, raw):
    path = tmp_path_factory.getbasetemp() / "any.case.yaml"
    path.write_bytes(raw)
    document = read_document(path)
    for mistake in document.mistakes:
        assert mistake.line >= 1
        assert mistake.column >= 1
    with pytest.raises(CaseFileError):  # none of them is a case by chance
        load_case(path)


_keys = st.sampled_from(
    ["model", "runs", "inputs", "x", "fill", "kind", "precision", "path", "min", "build", "0"]
)
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(["fp16", "normal", "fail", "m:f", "", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(_keys, _values, max_size=6))
@settings(max_examples=150)
def test_no_structure_makes_the_translation_of_mistakes_fail(tmp_path_factory, data):
    import json

    path = tmp_path_factory.getbasetemp() / "structure.case.yaml"
    path.write_text(json.dumps(data))
    try:
        load_case(path)
    except CaseFileError as error:
        for mistake in error.mistakes:
            assert "Input should" not in mistake.message  # pydantic's own words
            assert "validation" not in mistake.message


def test_a_sentence_that_a_comment_cuts_short_is_a_mistake(write):
    text = """model: {path: m.onnx}
description: watches the fault of #4820
runs:
  - precision: fp16
    expect: fail
    reason: fixed by #12
"""
    assert mistakes(write(text)) == [
        "x.case.yaml:2:14: description: the text ends before '#4820', which YAML takes for a comment; "
        "put it in quotes",
        "x.case.yaml:6:13: runs[0].reason: the text ends before '#12', which YAML takes for a comment; "
        "put it in quotes",
    ]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("description: watches it  # a comment", "watches it"),
        ('description: "watches #4820"  #quoted', "watches #4820"),
        ("description: watches C#", "watches C#"),
        ("description: >-  #folded\n  watches #4820", "watches #4820"),
        ("description: watches it\n#a line of its own", "watches it"),
    ],
)
def test_a_comment_that_cuts_no_text_is_accepted(write, line, text):
    assert load_case(write(f"{MODEL}{line}\ntags: [a]  #b\n")).description == text


@pytest.mark.parametrize("key", ["builder", "torch"])
def test_a_check_refuses_builders_of_the_standard_library_at_their_line(write, key):
    path = write(f"description: x\nmodel:\n  {key}: os.path:join\n")
    assert load_case(path)  # what is on the disk, a module `os.py` beside the file for one, is for a check
    with pytest.raises(CaseFileError) as caught:
        check_cases([path])
    assert str(caught.value) == (
        f"x.case.yaml:3:{len(key) + 5}: model.{key}: 'os.path' belongs to Python's standard library, so it builds no "
        "models; name a function of your own, in a module beside the case file"
    )
    Path("os").mkdir()
    Path("os/__init__.py").touch()
    assert check_cases([path])


@pytest.mark.parametrize("key", ["builder", "torch"])
@pytest.mark.parametrize(
    ("function", "module"), [("harness:run", "harness"), ("harness.cli:app", "harness.cli")]
)
def test_a_check_refuses_builders_of_harness_at_their_line(write, key, function, module):
    with pytest.raises(CaseFileError) as caught:
        check_cases([write(f"description: x\nmodel:\n  {key}: {function}\n")])
    assert str(caught.value) == (
        f"x.case.yaml:3:{len(key) + 5}: model.{key}: {module!r} belongs to harness, so it builds no models; "
        "name a function of your own, in a module beside the case file"
    )


@pytest.mark.parametrize("load", [load_cases, check_cases])
@pytest.mark.parametrize("as_path", [str, Path])
def test_one_path_need_not_be_in_a_list(tmp_path, monkeypatch, load, as_path):
    monkeypatch.chdir(tmp_path)
    Path("cases").mkdir()
    Path("cases/a.case.yaml").write_text("model: {builder: b:c}\nruns: [fp16]\n")
    Path("s").mkdir()
    Path("s/b.case.yaml").write_text("model: {builder: b:c}\nruns: [fp16]\n")
    for name in ("cases/", "cases/a.case.yaml"):
        assert [case.name for case in load(as_path(name))] == ["a"]
    assert [case.name for case in load(path for path in ["cases"])] == ["a"]


def test_files_of_a_reference_and_of_data_and_functions_of_metrics_are_checked(tmp_path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    (tmp_path / "x.case.yaml").write_text(
        "model: {path: m.onnx}\nreference: {path: float.onnx}\ndata: [a.npz]\nmetric: os:system\n"
    )
    with pytest.raises(CaseFileError) as caught:
        check_cases(tmp_path)
    assert [mistake.key for mistake in caught.value.mistakes] == ["reference.path", "data[0]", "metric"]
