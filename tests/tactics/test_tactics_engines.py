"""Client, worker and adapter together on doubles of TensorRT releases: hunts, pins and repeated builds."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from graphs import norm_chain

from harness.backends import Plan, Reference, TensorRTCandidate
from harness.case import BuildOptions
from harness.environments import Environment, Supervisor
from harness.errors import PinsNotTakenError, UsageError
from harness.model import load_model
from harness.tactics import (
    Axis,
    PinnedCandidate,
    Sample,
    TacticRecord,
    TacticVerdict,
    VariedBuilds,
    axes,
    build_repeatedly,
    collect,
    compare_builds,
    differences,
    export_pins,
    find_bad_tactics,
    load_pins,
    load_record,
    noise,
    pinned_cache,
    record_of,
    sources,
    usual_series,
)
from harness.tensors import Precision, from_json, to_json
from harness.worker.protocol import PinnedTactics, TacticOrders

ADAPTER = Path(__file__).parents[1] / "worker" / "doubled.py"
CONTRACT = Path(__file__).parents[1] / "worker" / "contract"
X = {"x": np.random.default_rng(1).standard_normal((5, 16)).astype(np.float32)}
PLAN = Plan(Precision.FP16)
RELEASES = ["8.5.3.1", "8.6.0", "10.13.3.9", "11.4.0.106"]
BOTH_MECHANISMS = ["8.6.0", "11.4.0.106"]
MODEL = load_model(norm_chain())
EXPECTED = Reference(MODEL).run(X, ("y",))["y"]

Make = Callable[..., TensorRTCandidate]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """A candidate on the double of a release, with knobs of its world; those alike share a worker."""
    supervisors: dict[Environment, Supervisor] = {}

    def made(
        release: str, kind: type = TensorRTCandidate, model: Any = MODEL, **knobs: Any
    ) -> TensorRTCandidate:
        options = {key: knobs.pop(key) for key in ("pins",) if key in knobs}
        variables = {"RELEASE": release, **{name: str(value) for name, value in knobs.items()}}
        environment = Environment(release, (sys.executable,), variables=tuple(sorted(variables.items())))
        if environment not in supervisors:
            supervisors[environment] = Supervisor(environment, adapter=ADAPTER, keep_cache=False)
        candidate: TensorRTCandidate = kind(
            environment, model, supervisor=supervisors[environment], **options
        )
        return candidate

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_SCRATCH", str(tmp_path_factory.mktemp("s")))
        yield made
        for supervisor in supervisors.values():
            supervisor.close()


def varied(candidate: TensorRTCandidate) -> VariedBuilds:
    def judge(tensors: Any, index: int) -> float:
        return float(np.abs(tensors["y"] - EXPECTED).max() / 0.5)

    return VariedBuilds(candidate.evaluate, PLAN, [X], judge, MODEL.sha256)


def record(candidate: TensorRTCandidate, **orders: Any) -> TacticRecord:
    plan = replace(PLAN, tactics=TacticOrders(**orders))
    found = record_of(candidate.evaluate(plan, X), plan, MODEL.sha256)
    assert found is not None
    return found


@pytest.mark.parametrize("release", RELEASES)
def test_a_wrong_kernel_is_found_forced_and_pinned_away(release: str, make: Make, tmp_path: Path) -> None:
    candidate = make(release, NOISE=0.5, WRONG="root=1")
    build = varied(candidate)
    samples = collect(build, usual_series(candidate.supervisor.probe(), PLAN, noisy=12))
    found = find_bad_tactics(build, samples)
    assert found.verdict is TacticVerdict.FOUND, found.summary
    assert [unit.layer for unit in found.culprits] == ["root"]
    assert found.onnx_nodes == ("root",)
    assert found.minimal
    assert found.cured is not None
    assert found.not_taken == ()

    cache_of_pins = pinned_cache(candidate, PLAN, X, found.cured)
    cache = None if cache_of_pins is None else cache_of_pins[0]
    assert (cache is not None) == (release in ("10.13.3.9", "11.4.0.106"))
    path = export_pins(found.cured, tmp_path / "pins", model=MODEL, cache=cache)
    pinned = make(release, PinnedCandidate, pins=[load_pins(path)], NOISE=0.5, WRONG="root=1", SEED=7)
    for number in range(4):
        plan = replace(PLAN, tactics=TacticOrders(number=number))
        evaluation = pinned.evaluate(plan, X)
        assert np.abs(evaluation.tensors["y"] - EXPECTED).max() < 0.5
        assert evaluation.facts.pins == PinnedTactics(str(path), len(found.cured.choices))


@pytest.mark.parametrize("release", BOTH_MECHANISMS)
def test_a_kernel_that_cannot_be_forced_away_is_not_blamed_on_another_layer(release: str, make: Make) -> None:
    candidate = make(release, NOISE=0.5, WRONG="root=1", DEAF="root", SEED=3)
    build = varied(candidate)
    samples = collect(build, lambda _: noise(16))
    found = find_bad_tactics(build, samples)
    if found.verdict is TacticVerdict.FOUND:
        assert "root" in [unit.layer for unit in found.culprits]
    else:
        assert found.verdict is TacticVerdict.NOT_REPRODUCIBLE
        assert "root" in found.not_taken


@pytest.mark.parametrize("release", BOTH_MECHANISMS)
def test_repeated_builds_say_what_changed(release: str, make: Make) -> None:
    candidate = make(release, NOISE=0.5, WRONG="root=1")
    builds = list(build_repeatedly(candidate.evaluate, PLAN, [X], MODEL.sha256, 6))
    repeats = compare_builds(builds)
    assert (repeats.builds, repeats.layers) == (6, len(builds[0].record.choices))  # type: ignore[union-attr]
    changed = {layer.layer: layer for layer in repeats.changed}
    assert "root" in changed
    assert changed["root"].onnx_nodes == ("root",)
    assert sum(each.builds for each in changed["root"].choices) == 6
    assert len({each.choice for each in changed["root"].choices}) == 2
    (output,) = repeats.outputs
    assert 0 < output.identical < 5
    assert output.max_abs == pytest.approx(1.0, abs=0.01)
    assert "y moved by up to 1" in repeats.summary

    still = make(release)
    calm = compare_builds(list(build_repeatedly(still.evaluate, PLAN, [X], MODEL.sha256, 3)))
    assert (calm.changed, calm.copies) == ((), 0)
    assert calm.same_outputs
    assert calm.summary == "3 builds: no layer changed tactic, outputs are identical"
    assert json.loads(json.dumps(to_json(calm)))["changed"] == []


def test_one_build_reports_no_repeats(make: Make) -> None:
    with pytest.raises(UsageError, match="ask for 2 or more"):
        list(build_repeatedly(make("8.6.0").evaluate, PLAN, [X], MODEL.sha256, 1))


def test_a_build_is_recorded_with_what_it_was_made_with(make: Make, tmp_path: Path) -> None:
    candidate = make("8.6.0")
    plan = replace(PLAN, build=BuildOptions(tactic_sources=("jit_convolutions",), timing_cache=False))
    plan = replace(plan, tactics=TacticOrders(alternatives=3))
    found = record_of(candidate.evaluate(plan, X), plan, MODEL.sha256)
    assert found is not None
    assert found.fingerprint.tensorrt == "8.6.0"
    assert found.build == {"tactic_sources": ("jit_convolutions",), "timing_cache": False}
    assert (found.typing, found.precision, found.model) == ("weak", Precision.FP16, MODEL.sha256)
    assert found.alternatives
    found.save(tmp_path / "record.json")
    assert load_record(tmp_path / "record.json") == found
    assert not differences(found, load_record(tmp_path / "record.json"))
    silent = candidate.evaluate(PLAN, X)
    assert silent.facts.tactics is None
    assert record_of(silent, PLAN, MODEL.sha256) is None


def test_a_number_makes_another_engine_and_orders_make_another_key(make: Make) -> None:
    candidate = make("8.6.0")
    first, second = (replace(PLAN, tactics=TacticOrders(number=number)) for number in (1, 2))
    assert candidate.evaluate(first, X).facts.builds == 1
    assert candidate.evaluate(first, X).facts.builds == 0
    assert candidate.evaluate(second, X).facts.builds == 1
    assert len({candidate.key(plan, X) for plan in (PLAN, first, second)}) == 3


class TestPins:
    def test_an_engine_that_does_not_take_them_is_an_error(self, make: Make, tmp_path: Path) -> None:
        first = record(make("8.6.0"), alternatives=2)
        chosen = tuple(
            next(other for other in first.alternatives if other.place == choice.place)
            if choice.layer == "root"
            else choice
            for choice in first.choices
        )
        wanted = record(make("8.6.0"), force=chosen)
        path = export_pins(wanted, tmp_path)
        pinned = make("8.6.0", PinnedCandidate, pins=[load_pins(tmp_path)], DEAF="root")
        with pytest.raises(
            PinsNotTakenError, match=r"built without 1 of its pinned tactics: root: .*not taken"
        ) as caught:
            pinned.evaluate(PLAN, X)
        assert str(path) in str(caught.value)
        assert len(caught.value.evidence) == 1

    def test_of_another_release_gpu_or_precision_are_left_out_and_reported(
        self, make: Make, tmp_path: Path
    ) -> None:
        export_pins(record(make("8.6.0")), tmp_path)
        pinned = make("8.5.3.1", PinnedCandidate, pins=[load_pins(tmp_path)])
        evaluation = pinned.evaluate(PLAN, X)
        assert evaluation.facts.pins is None
        assert any("no pins are of TensorRT 8.5.3.1" in warning for warning in evaluation.facts.warnings)
        at_home = make("8.6.0", PinnedCandidate, pins=[load_pins(tmp_path)])
        assert at_home.evaluate(PLAN, X).facts.pins is not None
        assert at_home.evaluate(Plan(Precision.FP32), X).facts.pins is None

    def test_of_another_model_are_refused(self, make: Make, tmp_path: Path) -> None:
        export_pins(record(make("8.6.0")), tmp_path)
        other = load_model(norm_chain(scale=2.0))
        pinned = make("8.6.0", PinnedCandidate, model=other, pins=[load_pins(tmp_path)])
        with pytest.raises(UsageError, match="of another model"):
            pinned.evaluate(PLAN, X)

    def test_are_left_out_of_observed_engines_and_islands(self, make: Make, tmp_path: Path) -> None:
        export_pins(record(make("8.6.0")), tmp_path)
        pinned = make("8.6.0", PinnedCandidate, pins=[load_pins(tmp_path)])
        assert pinned.evaluate(replace(PLAN, islands=frozenset({"sq"})), X).facts.pins is None
        assert pinned.key(PLAN, X) != make("8.6.0").key(PLAN, X)

    def test_that_cannot_be_read_are_named(self, tmp_path: Path) -> None:
        for text, says in (
            ("{", "cannot be read"),
            ("{}", "is not a record of tactics"),
            ("[]", "is not a record of tactics"),
        ):
            (tmp_path / "pins.json").write_text(text)
            with pytest.raises(UsageError, match=says):
                load_pins(tmp_path)
        (tmp_path / "pins.json").write_text('{"schema": "harness.tactics/1"}')
        with pytest.raises(UsageError, match="precision"):
            load_pins(tmp_path / "pins.json")
        with pytest.raises(UsageError, match=r"nowhere\.json"):
            load_pins(tmp_path / "nowhere.json")

    def test_need_choices(self, make: Make, tmp_path: Path) -> None:
        found = record(make("8.6.0"))
        with pytest.raises(UsageError, match="cannot be pinned"):
            export_pins(replace(found, report=replace(found.report, choices=())), tmp_path)


def test_a_model_that_has_a_file_is_not_copied_beside_its_pins(make: Make, tmp_path: Path) -> None:
    from harness.model import save_model

    model = load_model(save_model(MODEL, tmp_path / "m.onnx"))
    export_pins(record(make("8.6.0")), tmp_path / "pins", model=model)
    assert not (tmp_path / "pins" / "model.onnx").exists()


class TestTheScript:
    """`build_pinned.py`, as it is exported, with a `tensorrt` that is the double."""

    @pytest.fixture
    def pins(self, request: pytest.FixtureRequest, make: Make, tmp_path: Path) -> Path:
        candidate = make(request.param, NOISE=0.5, SEED=5)
        found = record(candidate)
        cache_of_pins = pinned_cache(candidate, PLAN, X, found)
        return export_pins(
            found, tmp_path / "pins", model=MODEL, cache=None if cache_of_pins is None else cache_of_pins[0]
        ).parent

    @staticmethod
    def load(folder: Path, release: str, monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, Any]:
        monkeypatch.syspath_prepend(str(CONTRACT))
        trt_double = importlib.import_module("trt_double")
        trt = trt_double.make(release)
        trt._world.noise = 0.5
        monkeypatch.setitem(sys.modules, "tensorrt", trt)
        spec = importlib.util.spec_from_file_location("build_pinned", folder / "build_pinned.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module, trt._world

    @pytest.mark.parametrize(("pins", "release"), [(name, name) for name in RELEASES], indirect=["pins"])
    def test_builds_the_same_choices_in_plain_tensorrt(
        self, pins: Path, release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        script, world = self.load(pins, release, monkeypatch)
        model = pins / "model.onnx"
        typed = {node.op for node in load_model(model).nodes} - {node.op for node in MODEL.nodes}
        assert typed == ({"Cast"} if release == "11.4.0.106" else set())
        for seed in range(3):
            world.random.seed(seed)
            engine = tmp_path / f"{seed}.engine"
            assert script.main([str(model), str(engine)]) == 0
            assert engine.stat().st_size > 0
            wanted = load_record(pins / "pins.json")
            if wanted.report.mechanism == "selector":
                chosen = {layer.name: layer.tactic_id for layer in world.built[-1].layers}
                assert chosen == {each.layer: int(each.tactic, 16) for each in wanted.choices}
        assert "pinned choices" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("pins", "release"), [("8.6.0", "8.6.0"), ("11.4.0.106", "11.4.0.106")], indirect=["pins"]
    )
    def test_fails_when_a_choice_is_not_taken(
        self, pins: Path, release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        script, world = self.load(pins, release, monkeypatch)
        model = pins / "model.onnx"
        layers = [each.layer for each in load_record(pins / "pins.json").choices]
        world.deaf, world.noise = set(layers), 5.0
        engine = tmp_path / "engine"
        assert script.main([str(model), str(engine)]) == 1
        assert "not taken: 0x" in capsys.readouterr().err
        assert not engine.exists()

    @pytest.mark.parametrize("pins", ["11.4.0.106"], indirect=True)
    def test_builds_twice_where_the_timing_cache_was_lost(
        self, pins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (pins / "timing.cache").unlink()
        script, world = self.load(pins, "11.4.0.106", monkeypatch)
        assert script.main([str(pins / "model.onnx"), str(tmp_path / "engine")]) == 0
        assert len(world.built) == 2

    def test_gives_layers_the_types_of_the_pinned_build(
        self, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = replace(PLAN, build=BuildOptions(pin_precision=True), tactics=TacticOrders())
        candidate = make("8.6.0", NOISE=0.5, SEED=5)
        found = record_of(candidate.evaluate(plan, X), plan, MODEL.sha256)
        assert found is not None
        assert "PREFER_PRECISION_CONSTRAINTS" in found.report.flags
        export_pins(found, tmp_path / "pins")
        script, world = self.load(tmp_path / "pins", "8.6.0", monkeypatch)
        from harness.model import save_model

        assert script.main([str(save_model(MODEL, tmp_path / "m.onnx")), str(tmp_path / "e")]) == 0
        assert world.built[-1].pinned["root"] == "HALF"
        assert len(world.built[-1].pinned) == len(found.report.layer_types)

    @pytest.mark.parametrize("pins", ["8.6.0"], indirect=True)
    def test_refuses_another_release_and_a_model_that_does_not_parse(
        self, pins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        script, _ = self.load(pins, "8.6.1", monkeypatch)
        assert script.main(["m.onnx", str(tmp_path / "e")]) == 3
        assert "of TensorRT 8.6.0, this is 8.6.1" in capsys.readouterr().err
        script, _ = self.load(pins, "8.6.0", monkeypatch)
        (tmp_path / "m.onnx").write_bytes(b"nothing")
        assert script.main([str(tmp_path / "m.onnx"), str(tmp_path / "e")]) == 3

    @pytest.mark.parametrize("pins", ["8.6.0"], indirect=True)
    def test_sets_the_options_of_the_build_that_was_pinned(
        self, pins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from harness.model import save_model

        document = json.loads((pins / "pins.json").read_text())
        document["build"] = {
            "workspace_mib": 64,
            "optimization_level": 2,
            "avg_timing_iterations": 3,
            "tactic_sources": ["jit_convolutions"],
            "preview_features": ["-profile_sharing_0806"],
            "hardware_compatibility": "ampere_plus",
        }
        document["flags"] += ["TF32", "SPARSE_WEIGHTS", "PREFER_PRECISION_CONSTRAINTS"]
        document["layer_types"] = [{"index": 2, "layer": "scaled", "precision": "HALF", "outputs": ["HALF"]}]
        (pins / "pins.json").write_text(json.dumps(document))
        script, world = self.load(pins, "8.6.0", monkeypatch)
        assert script.main([str(save_model(MODEL, tmp_path / "m.onnx")), str(tmp_path / "e")]) == 0
        config = world.built[-1].config
        assert (config._workspace, config._level, config._iterations) == (64 << 20, 2, 3)
        assert config._sources == {"JIT_CONVOLUTIONS"}
        assert config._previews == {"PROFILE_SHARING_0806": False}
        assert config._hardware == "AMPERE_PLUS"
        assert config._flags >= {"FP16", "TF32", "SPARSE_WEIGHTS", "PREFER_PRECISION_CONSTRAINTS"}
        assert world.built[-1].pinned == {"scaled": "HALF"}
        document["layer_types"][0]["layer"] = "another"
        (pins / "pins.json").write_text(json.dumps(document))
        assert script.main([str(tmp_path / "m.onnx"), str(tmp_path / "e")]) == 3


class TestAxes:
    @pytest.mark.parametrize("release", RELEASES)
    def test_every_axis_that_a_release_has_is_built(self, release: str, make: Make) -> None:
        candidate = make(release)
        probe = candidate.supervisor.probe()
        build = varied(candidate)
        series = (*sources(probe), *axes(probe, PLAN))
        samples = {variation.name: build(variation) for variation in series}
        assert len(samples) == len(series)
        for name, sample in samples.items():
            assert sample.record is not None, (name, sample.note)
        kinds = {sample.axis for sample in samples.values()}
        assert kinds >= {Axis.SOURCE, Axis.TF32, Axis.SPARSITY, Axis.PREVIEW}
        assert (Axis.LEVEL in kinds) == (release != "8.5.3.1")
        assert (Axis.ROUTE in kinds) == (release == "11.4.0.106")
        assert "without jit_convolutions" in samples
        assert ("without cublas" in samples) == (not release.startswith("11"))

    def test_a_build_that_fails_is_unresolved(self, make: Make) -> None:
        build = varied(make("8.6.0"))
        (broken,) = noise(1)
        sample = build(replace(broken, build=BuildOptions(build_route="-fuse=off")))
        assert sample.outcome == "unresolved"
        assert "11.1 or later" in sample.note
        again = from_json(Sample, json.loads(json.dumps(sample.to_dict())))
        assert again == sample

    def test_a_sample_survives_json(self, make: Make) -> None:
        (variation,) = noise(1)
        sample = varied(make("8.6.0"))(variation)
        assert from_json(Sample, json.loads(json.dumps(sample.to_dict()))) == sample
