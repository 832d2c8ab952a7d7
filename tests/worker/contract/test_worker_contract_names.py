"""Which TensorRT names the adapter uses, compared with what 24 releases of TensorRT and 4 of TensorRT for RTX have."""

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import test_worker_contract_path as path_steps
import test_worker_contract_tactics as tactic_steps
import trt_core
import trt_double
from contract_rig import Rig

import harness.worker
from harness.worker.adapter import release as release_module
from harness.worker.adapter.release import FEATURES, PRECISIONS, Release

SOURCES = sorted((Path(harness.worker.__file__).parent / "adapter").rglob("*.py"))
RELEASES = tuple(name for name in trt_double.releases() if not trt_core.is_rtx(name))
RTX = tuple(name for name in trt_double.releases() if trt_core.is_rtx(name))


@cache
def offered_by(version: str) -> Release:
    return Release.of(trt_double.make(version))


def since(first: str, last: str | None = None) -> set[str]:
    """The releases from `first` to `last`."""
    end = len(RELEASES) if last is None else RELEASES.index(last) + 1
    return set(RELEASES[RELEASES.index(first) : end])


ALL = {*RELEASES, *RTX}
TO_10 = since("8.5.1.7", "10.16.1.11")
OFFERED = {
    "weak": TO_10,
    "strong": {*since("10.0.1"), *RTX},
    "explicit_batch": {*TO_10, "1.4.0.76"},
    "calibration": TO_10,
    "debug_tensors": {*since("10.0.1"), *RTX},
    "unfused_debug_tensors": {*since("10.12.0.36"), *RTX},
    "timing_cache": ALL,
    "runtime_cache": {*RTX},
    "editable_timing_cache": {*since("10.8.0.43"), *RTX},
    "error_on_timing_cache_miss": {*since("10.0.1"), *RTX},
    "algorithm_selector": TO_10,
    "algorithm_layouts": since("8.5.1.7", "8.6.1"),
    "algorithm_vectors": since("8.6.0", "10.16.1.11"),
    "build_routes": {*since("11.1.0.106"), "1.6.1.120", "1.7.1.116"},
    "inspector": ALL,
    "profiler": ALL,
    "layer_metadata": {*since("8.6.0"), *RTX},
    "parser_node_names": {*since("10.0.1"), *RTX},
    "optimization_level": {*since("8.6.0"), *RTX},
    "version_compatible": {*since("8.6.0"), *RTX},
    "compute_capability": set(RTX),
    "engine_validity": set(RTX),
    "hardware_compatibility:ampere_plus": {*since("8.6.0"), *RTX},
    "hardware_compatibility:same_compute_capability": {*since("10.9.0.34"), *RTX},
}


def trt_names(tree: ast.AST) -> Iterator[str]:
    """`Class` and `Class.member` of every `trt.Class.member` in a source file."""
    for node in ast.walk(tree):
        chain: list[str] = []
        while isinstance(node, ast.Attribute):
            chain.insert(0, node.attr)
            node = node.value
        root = node.id if isinstance(node, ast.Name) else ""
        if root == "self" and chain[:1] == ["_trt"]:
            root, chain = "trt", chain[1:]
        if root == "trt" and chain and not chain[0].startswith("_"):
            yield ".".join(name for name in chain[:2] if not name.startswith("_"))


def in_source() -> set[str]:
    return {name for source in SOURCES for name in trt_names(ast.parse(source.read_text()))}


def has(version: str, name: str) -> bool:
    owner, _, member = name.partition(".")
    table = trt_double.names(version)
    if owner in table[""]:
        return not member
    return owner in table and (not member or member in table[owner])


@pytest.mark.parametrize("feature", sorted(FEATURES))
def test_a_feature_is_offered_by_exactly_these_releases(feature: str) -> None:
    assert {name for name in ALL if offered_by(name).offers(feature)} == OFFERED[feature]


def test_each_release_offers_exactly_these_precisions() -> None:
    both = {"fp32", "tf32", "fp16", "bf16", "fp8", "int8"}
    for name in ALL:
        expected = set()
        if name in TO_10:
            weak = both if name in since("10.0.1") else {"fp32", "tf32", "fp16", "int8"}
            expected |= {("weak", precision) for precision in weak}
        if name in since("10.0.1") or name in RTX:
            expected |= {("strong", precision) for precision in both}
        assert offered_by(name).precisions == expected, name


def test_every_name_asked_for_exists_somewhere() -> None:
    asked = {name for names in FEATURES.values() for name in names}
    asked |= {name for table in PRECISIONS.values() for names in table.values() for name in names}
    for name in sorted(asked | in_source()):
        assert any(has(version, name) for version in ALL), f"no release has trt.{name}"


def test_the_whole_path_touches_every_name_in_the_source(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """So a name that a release lacks is met when the path runs there, and not only on a user's machine."""
    steps = [step for name, step in vars(path_steps).items() if name.startswith("test_")]
    steps += [step for name, step in vars(tactic_steps).items() if name.startswith("test_every_release_")]
    given: dict[str, Any] = {"models": models, "dtype": "float16"}
    used: set[str] = set()
    for version in ("8.6.0", "10.1.0", "10.12.0.36", "11.4.0.106", "1.7.1.116"):
        for step in steps:
            tmp_path = tmp_path_factory.mktemp("step")
            rig = Rig(version, models, tmp_path)
            arguments = {**given, "rig": rig, "tmp_path": tmp_path}
            step(**{name: arguments[name] for name in inspect.signature(step).parameters})
            used |= rig.trt._used
    assert in_source() - used == set()


def test_only_one_module_asks_whether_a_name_is_there() -> None:
    for source in SOURCES:
        if source.name == Path(release_module.__file__).name:
            continue
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr":
                pytest.fail(f"{source.name}:{node.lineno} asks hasattr: add a feature to release.py")
            if isinstance(node, ast.ExceptHandler) and "AttributeError" in ast.unparse(
                node.type or ast.Tuple()
            ):
                assert source.name == "device.py", f"{source.name}:{node.lineno} swallows AttributeError"


def test_no_bit_is_set_by_number() -> None:
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.LShift):
                right = ast.unparse(node.right)
                assert right.startswith("int(trt.") or right == "20", (
                    f"{source.name}:{node.lineno}: 1 << {right}"
                )


def test_the_adapter_is_written_for_python_3_8() -> None:
    for source in SOURCES:
        ast.parse(source.read_text(), feature_version=(3, 8))


class TestTheDouble:
    """It can fail: what a release lacks, or does otherwise, is an error."""

    def test_has_exactly_the_names_of_its_release(self) -> None:
        trt = trt_double.make("11.0.0.114")
        with pytest.raises(AttributeError, match=r"11\.0\.0\.114 has no attribute 'IAlgorithmSelector'"):
            _ = trt.IAlgorithmSelector
        with pytest.raises(AttributeError, match="no attribute 'FP16'"):
            _ = trt.BuilderFlag.FP16
        assert not hasattr(trt.INetworkDefinition, "add_fully_connected")
        assert len(trt_double.names("8.5.1.7")[""]) == 12
        assert set(trt.BuilderFlag.__members__) == set(trt_double.names("11.0.0.114")["BuilderFlag"])

    def test_refuses_what_pybind_refuses(self) -> None:
        trt = trt_double.make("11.0.0.114")
        tensor = trt._world.make("ITensor", name="x", dtype="FLOAT")
        with pytest.raises(AttributeError, match="dtype"):
            tensor.dtype = trt.DataType.HALF
        with pytest.raises(AttributeError, match="colour"):
            tensor.colour = 1
        with pytest.raises(TypeError, match="No constructor"):
            trt.ICudaEngine()

    def test_takes_enums_of_its_own_release_alone(self) -> None:
        old, new = trt_double.make("8.6.0"), trt_double.make("8.6.1")
        config = old._world.make("IBuilderConfig", **trt_core._config_state())
        config.set_flag(old.BuilderFlag.FP16)
        with pytest.raises(TypeError, match="is no BuilderFlag"):
            config.set_flag(new.BuilderFlag.FP16)
        with pytest.raises(TypeError, match="is no BuilderFlag"):
            config.set_flag(old.DataType.HALF)
        assert int(old.BuilderFlag.FP16) != int(new.BuilderFlag.FP16), "values move between releases"

    def test_says_what_it_does_not_act_out(self) -> None:
        trt = trt_double.make("8.6.0")
        config = trt._world.make("IBuilderConfig", **trt_core._config_state())
        with pytest.raises(trt_double.NotActedOut, match=r"IBuilderConfig\.max_aux_streams"):
            _ = config.max_aux_streams

    def test_wants_its_callbacks_initialised(self) -> None:
        trt = trt_double.make("8.6.0")

        class Logger(trt.ILogger):
            def __init__(self) -> None:
                self.forgot = True

        with pytest.raises(AssertionError, match="the real one crashes"):
            trt.Builder(Logger())


def test_a_wrong_name_in_the_adapter_is_met(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`STRICT_TYPES` ended with 8.6: an adapter that sets it works there, and nowhere after."""
    from harness.worker.adapter.building.strategies import Weak

    def configure(self: Weak, config: Any, request: Any, graph: Any) -> None:
        config.set_flag(self._trt.BuilderFlag.STRICT_TYPES)

    monkeypatch.setattr(Weak, "configure", configure)
    Rig("8.6.0", models, tmp_path).build("conv")
    with pytest.raises(AttributeError, match="STRICT_TYPES"):
        Rig("10.0.1", models, tmp_path).build("conv")
