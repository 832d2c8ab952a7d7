"""Islands in a network that is pinned to FP16, where no implementation exists for what was asked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from contract_rig import Rig, feed

from harness.worker.adapter.inspection import realised
from harness.worker.adapter.release import FEATURES, Release
from harness.worker.protocol import BuilderOptions, BuildReply, BuildRequest, Fault, LayerInfo, TacticOrders

PINNED = BuilderOptions(pin_precision=True)
NO_FORMATS = "Error Code 9: Internal Error (conv1 + relu1: No supported formats for conv1 + relu1)"
OBEY, PREFER = "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"


@pytest.fixture(params=["8.5.1.7", "8.6.0", "10.1.0", "10.16.1.11"])
def rig(request: pytest.FixtureRequest, models: dict[str, Path], tmp_path: Path) -> Rig:
    return Rig(request.param, models, tmp_path)


@pytest.fixture
def weak(models: dict[str, Path], tmp_path: Path) -> Rig:
    return Rig("8.6.0", models, tmp_path)


def build(rig: Rig, island: tuple[str, ...] = ("conv1",), **fields: Any) -> BuildReply:
    fields = {"islands": island, "options": PINNED, "typing": "weak", **fields}
    return rig.build("conv", "fp16", **fields)


def pins(network: Any) -> dict[str, str]:
    return {layer._name: layer._precision for layer in network._layers if layer._precision is not None}


def breaking(rig: Rig, when: Callable[[dict[str, str], set[str]], bool], says: str = NO_FORMATS) -> None:
    """Let builds fail by the pins of the network and the flags of its configuration."""
    rig.world.break_build = lambda network: says if when(pins(network), rig.world.config._flags) else None


def test_a_build_that_succeeds_as_it_was_asked_for_is_left_alone(rig: Rig) -> None:
    reply = build(rig)
    assert rig.world.attempts == 1
    assert reply.facts.realised.relaxed is None
    assert not any("could not be built" in warning for warning in reply.facts.warnings)
    assert rig.plan.pinned["relu1"] == "HALF"
    assert OBEY in rig.plan.flags


def test_the_neighbours_of_an_island_are_left_to_the_builder_first(rig: Rig) -> None:
    networks: list[Any] = []

    def broken(network: Any) -> str | None:
        networks.append(network)
        return NO_FORMATS if pins(network).get("relu1") == "HALF" else None

    rig.world.break_build = broken
    reply = build(rig)
    assert rig.world.attempts == 2
    assert reply.facts.realised.relaxed == "neighbours_free"
    assert {name: rig.plan.pinned.get(name) for name in ("conv1", "relu1", "conv2", "relu2")} == {
        "conv1": "FLOAT",
        "relu1": None,
        "conv2": "HALF",
        "relu2": "HALF",
    }
    assert OBEY in rig.plan.flags
    assert {layer._name: layer._types for layer in networks[-1]._layers}["relu1"] == {}
    (warning,) = [each for each in reply.facts.warnings if "could not be built" in each]
    assert "not pinned to fp16 (relu1)" in warning
    assert NO_FORMATS in warning
    assert reply.facts.realised.islands_ok is True
    assert rig.infer(reply, feed("conv"))[0]["y"].array.size


def test_what_an_island_reads_from_is_a_neighbour_too(rig: Rig) -> None:
    breaking(rig, lambda pinned, flags: "HALF" in (pinned.get("relu1"), pinned.get("relu2")))
    assert build(rig, ("conv2",)).facts.realised.relaxed == "neighbours_free"
    assert {"relu1", "relu2"}.isdisjoint(rig.plan.pinned)
    assert rig.plan.pinned["conv1"] == "HALF"


def test_then_precisions_are_preferred_in_place_of_obeyed(rig: Rig) -> None:
    breaking(rig, lambda pinned, flags: OBEY in flags, "Could not find any implementation for node {x...y}.")
    reply = build(rig)
    assert rig.world.attempts == 3
    assert reply.facts.realised.relaxed == "preferred"
    assert PREFER in rig.plan.flags
    assert OBEY not in rig.plan.flags
    assert rig.plan.pinned["conv1"] == "FLOAT"
    assert any("preferred, not obeyed" in warning for warning in reply.facts.warnings)
    assert "conv1 + relu1" in rig.world.config._cache._entries, "the one timing cache is in use"


def test_the_first_failure_is_reported_where_nothing_helps(rig: Rig) -> None:
    said = iter([NO_FORMATS, "the second: no implementation", "the third: no implementation"])
    rig.world.break_build = lambda network: next(said)
    with pytest.raises(Fault, match="No supported formats for conv1") as caught:
        build(rig)
    assert caught.value.kind == "build_failed"
    assert caught.value.evidence == (NO_FORMATS,)
    assert rig.world.attempts == 3
    rig.world.break_build = lambda network: None
    assert build(rig).facts.realised.relaxed is None, "the next build is strict again"


@pytest.mark.parametrize(
    ("says", "fields"),
    [
        ("Internal Error (assertion failed)", {}),
        ("OutOfMemory: could not find any implementation, insufficient memory", {}),
        (NO_FORMATS, {"options": BuilderOptions()}),
        (NO_FORMATS, {"island": ()}),
        (NO_FORMATS, {"tactics": TacticOrders()}),
    ],
)
def test_nothing_else_is_tried_again(weak: Rig, says: str, fields: dict[str, Any]) -> None:
    breaking(weak, lambda pinned, flags: True, says)
    with pytest.raises(Fault):
        build(weak, **fields)
    assert weak.world.attempts == 1


def test_marks_of_an_island_are_kept_through_a_relaxation(weak: Rig) -> None:
    networks: list[Any] = []

    def broken(network: Any) -> str | None:
        networks.append(network)
        return NO_FORMATS if pins(network).get("relu1") == "HALF" else None

    weak.world.break_build = broken
    reply = build(weak, observation="typed", marks=("a1",), mark_dtype="float16")
    types = {layer._name: layer._types for layer in networks[-1]._layers}
    assert (types["relu1"], types["conv1"]) == ({0: "HALF"}, {0: "FLOAT"}), "the mark keeps its type"
    assert reply.facts.realised.relaxed == "neighbours_free"
    assert reply.outputs == ("y", "a1")
    assert weak.infer(reply, feed("conv"))[0]["a1"].dtype == "float16"


def test_an_island_that_a_relaxed_engine_does_not_keep_is_an_error(rig: Rig) -> None:
    breaking(rig, lambda pinned, flags: OBEY in flags)
    rig.world.disobey = True
    with pytest.raises(Fault, match=r"conv1.* was to stay in FP32, and TensorRT .* built it in float16"):
        build(rig)
    with pytest.raises(Fault, match="was to stay in FP32"):
        build(rig, ("conv1", "relu1"))


def test_a_layer_that_hides_its_precision_gets_none(weak: Rig) -> None:
    breaking(weak, lambda pinned, flags: OBEY in flags)
    weak.world.opaque = True
    reply = build(weak)
    assert (reply.facts.realised.relaxed, reply.facts.realised.islands_ok) == ("preferred", None)


def shared(precision: str, reads: str, writes: str, name: str = "a + b") -> LayerInfo:
    kind = "kgen" if "myl" in name else "CaskConvolution"
    return LayerInfo(name, kind, ("a", "b"), precision, (reads,), (writes,))


def test_layers_that_an_island_shares_are_looked_at_in_relaxed_engines_alone() -> None:
    request = BuildRequest("m", "fp16", islands=("a",))

    def check(layer: LayerInfo, relaxed: str | None) -> tuple[Any, int]:
        found, warnings = realised.check_realised([layer], request, "weak", "8.6.0", relaxed)
        return found.islands_ok, sum("may not have stayed in FP32" in each for each in warnings)

    assert check(shared("fp16", "float16", "float16"), None) == (None, 0)
    assert check(shared("fp32", "float32", "float16"), "preferred") == (True, 0)
    assert check(shared("fp16", "float16", "float32"), "preferred") == (False, 1)
    assert check(shared("fp16", "float16", "float16", "__myl_a_b"), "preferred") == (False, 1)
    with pytest.raises(Fault, match="a, b was to stay in FP32"):
        check(shared("fp16", "float16", "float16"), "preferred")


@pytest.mark.parametrize("release", ["10.12.0.36", "11.0.0.114", "11.4.0.106"])
def test_strong_typing_knows_no_relaxation(release: str, models: dict[str, Path], tmp_path: Path) -> None:
    rig = Rig(release, models, tmp_path)
    assert Release.of(rig.trt).offers("strong")
    rig.world.break_build = lambda network: NO_FORMATS
    with pytest.raises(Fault, match="No supported formats"):
        rig.build("typed-fp16", "fp16", typing="strong", islands=("island",), options=PINNED)
    assert rig.world.attempts == 1


def test_what_relaxing_needs_is_part_of_weak_typing() -> None:
    assert {"ILayer.reset_precision", "ILayer.reset_output_type"} <= set(FEATURES["weak"])
