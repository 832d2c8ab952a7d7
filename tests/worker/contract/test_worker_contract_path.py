"""The adapter's whole path, on every release: a name that the release lacks fails here."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from contract_rig import Rig, feed

from harness.worker.adapter.release import Release
from harness.worker.protocol import (
    RUNTIME,
    TF32_OFF,
    TF32_ON,
    TIMING,
    BuilderOptions,
    Fault,
    Probe,
    RealisedPrecision,
)


@pytest.fixture
def rig(release: str, models: dict[str, Path], tmp_path: Path) -> Rig:
    return Rig(release, models, tmp_path)


def reference(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def test_every_precision_that_a_release_offers_is_built_and_run(rig: Rig, models: dict[str, Path]) -> None:
    offered = Release.of(rig.trt).precisions
    assert ("weak", "fp16") in offered or ("strong", "fp16") in offered
    for typing, precision in sorted(offered):
        model = "mixed"
        if precision in ("int8", "fp8"):
            model = "quantized"
        elif typing == "strong" and precision in ("fp16", "bf16"):
            model = f"typed-{precision}"
        rig.world.opaque = precision == "fp8"  # no kernel of the double computes in FP8
        reply = rig.build(model, precision, typing=typing)
        assert reply.facts.typing == typing
        tensors, _ = rig.infer(reply, feed(model))
        assert tuple(tensors) == reply.outputs == ("y",)
        if precision != "bf16" or typing == "weak":
            expected = reference(models[model], feed(model))["y"]
            np.testing.assert_allclose(tensors["y"].array, expected, rtol=1e-2, atol=1e-3)
        strong_flag = "STRONGLY_TYPED" in rig.plan.network_flags
        assert strong_flag == (typing == "strong" and rig.world.major == 10)
        assert ("TF32" in rig.plan.flags) == (precision == "tf32")
        weak_flags = {"fp16": "FP16", "bf16": "BF16", "int8": "INT8", "fp8": "FP8"}
        set_flags = rig.plan.flags & set(weak_flags.values())
        assert set_flags == (
            {weak_flags[precision]} if typing == "weak" and precision in weak_flags else set()
        )


def test_a_quantized_model_keeps_its_int8_whatever_is_asked_for_around_it(rig: Rig) -> None:
    for precision in ("fp32", "fp16"):
        if ("weak", precision) in Release.of(rig.trt).precisions:
            rig.build("quantized", precision, typing="weak")
            assert "INT8" in rig.plan.flags


def test_a_pinned_precision_is_asked_for_at_every_float_layer_but_the_islands(rig: Rig) -> None:
    if ("weak", "fp16") not in Release.of(rig.trt).precisions:
        return  # typed by construction
    free = rig.build("mixed", "fp16", typing="weak", options=BuilderOptions(pin_precision=False))
    assert not rig.plan.pinned
    reply = rig.build("mixed", "fp16", typing="weak", options=BuilderOptions(pin_precision=True))
    assert {"pow", "relu", "softmax", "gemm"} <= set(rig.plan.pinned)
    assert "PREFER_PRECISION_CONSTRAINTS" in rig.plan.flags
    assert reply.outputs == free.outputs
    island = ("pow", "mean")
    reply = rig.build(
        "mixed", "fp16", typing="weak", islands=island, options=BuilderOptions(pin_precision=True)
    )
    assert "OBEY_PRECISION_CONSTRAINTS" in rig.plan.flags
    assert reply.facts.realised.islands_ok is True


def test_an_island_stays_in_fp32_and_nothing_else_does(rig: Rig) -> None:
    if ("weak", "fp16") in Release.of(rig.trt).precisions:
        island = ("pow", "mean", "addeps", "sqrt", "norm", "gemm")
        reply = rig.build("mixed", "fp16", typing="weak", islands=island)
        pinned = {name for names in reply.facts.realised.islands.values() for name in names}
        assert {"pow", "mean", "addeps", "sqrt", "gemm"} <= pinned
        assert len(reply.facts.realised.islands["gemm"]) == 3, "product, bias and sum"
        assert not pinned & {"relu", "div", "softmax", "shape", "gather", "target"}
        constants = {"w", "b", "eps", "two", "scale"}  # read by the island alone
        assert set(rig.plan.pinned) == pinned | constants
        assert reply.facts.realised.islands_ok is True
        assert reply.facts.realised.counts["fp32"] > 0 < reply.facts.realised.counts["fp16"]
    if ("strong", "fp16") in Release.of(rig.trt).precisions:
        reply = rig.build("typed-fp16", "fp16", typing="strong", islands=("island",))
        assert reply.facts.realised.islands["island"][-1] == "island"
        with pytest.raises(Fault, match="put Casts around it"):
            rig.build("typed-fp16", "fp16", typing="strong", islands=("product",))


@pytest.mark.parametrize("dtype", ["float16", None])
def test_marks_have_the_dtype_under_test(rig: Rig, dtype: str | None) -> None:
    strong = ("weak", "fp16") not in Release.of(rig.trt).precisions
    if strong:
        reply = rig.build("typed-fp16", "fp16", observation="typed", marks=("p", "af"), mark_dtype=dtype)
        tensors, _ = rig.infer(reply, feed("typed-fp16"))
        assert reply.outputs == ("y", "p", "af")
        assert [tensors[name].dtype for name in reply.outputs] == ["float32", "float16", "float32"]
        return
    marks = ("h", "sq", "mask", "rows", "root", "x", "nowhere")
    reply = rig.build("mixed", "fp16", observation="typed", marks=marks, mark_dtype=dtype, islands=("sqrt",))
    assert reply.outputs == ("y", "h", "sq", "mask", "rows", "root")
    assert set(reply.facts.skipped_marks) == {"x", "nowhere"}
    tensors, _ = rig.infer(reply, feed("mixed"))
    integer = "int32" if rig.world.major < 10 else "int64"
    float_dtype = dtype or "float32"
    expected = {"y": "float32", "h": float_dtype, "sq": float_dtype, "mask": "bool", "rows": integer}
    expected["root"] = "float32"  # an island's tensor, whatever the precision under test
    assert {name: tensor.dtype for name, tensor in tensors.items()} == expected
    np.testing.assert_allclose(
        tensors["sq"].array, np.maximum(tensors["h"].array, 0) ** 2, rtol=1e-2, atol=1e-3
    )


def test_a_cut_model_gives_its_own_output_in_the_dtype_under_test(rig: Rig) -> None:
    weak = ("weak", "fp16") in Release.of(rig.trt).precisions
    model = "mixed" if weak else "typed-fp16"
    reply = rig.build(model, "fp16", observation="prefix", marks=("y",), mark_dtype="float16")
    tensors, _ = rig.infer(reply, feed(model))
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {"y": "float16" if weak else "float32"}


def test_debug_tensors_where_there_are_any(rig: Rig) -> None:
    release = Release.of(rig.trt)
    typing = "weak" if ("weak", "fp16") in release.precisions else "strong"
    model, mark = ("mixed", "sq") if typing == "weak" else ("typed-fp16", "p")
    if not release.offers("debug_tensors"):
        with pytest.raises(Fault, match=r"typed.*prefix") as caught:
            rig.build(model, "fp16", observation="debug", marks=(mark,))
        assert caught.value.kind == "unsupported"
        return
    reply = rig.build(model, "fp16", observation="debug", marks=(mark,))
    tensors, answer = rig.infer(reply, feed(model))
    assert set(tensors) == {"y"}, "only if asked"
    tensors, answer = rig.infer(reply, feed(model), repeats=2, debug=True)
    unfused = release.offers("unfused_debug_tensors")
    assert reply.facts.realised.debug == ("unfused" if unfused else "marked")
    name = f"{mark}_cast_1" if unfused else mark
    assert tensors[name].dtype == "float16"
    assert tensors[name].array.size
    assert answer.warnings == ()
    assert set(tensors) > set(reply.outputs) == {"y"}


def test_one_timing_cache_serves_every_build_and_a_file(rig: Rig, tmp_path: Path) -> None:
    path = str(tmp_path / "timing.cache")
    rig.adapter.save_cache(TIMING, path)
    assert not Path(path).exists(), "nothing was built yet"
    assert rig.adapter.load_cache(TIMING, path), "the first run has no file: no refusal"
    rig.build("conv")
    rig.build("conv")
    first, second = (plan.config._cache for plan in rig.world.built)
    assert first is second
    rig.adapter.save_cache(TIMING, path)
    assert Path(path).read_bytes().startswith(f"cache {rig.world.version}".encode())
    assert rig.adapter.load_cache(TIMING, path)
    rig.build("conv", options=BuilderOptions(timing_cache=False))
    assert rig.plan.config._cache is None
    assert "DISABLE_TIMING_CACHE" not in rig.plan.flags, "identical layers of one build share their timings"
    assert rig.plan.config._cache is None


def test_a_refused_timing_cache_is_dropped_and_reported_once(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "timing.cache"
    path.write_bytes(b"of another release")
    assert not rig.adapter.load_cache(TIMING, str(path))
    assert not rig.build("conv").cache_refused
    assert rig.plan.config._cache._entries


def test_the_inspector_reports_what_was_built(rig: Rig) -> None:
    reply = rig.build("conv")
    fused = reply.facts.layers[0]
    assert fused.name == "conv1 + relu1"
    assert fused.fused_members == ("conv1", "relu1") == fused.onnx_nodes
    assert (fused.kind, fused.precision, fused.outputs) == ("CaskConvolution", "fp32", ("a1",))
    assert fused.tactic == "sm80_float_4"
    assert reply.facts.realised == RealisedPrecision(
        "fp32", {"fp32": 2}, asserted=True, tf32=TF32_ON if rig.world.rtx else TF32_OFF
    )


def test_open_shapes_are_run_at_any_shape_in_their_range(rig: Rig, models: dict[str, Path]) -> None:
    reply = rig.build("dynamic")
    assert reply.facts.realised.asserted, "formats are known only once the shapes are set"
    for rows in (1, 8, 3):
        tensors, _ = rig.infer(reply, feed("dynamic", rows))
        expected = reference(models["dynamic"], feed("dynamic", rows))["y"]
        np.testing.assert_allclose(tensors["y"].array, expected, rtol=1e-5, atol=1e-6)
    _, answer = rig.infer(reply, feed("dynamic", 3), profile=True, repeats=2)
    assert answer.layer_ms, "the profiled context is the only one that has the profile"
    rig.infer(reply, feed("dynamic", 8))
    with pytest.raises(Fault, match=r"\(9, 8\).*\(1, 8\) … \(8, 8\)"):
        rig.infer(reply, feed("dynamic", 9))


def test_control_flow_is_built_and_its_inside_is_not_marked(rig: Rig) -> None:
    marks = ("chosen", "scaled", "next", "else_mid", "then_out", "looped")
    reply = rig.build("branches", observation="typed", marks=marks)
    assert reply.outputs == ("y", "chosen", "looped")
    assert {name: reason.split()[-1] for name, reason in reply.facts.skipped_marks.items()} == {
        "scaled": "loop",
        "next": "loop",
        "else_mid": "conditional",
        "then_out": "conditional",
    }
    tensors, _ = rig.infer(reply, feed("branches"))
    np.testing.assert_array_equal(tensors["y"].array, np.maximum(tensors["looped"].array, 0))


def test_an_output_may_be_as_large_as_the_data_wants(rig: Rig) -> None:
    reply = rig.build("data-dependent")
    tensors, _ = rig.infer(reply, feed("data-dependent"))
    x = feed("data-dependent")["x"][[2, 0]]
    np.testing.assert_array_equal(tensors["found"].array, np.nonzero(x > 0))


def test_times_are_of_the_whole_and_of_each_layer(rig: Rig) -> None:
    reply = rig.build("conv")
    _, answer = rig.infer(reply, feed("conv"), repeats=7, profile=True)
    assert answer.latency is not None
    assert (answer.latency.median_ms, answer.latency.p99_ms, answer.latency.n) == (1.5, 1.5, 7)
    assert answer.layer_ms == {"conv1 + relu1": 0.25, "conv2 + relu2": 0.25}
    assert not rig.gpu.events


def test_every_option_of_a_case_is_set_or_refused(rig: Rig) -> None:
    release = Release.of(rig.trt)
    options = BuilderOptions(
        workspace_mib=64,
        avg_timing_iterations=4,
        tactic_sources=("edge_mask_convolutions", "jit_convolutions"),
        sparsity=True,
        tf32=True,
    )
    rig.build("conv", options=options)
    config = rig.plan.config
    assert config._workspace == 64 << 20
    assert config._iterations == 4
    assert config._sources == {"EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"}
    assert config._flags >= {"SPARSE_WEIGHTS", "TF32"}
    later = {
        "optimization_level": 4,
        "version_compatible": True,
        "hardware_compatibility": "ampere_plus",
    }
    for key, value in {**later, "hardware_compatibility:": "same_compute_capability"}.items():
        key = key.rstrip(":")
        feature = f"{key}:{value}" if key == "hardware_compatibility" else key
        if release.offers(feature):
            rig.build("conv", options=BuilderOptions(**{key: value}))
        else:
            with pytest.raises(Fault, match="later"):
                rig.build("conv", options=BuilderOptions(**{key: value}))
    if "CUDNN" not in release.tactic_sources:
        with pytest.raises(Fault, match="no tactic source CUDNN: it has EDGE_MASK_CONVOLUTIONS"):
            rig.build("conv", options=BuilderOptions(tactic_sources=("cudnn",)))


def test_calibration_where_it_is_still_there(rig: Rig) -> None:
    batches = tuple(str(rig.write(feed("dynamic", 4))) for _ in range(3))
    if not Release.of(rig.trt).offers("calibration"):
        with pytest.raises(Fault, match="Q/DQ"):
            rig.build("dynamic", "int8", calibration=batches)
        return
    rig.world.opaque = True
    rig.build("dynamic", "int8", calibration=batches)
    assert rig.plan.batches == 3
    assert rig.plan.config._calibration_profile is rig.plan.config._profiles[0]
    with pytest.raises(Fault, match="neither"):
        rig.build("dynamic", "int8")


def test_a_probe_says_what_the_release_is_and_offers(rig: Rig) -> None:
    reply = rig.adapter.probe()
    assert (reply.tensorrt, reply.builder_ok, reply.problems) == (rig.world.version, True, ())
    assert (reply.gpu, reply.compute_capability, reply.cuda) == ("NVIDIA Double", "9.0", "12.2")
    assert reply.total_bytes == rig.gpu.capacity
    assert {"fp32", "fp16", "timing_cache", "tactic_source:JIT_CONVOLUTIONS"} <= set(reply.capabilities)


def test_what_becomes_of_a_model_is_reported_without_keeping_an_engine(
    rig: Rig, models: dict[str, Path]
) -> None:
    model, fields = "conv", {}
    if ("weak", "fp16") not in Release.of(rig.trt).precisions:
        model, fields = "typed-fp16", {}
        if rig.world.rtx:
            fields = {"options": BuilderOptions(compute_capability="sm86")}
    report = rig.compile(model, "fp16", **fields)
    assert report.built
    assert (report.product, report.release) == (rig.adapter.release_info.product, rig.world.version)
    assert report.kernels.source == "inspector"
    assert report.kernels.compute_capability == ("sm86" if rig.world.rtx else None)
    assert {tensor.dtype for kernel in report.kernels.kernels for tensor in kernel.outputs} >= {"float16"}
    assert not rig.adapter._engines
    rig.world.names_only = True
    assert "says nothing of the kernels" in rig.compile(model, "fp16", **fields).warnings[0]
    (node,) = rig.compile("unsupported", "fp32").refused
    with pytest.raises(Fault) as caught:
        rig.build("unsupported", "fp32")
    assert caught.value.nodes == ((node.name,) if node.name else ())
    assert (node.index, node.op, node.code) == (1, "Det", "UNSUPPORTED_NODE")
    rig.world.break_build = lambda network: "Error Code 10: no implementation for node conv1"
    failed = rig.compile(model, "fp16")
    assert (failed.built, failed.failure.kind, failed.kernels) == (False, "build_failed", None)
    assert failed.failure.message.endswith(
        "returned no engine: Error Code 10: no implementation for node conv1"
    )


def test_an_engine_that_is_built_already_is_loaded(rig: Rig, tmp_path: Path) -> None:
    model = "conv" if ("weak", "fp16") in Release.of(rig.trt).precisions else "typed-fp16"
    path = tmp_path / "engine"
    assert rig.compile(model, "fp16", engine_path=str(path)).engine_bytes == path.stat().st_size
    built = rig.build(model, "fp16")
    attempts = rig.world.attempts
    loaded = rig.build(model, "fp16", prebuilt_path=str(path))
    assert rig.world.attempts == attempts
    same = {"build_seconds": None}
    assert replace(loaded.facts, **same) == replace(built.facts, **same)
    tensors = [rig.infer(reply, feed(model))[0]["y"].array for reply in (loaded, built)]
    np.testing.assert_array_equal(*tensors)
    path.unlink()
    with pytest.raises(Fault, match="there is no file") as caught:
        rig.build(model, "fp16", prebuilt_path=str(path))
    assert caught.value.kind == "bad_request"


def test_tensorrt_for_rtx_compiles_without_a_gpu_and_runs_nothing(rig: Rig, models: dict[str, Path]) -> None:
    seen = rig.compile("typed-fp16", "fp16").kernels if rig.world.rtx else None
    rig.world.gpu, rig.gpu.absent = False, 100
    rig.adapter.close()
    if not rig.world.rtx:
        with pytest.raises(Fault, match="cannot make a builder"):
            rig.compile("conv", "fp32")
        return
    probe = rig.adapter.probe()
    assert (probe.builder_ok, probe.cannot_run, probe.problems) == (True, "no GPU: cannot run", ())
    report = rig.compile("typed-fp16", "fp16")
    assert report.kernels.source == "log"
    assert [kernel.onnx_nodes for kernel in report.kernels.kernels] == [
        kernel.onnx_nodes for kernel in seen.kernels
    ]
    with pytest.raises(Fault, match="can compile here but not run: there is no GPU") as caught:
        rig.build("typed-fp16", "fp16")
    assert caught.value.kind == "environment"


def test_a_gpu_that_takes_no_engine_is_found_by_a_build(rig: Rig) -> None:
    assert rig.adapter.probe(Probe(load=True)).cannot_run is None
    if not rig.world.rtx:
        return
    rig.world.refuses = "UNSUPPORTED_CC"
    assert rig.adapter.probe(Probe(load=True)).cannot_run == "refuses this GPU: compute capability 9.0"
    with pytest.raises(
        Fault, match=r"could not load it \(unsupported cc\): use a release that supports this GPU"
    ):
        rig.build("typed-fp16", "fp16")
    rig.world.refuses = "OLD_CUDA_DRIVER"
    assert rig.adapter.probe(Probe(load=True)).cannot_run == "refuses this GPU: old cuda driver"


def test_everything_is_given_back(rig: Rig) -> None:
    first, second = rig.build("conv"), rig.build("mixed")
    rig.infer(first, feed("conv"), profile=True, repeats=1)
    rig.infer(second, feed("mixed"))
    rig.adapter.release(first.engine_id)
    rig.adapter.release("engine-99")
    assert rig.gpu.blocks
    rig.adapter.close()
    assert not rig.gpu.blocks
    assert not rig.gpu.streams
    assert not rig.gpu.events


def test_compiled_kernels_serve_every_engine_and_a_file(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "runtime.cache"
    rig.adapter.load_cache(RUNTIME, str(path))
    rig.adapter.save_cache(RUNTIME, str(path))
    assert not path.exists(), "there was no engine yet"
    offered = Release.of(rig.trt).offers("runtime_cache")
    assert offered == rig.world.rtx
    for _ in range(2):
        assert not rig.build("conv").runtime_cache_refused
    assert rig.world.compiled == int(offered)
    rig.adapter.save_cache(RUNTIME, str(path))
    assert path.exists() == offered
