"""What goes wrong, and what is said: on the first release of each kind of API."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from contract_rig import Rig, feed
from cuda_double import ILLEGAL_ADDRESS

from harness.worker.adapter import device
from harness.worker.protocol import RUNTIME, TIMING, BuildRequest, Fault

WEAK, BOTH, STRONG = "8.6.0", "10.12.0.36", "11.0.0.114"


@pytest.fixture(params=[WEAK, BOTH, STRONG])
def rig(request: pytest.FixtureRequest, models: dict[str, Path], tmp_path: Path) -> Rig:
    return Rig(request.param, models, tmp_path)


@pytest.fixture
def weak(models: dict[str, Path], tmp_path: Path) -> Rig:
    return Rig(WEAK, models, tmp_path)


def fault_of(rig: Rig, *arguments: Any, **fields: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        rig.build(*arguments, **fields)
    return caught.value


def test_an_operator_that_tensorrt_lacks_is_named_with_its_node(rig: Rig) -> None:
    fault = fault_of(rig, "unsupported")
    assert fault.kind == "unsupported"
    assert "node 1 ('determinant', Det)" in fault.message


def test_a_file_that_is_no_model_is_named(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    with pytest.raises(Fault, match=r"there is no file .*broken\.onnx") as caught:
        rig.adapter.build(BuildRequest(str(path), "fp32"))
    assert caught.value.kind == "bad_request"
    path.write_bytes(b"no model at all")
    with pytest.raises(Fault, match=r"cannot parse .*broken\.onnx") as caught:
        rig.adapter.build(BuildRequest(str(path), "fp32"))
    assert caught.value.kind == "build_failed"


@pytest.mark.parametrize(
    ("release", "precision", "typing", "says"),
    [
        ("8.6.0", "bf16", "auto", "TensorRT 8.6.0 has no precision bf16: use fp16"),
        ("8.6.0", "fp8", "auto", "has no precision fp8: use TensorRT 10"),
        ("8.6.0", "fp16", "strong", "has no strong typing: use weak typing"),
        ("11.0.0.114", "fp16", "weak", "has no weak typing: use strong typing"),
        ("10.12.0.36", "fp8", "weak", "fp8 needs a model with Q/DQ nodes"),
        ("10.12.0.36", "int8", "weak", "Q/DQ nodes or calibration data, and there is neither"),
        ("10.12.0.36", "fp16", "strong", "this one has no HALF tensor: give the model as a typed graph"),
        ("11.0.0.114", "bf16", "auto", "this one has no BF16 tensor"),
        ("11.0.0.114", "int8", "auto", "int8 under strong typing needs a model with Q/DQ nodes"),
        ("8.6.0", "fp17", "auto", "there is no precision 'fp17'"),
    ],
)
def test_what_a_release_cannot_do_is_an_error_with_an_alternative(
    release: str, precision: str, typing: str, says: str, models: dict[str, Path], tmp_path: Path
) -> None:
    rig = Rig(release, models, tmp_path)
    fault = fault_of(rig, "conv", precision, typing=typing)
    assert says in fault.message
    assert fault.kind in ("unsupported", "bad_request")
    assert not rig.world.built, "and nothing is built"


def test_tf32_cannot_be_left_by_an_island(weak: Rig) -> None:
    assert fault_of(weak, "conv", "tf32", islands=("conv1",)).kind == "unsupported"


def test_marks_that_break_a_build_are_blamed(rig: Rig) -> None:
    def broken(network: Any) -> str | None:
        outputs = [network.get_output(index).name for index in range(network.num_outputs)]
        return "Could not find any implementation for node a1." if "a1" in outputs else None

    rig.world.break_build = broken
    fault = fault_of(rig, "conv", observation="typed", marks=("c1", "a1", "c2"))
    assert (fault.kind, fault.marks) == ("marks_failed", ("a1",))
    assert fault.evidence == ("Could not find any implementation for node a1.",)
    rig.build("conv", observation="typed", marks=("c1", "c2"))
    rig.world.break_build = lambda network: "Could not find any implementation for node relu1 + (x.conv2)"
    assert fault_of(rig, "conv", observation="typed", marks=("c1", "a1", "c2")).marks == ("a1",)
    rig.world.break_build = lambda network: "Internal Error"
    assert fault_of(rig, "conv").kind == "build_failed"


def test_memory_that_runs_out_is_distinguished_from_other_failures(rig: Rig) -> None:
    rig.world.break_build = lambda network: "[resize] Error Code 2: OutOfMemory (no further information)"
    assert fault_of(rig, "conv", observation="typed", marks=("c1",)).kind == "out_of_memory"
    rig.world.break_build = lambda network: None
    reply = rig.build("conv")
    rig.gpu.capacity = 300
    with pytest.raises(Fault, match="cudaErrorMemoryAllocation") as caught:
        rig.infer(reply, feed("conv"))
    assert (caught.value.kind, caught.value.fatal) == ("out_of_memory", False)
    rig.gpu.capacity = 1 << 20
    rig.infer(reply, feed("conv"))


def test_a_sticky_cuda_error_ends_the_worker(rig: Rig) -> None:
    reply = rig.build("conv")
    rig.gpu.broken = ILLEGAL_ADDRESS
    with pytest.raises(Fault, match="cudaErrorIllegalAddress") as caught:
        rig.infer(reply, feed("conv"))
    assert (caught.value.kind, caught.value.fatal) == ("cuda_error", True)
    rig.world.break_build = lambda network: (
        "Error Code 1: Cuda Runtime (an illegal memory access was encountered)"
    )
    assert fault_of(rig, "conv").kind == "cuda_error"


def test_without_a_gpu_a_probe_says_so_and_a_build_fails(rig: Rig) -> None:
    rig.world.gpu, rig.gpu.absent = False, 100
    reply = rig.adapter.probe()
    assert not reply.builder_ok
    assert reply.gpu is None
    assert any("there is no GPU" in problem for problem in reply.problems)
    assert any("cannot make a builder" in problem for problem in reply.problems)
    fault = fault_of(rig, "conv")
    assert (fault.kind, fault.fatal) == ("environment", True)
    assert "CUDA initialization failure with error: 100" in fault.evidence


def test_a_builder_that_prefers_fp32_throughout_is_reported(weak: Rig) -> None:
    weak.world.fallback = True
    reply = weak.build("conv", "fp16")
    assert reply.facts.realised.asserted is False
    assert reply.facts.warnings[0].startswith(
        "TensorRT 8.6.0 may use fp16 and chose fp32 for all 2 computing layers"
    )
    island = ("conv1", "relu1", "conv2", "relu2")
    assert weak.build("conv", "fp16", islands=island).facts.realised.islands_ok


def test_an_fp32_engine_of_a_typed_graph_is_an_error(models: dict[str, Path], tmp_path: Path) -> None:
    rig = Rig(STRONG, models, tmp_path)
    rig.world.fallback = True
    fault = fault_of(rig, "typed-fp16", "fp16", typing="strong")
    assert (fault.kind, fault.message[:42]) == ("build_failed", "silent fallback: fp16 was asked for, and T")
    assert fault.evidence[0].startswith("fp32: ")


def test_what_the_inspector_does_not_report_is_not_asserted(weak: Rig) -> None:
    weak.world.fallback = True
    weak.world.opaque = True
    reply = weak.build("conv", "fp16", islands=("conv1",))
    assert (reply.facts.realised.asserted, reply.facts.realised.islands_ok, reply.facts.realised.opaque) == (
        False,
        None,
        1,
    )
    (region,) = reply.facts.layers
    assert (region.precision, region.fused_members) == (None, ("conv1", "relu2"))
    weak.world.names_only = True
    reply = weak.build("conv", "fp16")
    assert [layer.name for layer in reply.facts.layers] == ["conv1 + relu1", "conv2 + relu2"]
    assert not reply.facts.realised.asserted


def test_an_island_that_is_not_kept_is_an_error(weak: Rig) -> None:
    weak.world.disobey = True
    fault = fault_of(weak, "mixed", "fp16", islands=("pow", "mean"))
    assert fault.kind == "build_failed"
    assert "pow was to stay in FP32" in fault.message


def test_an_island_without_floating_point_layers_is_warned_of(weak: Rig) -> None:
    reply = weak.build("mixed", "fp16", islands=("shape", "gather", "pow"))
    assert weak.plan.pinned.keys() == {"pow", "two", "(Unnamed Layer* 7) [Shuffle]"}
    assert "'shape', 'gather'" in reply.facts.warnings[0]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"profiles": {}}, "input 'x' has dynamic axes (-1, 8): give it min, opt and max shapes"),
        ({"profiles": {"x": ((4, 8), (2, 8), (8, 8))}}, "cannot range over (4, 8), (2, 8), (8, 8)"),
        ({"profiles": {"z": ((1,), (1,), (1,))}}, "the model has no input 'z'"),
        ({"observation": "typed", "marks": ("h",), "mark_dtype": "int8"}, "cannot be given the dtype 'int8'"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(weak: Rig, fields: dict[str, Any], says: str) -> None:
    fault = fault_of(weak, "dynamic", **fields)
    assert fault.kind == "bad_request"
    assert says in fault.message


@pytest.mark.parametrize(
    ("feeds", "says"),
    [
        ({}, "the engine takes inputs 'x', 'index', and was given 'x'"),
        ({"index": np.array([1.0, 2.0], np.float32)}, "input 'index' is float32, the engine takes int32"),
        ({"index": np.array([1 << 40, 0])}, "input 'index' holds int64 values beyond int32"),
        ({"index": np.array([1, 0, 2])}, "input 'index' cannot have the shape (3,)"),
        ({"index": np.array([1, 0]), "more": np.array(1)}, "was given 'x', 'index', 'more'"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_name(
    weak: Rig, feeds: dict[str, np.ndarray], says: str
) -> None:
    reply = weak.build("data-dependent")
    with pytest.raises(Fault) as caught:
        weak.infer(reply, {"x": feed("data-dependent")["x"], **feeds})
    assert caught.value.kind == "bad_request"
    assert says in caught.value.message


def test_a_freed_engine_is_not_run(weak: Rig) -> None:
    reply = weak.build("conv")
    weak.adapter.release(reply.engine_id)
    with pytest.raises(Fault, match="there is no engine 'engine-1'"):
        weak.infer(reply, feed("conv"))


def test_an_engine_is_written_where_it_was_asked_for(weak: Rig, tmp_path: Path) -> None:
    reply = weak.build("conv", engine_path=str(tmp_path / "conv.engine"))
    assert (tmp_path / "conv.engine").stat().st_size == reply.facts.engine_bytes
    assert {path.name for path in tmp_path.iterdir()} == {"conv.engine"}


def test_a_cache_that_turns_out_useless_in_a_build_is_dropped(weak: Rig, tmp_path: Path) -> None:
    weak.build("conv")
    path = tmp_path / "cache"
    weak.adapter.save_cache(TIMING, str(path))
    weak.adapter.load_cache(TIMING, str(path))
    loaded = weak.adapter._cache._cache

    def complain(network: Any) -> None:
        weak.world.say("WARNING", "Myelin error from unknown graph. The timing cache will not be used!")

    weak.world.break_build = complain
    assert weak.build("conv").cache_refused
    weak.world.break_build = lambda network: None
    assert not weak.build("conv").cache_refused
    assert weak.plan.config._cache is not loaded


def test_a_calibration_file_that_does_not_fit_is_named(weak: Rig) -> None:
    path = str(weak.write({"x": np.zeros((4, 8), np.float16)}))
    fault = fault_of(weak, "mixed", "int8", calibration=(path,))
    assert fault.kind == "bad_request"
    assert path in fault.message
    assert "float16, the engine takes float32" in fault.message


def test_what_tensorrt_logs_is_in_the_log_of_the_worker(weak: Rig) -> None:
    weak.world.break_build = lambda network: weak.world.say("WARNING", "half of it was zero")
    weak.build("conv")
    assert weak.lines == ["[TensorRT warning] half of it was zero"]


@pytest.mark.parametrize("release", ["1.4.0.76", "1.6.1.120"])
def test_kernels_from_a_file_are_added_to_those_at_hand(
    models: dict[str, Path], tmp_path: Path, release: str
) -> None:
    path = tmp_path / "runtime.cache"
    first, second, third = (Rig(release, models, tmp_path) for _ in range(3))
    first.build("conv")
    first.adapter.save_cache(RUNTIME, str(path))
    second.build("mixed")
    second.adapter.load_cache(RUNTIME, str(path))
    second.adapter.save_cache(RUNTIME, str(path))
    third.adapter.load_cache(RUNTIME, str(path))
    third.build("conv")
    third.build("mixed")
    assert [rig.world.compiled for rig in (first, second, third)] == [1, 1, 0]


def test_kernels_are_named_before_they_are_compiled(models: dict[str, Path], tmp_path: Path) -> None:
    rig = Rig("1.6.1.120", models, tmp_path)
    settle, seen = rig.adapter.settle, []

    def watched() -> None:
        seen.append(rig.world.compiled)
        settle()

    rig.adapter.settle = watched  # type: ignore[method-assign]
    reply = rig.build("conv")
    assert reply.facts.kernels is not None
    assert (seen, rig.world.compiled) == ([0], 1)


def test_what_is_marked_or_has_open_shapes_is_made_ready_at_once(
    models: dict[str, Path], tmp_path: Path
) -> None:
    rig = Rig("1.6.1.120", models, tmp_path)
    rig.adapter.settle = lambda: None  # type: ignore[method-assign]
    rig.build("dynamic")
    assert rig.world.compiled == 1


@pytest.mark.parametrize("content", [b"kernels of another release", b"\xff\x00", b""])
@pytest.mark.parametrize("release", ["1.4.0.76", "1.6.1.120"])
def test_kernels_that_are_of_no_use_are_refused_once(
    models: dict[str, Path], tmp_path: Path, release: str, content: bytes
) -> None:
    path = tmp_path / "runtime.cache"
    path.write_bytes(content)
    rig = Rig(release, models, tmp_path)
    rig.adapter.load_cache(RUNTIME, str(path))
    assert [rig.build("conv").runtime_cache_refused for _ in range(2)] == [bool(content), False]
    assert rig.world.compiled == 1
    rig.adapter.save_cache(RUNTIME, str(path))
    other = Rig(release, models, tmp_path)
    other.adapter.load_cache(RUNTIME, str(path))
    assert not other.build("conv").runtime_cache_refused
    assert other.world.compiled == 0


@pytest.mark.parametrize(
    ("bindings", "library", "said"),
    [
        ("1.6.1.120", 10601, None),
        ("8.6.0", 8600, None),
        ("8.5.3.1", 8503, None),
        ("10.13.3.9", 101303, None),
        ("1.6.1.120", 10400, "its Python bindings are of 1.6.1.120, and /lib/libtensorrt_rtx.so.1 of 1.4.0"),
        ("10.3.0", 8601, "its Python bindings are of 10.3.0, and /lib/libtensorrt_rtx.so.1 of 8.6.1"),
    ],
)
def test_a_library_of_another_release_than_the_bindings_is_not_used(
    monkeypatch: pytest.MonkeyPatch, bindings: str, library: int, said: str | None
) -> None:
    loaded = SimpleNamespace(getInferLibVersion=lambda: library)
    monkeypatch.setattr(device, "loaded_libraries", lambda: ["/lib/libtensorrt_rtx.so.1"])
    monkeypatch.setattr(device, "ctypes", SimpleNamespace(CDLL=lambda path: loaded))
    trt = SimpleNamespace(__version__=bindings)
    if said is None:
        device.check_library(trt)
        return
    with pytest.raises(ImportError) as caught:
        device.check_library(trt)
    assert str(caught.value) == said


def test_a_driver_that_is_too_old_is_reported_with_what_to_do(
    models: dict[str, Path], tmp_path: Path
) -> None:
    rig = Rig("8.6.0", models, tmp_path)
    rig.gpu.absent = 35
    problems = rig.adapter.probe().problems
    assert any("too old for this CUDA runtime: update it, or install" in problem for problem in problems)
