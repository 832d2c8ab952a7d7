"""Tactics on every release: reported, forced, forbidden, and honest about what was not done."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract_rig import Rig, feed

from harness.worker.adapter.device import build_routes
from harness.worker.adapter.release import Release
from harness.worker.adapter.tactics.tuning_log import TuningLog
from harness.worker.protocol import (
    BuilderOptions,
    BuildReply,
    Choice,
    Fault,
    TacticOrders,
    TacticReport,
    hexadecimal,
)

SELECTOR, BOTH, CACHE = "8.6.0", "10.13.3.9", "11.4.0.106"
FIRST, SECOND = "conv1 + relu1", "conv2 + relu2"


@pytest.fixture
def rig(release: str, models: dict[str, Path], tmp_path: Path) -> Rig:
    return Rig(release, models, tmp_path)


@pytest.fixture(params=[SELECTOR, BOTH, CACHE])
def sample(request: pytest.FixtureRequest, models: dict[str, Path], tmp_path: Path) -> Rig:
    return Rig(request.param, models, tmp_path)


def build(rig: Rig, model: str = "conv", **orders: Any) -> TacticReport:
    return reply_of(rig, model, **orders).facts.tactics


def reply_of(rig: Rig, model: str = "conv", **orders: Any) -> BuildReply:
    reply = rig.build(model, tactics=TacticOrders(**orders))
    assert reply.facts.tactics is not None
    return reply


def of(report: TacticReport, layer: str) -> Choice:
    (choice,) = [choice for choice in report.choices if choice.layer == layer]
    return choice


def others(report: TacticReport, layer: str) -> list[Choice]:
    return [choice for choice in report.alternatives if choice.layer == layer]


def same(first: TacticReport, second: TacticReport) -> bool:
    return chosen(first) == chosen(second)


def chosen(report: TacticReport) -> dict[Any, Any]:
    return {choice.place: choice.variant for choice in report.choices}


# --- on every release ---------------------------------------------------------------------------------------


def test_every_release_reports_what_was_chosen_for_each_layer(rig: Rig) -> None:
    report = build(rig, alternatives=9)
    cache = Release.of(rig.trt).offers("editable_timing_cache")
    assert report.mechanism == ("cache" if cache else "selector")
    assert [choice.layer for choice in report.choices] == [FIRST, SECOND]
    first = of(report, FIRST)
    assert first.members == first.onnx_nodes == ("conv1", "relu1")
    assert first.milliseconds == pytest.approx(0.02, rel=1e-3)
    assert first.kernel == "sm80_float_4"
    assert (report.offered, len(report.alternatives)) == (8, 6)
    assert (report.confirmed, report.contradicted) == (2, ())
    assert not report.misses
    assert not report.problems
    if cache:
        assert (first.implementation, first.inputs) == (None, ())
        assert first.key is not None
    else:
        assert first.implementation == hexadecimal(-2147483639)
        form = first.inputs[0]
        assert (form.dtype, form.strides[-1]) == ("float32", 1)
        old = rig.world.version.startswith("8.5")
        assert form.vectorized_dim == (None if old else -1)
        assert form.layout == (None if rig.world.major >= 10 else "LINEAR")
        assert first.shapes == ((1, 3, 6, 6), (1, 4, 6, 6))


def test_every_release_gives_recorded_choices_back_under_noise(rig: Rig) -> None:
    recorded = build(rig)
    rig.world.noise = 0.5
    natural = [build(rig, number=number) for number in range(6)]
    assert not all(same(recorded, report) for report in natural), "without orders, noise decides"
    for number in range(6):
        replayed = build(rig, force=recorded.choices, number=number)
        assert same(recorded, replayed)
        assert not replayed.misses


def test_every_release_forces_one_choice_and_leaves_the_others(rig: Rig) -> None:
    recorded = build(rig, alternatives=9)
    for wanted in others(recorded, SECOND):
        forced = build(rig, force=(of(recorded, FIRST), wanted))
        assert of(forced, SECOND).variant == wanted.variant
        assert of(forced, FIRST).variant == of(recorded, FIRST).variant
        assert not forced.misses


def test_every_release_forbids_a_choice(rig: Rig) -> None:
    recorded = build(rig)
    unwanted = of(recorded, FIRST)
    report = build(rig, forbid=(unwanted,))
    assert of(report, FIRST).variant != unwanted.variant
    assert of(report, SECOND).variant == of(recorded, SECOND).variant
    assert not report.misses
    assert report.builds == (2 if report.mechanism == "cache" else 1)


def test_every_release_takes_its_own_preview_features_and_build_routes(rig: Rig) -> None:
    release = Release.of(rig.trt)
    for feature in release.preview_features:
        rig.build("conv", options=BuilderOptions(preview_features=(f"-{feature.lower()}",)))
        assert rig.plan.config._previews == {feature: False}
    with pytest.raises(Fault, match=r"has no preview feature \+nonsense"):
        rig.build("conv", options=BuilderOptions(preview_features=("+nonsense",)))
    assert set(rig.adapter.probe().tactic_sources) == set(release.tactic_sources) - {"CUDNN"}
    if release.offers("build_routes"):
        rig.build("conv", options=BuilderOptions(build_route="-fuse=off"))
        assert rig.plan.config._route == "-fuse=off"
        assert rig.adapter.probe().build_routes == {"-fuse": ("on", "off"), "-depth": ("4",)}
    else:
        with pytest.raises(Fault, match=r"TensorRT 11\.1 or later"):
            rig.build("conv", options=BuilderOptions(build_route="-fuse=off"))
        assert rig.adapter.probe().build_routes == {}


def test_every_release_keeps_pins_in_a_cache_file_if_it_has_one(rig: Rig, tmp_path: Path) -> None:
    if not Release.of(rig.trt).offers("editable_timing_cache"):
        with pytest.raises(Fault, match="leave the cache's paths"):
            build(rig, save_cache_path=str(tmp_path / "pins.cache"))
        return
    path = str(tmp_path / "pins.cache")
    wanted = others(build(rig, alternatives=1), FIRST)
    recorded = build(rig, force=tuple(wanted), save_cache_path=path)
    rig.world.noise = 0.5
    again = build(rig, cache_path=path, strict=True)
    assert same(recorded, again)
    with pytest.raises(Fault, match="Timing cache miss for"):
        build(rig, "mixed", cache_path=path, strict=True)


# --- honesty ------------------------------------------------------------------------------------------------


def test_a_layer_that_does_not_obey_is_named_with_what_it_took(sample: Rig) -> None:
    recorded = build(sample, alternatives=9)
    wanted = others(recorded, FIRST)[0]
    sample.world.deaf = {FIRST}
    (miss,) = build(sample, force=(wanted, of(recorded, SECOND))).misses
    assert (miss.order, miss.choice.layer, miss.why) == ("force", FIRST, "not taken")
    assert miss.taken is not None
    assert miss.taken.variant == of(recorded, FIRST).variant
    (miss,) = build(sample, forbid=(of(recorded, FIRST),)).misses
    assert (miss.order, miss.choice.layer, miss.why) == ("forbid", FIRST, "not taken")


def test_what_was_never_offered_and_what_never_came_up_are_distinguished(
    models: dict[str, Path], tmp_path: Path
) -> None:
    rig = Rig(SELECTOR, models, tmp_path)
    first = of(build(rig), FIRST)
    nowhere = replace(first, layer="conv1")
    impossible = replace(of(build(rig), SECOND), tactic=hexadecimal(12345))
    misses = build(rig, force=(first, nowhere, impossible)).misses
    assert [(miss.choice.layer, miss.why) for miss in misses] == [
        ("conv1", "not asked"),
        (SECOND, "not offered"),
    ]
    assert misses[0].taken is None
    assert misses[1].taken is not None


def test_a_layer_of_which_everything_is_forbidden_is_built_and_reported(sample: Rig) -> None:
    recorded = build(sample, alternatives=9)
    everything = [of(recorded, FIRST), *others(recorded, FIRST)]
    misses = build(sample, forbid=tuple(everything)).misses
    assert {miss.why for miss in misses} == {"nothing else"}
    assert {miss.choice.layer for miss in misses} == {FIRST}


def test_an_inspector_that_reports_another_tactic_contradicts(
    sample: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trt_runtime

    real = trt_runtime._entry

    def lie(layer: Any, world: Any, shaped: bool) -> dict[str, Any]:
        entry = real(layer, world, shaped)
        if layer.name == FIRST:
            entry.update(TacticName="sm90_other", TacticValue="0x00000000000000ff")
        return entry

    monkeypatch.setattr(trt_runtime, "_entry", lie)
    report = build(sample)
    assert report.contradicted == (FIRST,)
    assert report.confirmed == 1


def test_an_error_in_the_selector_is_kept_and_the_build_goes_on(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trt_tuning

    rig = Rig(SELECTOR, models, tmp_path)
    monkeypatch.setattr(trt_tuning.IAlgorithmContext, "get_shape", lambda self, index: 3)
    report = build(rig)
    assert report.choices == ()
    assert any("choosing for conv1 + relu1: TypeError" in problem for problem in report.problems)


def test_orders_of_one_mechanism_are_refused_by_the_other(models: dict[str, Path], tmp_path: Path) -> None:
    rig = Rig(BOTH, models, tmp_path)
    by_cache, by_selector = build(rig, mechanism="cache"), build(rig, mechanism="selector")
    assert (by_cache.mechanism, by_selector.mechanism) == ("cache", "selector")
    with pytest.raises(Fault, match="names no implementation"):
        build(rig, mechanism="selector", force=by_cache.choices)
    with pytest.raises(Fault, match="has no key of the timing cache"):
        build(rig, mechanism="cache", force=by_selector.choices)
    with pytest.raises(Fault, match="no mechanism 'luck'"):
        build(rig, mechanism="luck")
    with pytest.raises(Fault, match="use an algorithm selector"):
        build(Rig("10.7.0", models, tmp_path), mechanism="cache")
    with pytest.raises(Fault, match="use the editable timing cache"):
        build(Rig(CACHE, models, tmp_path), mechanism="selector")


def test_a_cache_that_is_refused_or_not_there_is_an_error(models: dict[str, Path], tmp_path: Path) -> None:
    rig = Rig(CACHE, models, tmp_path)
    with pytest.raises(Fault, match=r"cannot be read.*nowhere"):
        build(rig, cache_path=str(tmp_path / "nowhere"))


def test_the_log_is_released_and_the_shared_cache_is_left_alone(sample: Rig) -> None:
    listeners = sample.adapter.log.verbose_listeners
    before = list(listeners)
    build(sample)
    sample.world.break_build = lambda network: "Could not find any implementation for node conv1"
    with pytest.raises(Fault):
        build(sample)
    assert listeners == before
    sample.world.break_build = lambda network: None
    sample.build("conv")
    shared = sample.plan.config._cache
    build(sample)
    own = sample.plan.config._cache
    assert own is not shared


def test_what_earlier_builds_timed_does_not_narrow_what_is_offered(sample: Rig) -> None:
    first = build(sample, alternatives=9)
    sample.build("conv")  # keeps its timings for the builds after it
    recorded = build(sample, alternatives=9)
    assert len(recorded.alternatives) == len(first.alternatives)
    other = others(recorded, SECOND)[0]
    forced = build(sample, force=(other,))
    assert not forced.misses
    assert of(forced, SECOND).variant == other.variant


def test_a_build_without_orders_is_as_it_was(sample: Rig) -> None:
    reply = sample.build("conv")
    assert reply.facts.tactics is None
    assert sample.plan.config._selector is None
    assert "EDITABLE_TIMING_CACHE" not in sample.plan.flags


def test_a_wrong_kernel_is_wrong_only_where_it_is_chosen(sample: Rig) -> None:
    """What the tests of the search rest on."""
    recorded = build(sample, alternatives=9)
    well, sick = (
        reply_of(sample, force=(choice,)) for choice in (of(recorded, SECOND), others(recorded, SECOND)[0])
    )
    bad = of(sick.facts.tactics, SECOND).kernel
    assert bad != of(well.facts.tactics, SECOND).kernel
    sample.world.wrong = lambda layer: layer.name == SECOND and layer.tactic == bad
    healthy, _ = sample.infer(well, feed("conv"))
    wrong, _ = sample.infer(sick, feed("conv"))
    np.testing.assert_allclose(wrong["y"].array, healthy["y"].array + 1, rtol=1e-6)


class TestTheEditableCache:
    """Entries can be overwritten and not made: what is ordered needs a build that knows the operator."""

    def test_a_process_that_knows_the_network_takes_one_build(
        self, models: dict[str, Path], tmp_path: Path
    ) -> None:
        rig = Rig(CACHE, models, tmp_path)
        recorded = build(rig, alternatives=9)
        rig.world.noise = 0.5
        replayed = build(rig, force=recorded.choices)
        assert (replayed.builds, replayed.offered) == (1, 0)
        assert same(recorded, replayed)

    def test_a_process_that_does_not_takes_two(self, models: dict[str, Path], tmp_path: Path) -> None:
        recorded = build(Rig(CACHE, models, tmp_path), alternatives=9)
        wanted = tuple(others(recorded, layer)[0] for layer in (FIRST, SECOND))
        fresh = build(Rig(CACHE, models, tmp_path), force=wanted)
        assert fresh.builds == 2
        assert not fresh.misses
        assert [of(fresh, layer).tactic for layer in (FIRST, SECOND)] == [each.tactic for each in wanted]

    def test_what_is_not_ordered_is_tuned_again(self, models: dict[str, Path], tmp_path: Path) -> None:
        rig = Rig(CACHE, models, tmp_path)
        recorded = build(rig)
        rig.world.noise = 0.5
        second = {of(build(rig, force=(of(recorded, FIRST),), number=n), SECOND).tactic for n in range(8)}
        assert len(second) > 1

    def test_a_tactic_that_the_layer_cannot_use_fails_the_build(
        self, models: dict[str, Path], tmp_path: Path
    ) -> None:
        rig = Rig(CACHE, models, tmp_path)
        first = of(build(rig), FIRST)
        with pytest.raises(Fault, match="cannot use the tactic") as caught:
            build(rig, force=(replace(first, tactic=hexadecimal(12345)),))
        assert caught.value.kind == "build_failed"

    def test_a_key_that_never_comes_up_is_reported(self, models: dict[str, Path], tmp_path: Path) -> None:
        rig = Rig(CACHE, models, tmp_path)
        first = of(build(rig), FIRST)
        (miss,) = build(rig, force=(replace(first, key="0x" + "ab" * 16),)).misses
        assert (miss.why, miss.taken) == ("not asked", None)


# --- the log ------------------------------------------------------------------------------------------------

BLOCK = """\
[V] [TRT] Autotuning op /l.0/MatMul + b (v2)(key: 0x1814870C44FF0F8574DF6E3DDA04CBD7): [ONNX Layer: /l.0/MatMul]
Sorted table of all evaluated tactics:
tactic_id, cost(in ms), cost/fastest_cost, prediction_correlation, kernel_name, tactic_hash, tunable_parameter
   3, 0.0112640, 1.00000, 0.50673, sm80_xmma_gemm_f32f32_nn_n_tilesize32x32x64_stage3, 0x665ded9abbf88,
   5, 1.18784e-02, 1.05455, 0.51157, sm80_xmma_gemm_f32f32_nn_n_tilesize64x32x64_stage4, 0x393e4ef8ad243, split_k=2, 3
   6, nan, 1.10000, 0.50600, __myl_MatMul, 0x2ad3a182fb05c,
Some other line, 0x12
The selected tactic is (tactic hash, cost(in ms)):0x665ded9abbf88,  0.011264
Writing the best tactic (0x665ded9abbf88) to cache
   7, 0.0200000, 2.00000, 0.50600, behind_the_table, 0x2ad3a182fb05d,
"""


def read(text: str) -> TuningLog:
    log = TuningLog()
    log.add(text)
    return log


class TestTheTuningLog:
    def test_reads_the_documented_block(self) -> None:
        (operator,) = read(BLOCK).operators
        assert operator.name == "/l.0/MatMul + b (v2)"
        assert operator.key == "0x1814870c44ff0f8574df6e3dda04cbd7"
        assert operator.onnx_nodes == ("/l.0/MatMul",)
        assert operator.selected == "0x000665ded9abbf88"
        assert [each.kernel[-6:] for each in operator.candidates] == ["stage3", "stage4", "MatMul"]
        assert [each.milliseconds for each in operator.candidates[:2]] == [0.011264, 0.0118784]
        assert operator.candidate("0x000393e4ef8ad243") is operator.candidates[1]
        assert operator.candidate("0x0000000000000000") is None

    def test_does_not_care_how_lines_are_cut_into_messages(self) -> None:
        log = TuningLog()
        for line in BLOCK.splitlines():
            log.add(line)
        assert log.operators == read(BLOCK).operators
        assert read(BLOCK.replace("\n", "\r\n")).operators == read(BLOCK).operators

    def test_keeps_operators_apart_and_the_table_of_one_that_is_named_again(self) -> None:
        second = BLOCK.replace("1814870C", "b222b083").replace("/l.0", "/l.1")
        again = "Autotuning op /l.0/MatMul + b (v2)(key: 0x1814870c44ff0f8574df6e3dda04cbd7):\n"
        operators = read(BLOCK + second + again).operators
        assert [operator.name[:5] for operator in operators] == ["/l.0/", "/l.1/"]
        assert [len(operator.candidates) for operator in operators] == [3, 3]

    def test_an_operator_without_a_table_has_no_candidates(self) -> None:
        (operator,) = read("Autotuning op softmax(key: 0x00): \nnothing to tune").operators
        assert (operator.name, operator.candidates, operator.selected) == ("softmax", (), None)

    def test_text_without_a_block_is_ignored(self) -> None:
        assert read("Sorted table of all evaluated tactics:\n 1, 2.0, 1, 1, k, 0x1,\n").operators == ()
        assert read("").operators == ()


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"tuner_options": 3}', '{"tuner_options": [3]}'])
def test_knobs_that_cannot_be_read_are_ignored(text: str) -> None:
    assert build_routes(text) == {}
