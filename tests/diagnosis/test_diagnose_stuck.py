"""Engines that do not do as they are told: opaque layers, islands that cannot be built, faults that take a block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from engines import Build, FakeEngine, when_fused
from models import ISLAND, feeds, rmsnorm

from harness.backends import Evaluation, Plan
from harness.diagnosis import (
    Context,
    Diagnosis,
    DiagnosisBudget,
    DiagnosisJournal,
    DiagnosisOptions,
    DiagnosisVerdict,
    EvidenceKind,
    Subject,
    diagnose_model,
)
from harness.diagnosis.api import investigate
from harness.diagnosis.context import compiled_regions, make_bench, region_evidence, regions_around
from harness.diagnosis.stages import block_hints, cure_with_casts
from harness.search import Outcome, Trial
from harness.search.session import FEWEST
from harness.tensors import Precision
from harness.worker.protocol import (
    TENSORRT_RTX,
    EngineFacts,
    Kernel,
    KernelList,
    Latency,
    LayerInfo,
    RealisedPrecision,
)

REGION = "{ForeignNode[b0_norm...b2_add]}"


def run(engine: FakeEngine, **options: object) -> Diagnosis:
    return diagnose_model(
        engine.model,
        feeds(engine.model),
        Precision.FP16,
        candidate=engine,
        engine_for=None,
        **options,  # type: ignore[arg-type]
    )


def texts(diagnosis: Diagnosis) -> str:
    return "\n".join(each.text for each in diagnosis.evidence)


class Telling(FakeEngine):
    """An engine with more to tell."""

    more: Mapping[str, Any] = {}  # fields of its facts

    def evaluate(self, plan: Plan, feeds: Mapping[str, np.ndarray], **more: Any) -> Evaluation:
        found = super().evaluate(plan, feeds, **more)
        return replace(found, facts=replace(found.engine or EngineFacts(), **self.more))


COPY = LayerInfo(f"Reformatting CopyNode for Input Tensor 0 to {REGION}", "Reformat")
OPAQUE = {
    "typing": "weak",
    "realised": RealisedPrecision(opaque=2),
    "layers": (COPY, LayerInfo(REGION, "Myelin", ("b0_norm", "b2_add"))),
}
"""What is known of an engine with an opaque layer."""


def unless(islands: frozenset[str]) -> Callable[[Build], bool]:
    """Wrong in FP16 unless all of these are in FP32."""
    return lambda build: build.plan.precision is Precision.FP16 and not build.plan.islands >= islands


def block(*numbers: int) -> frozenset[str]:
    model = rmsnorm()
    return frozenset(node.name for node in model.nodes if int(node.name[1]) in numbers)


def test_an_island_inside_of_an_opaque_layer_is_explained_in_plain_words() -> None:
    model = rmsnorm(scale=600.0)
    engine = Telling(model, "b1_sq", unless(frozenset(node.name for node in model.nodes)), rounds=False)
    engine.more = OPAQUE
    diagnosis = run(engine, budget=DiagnosisBudget(builds=12))
    (about_regions,) = [each for each in diagnosis.evidence if each.kind is EvidenceKind.REGIONS]
    assert about_regions.facts["regions"] == (REGION,)
    assert f"{REGION}, which TensorRT 8.6.0 compiles as a whole" in about_regions.text
    assert "this release does not obey precisions inside" in about_regions.text
    assert "typed.onnx" in about_regions.text
    assert "whole subgraph in FP32" in about_regions.text
    assert diagnosis.verdict is DiagnosisVerdict.UNRESOLVED
    assert any("typed.onnx" in line for line in diagnosis.advice)
    whole = run(engine)
    assert len(whole.culprits) == len(model.nodes)
    assert whole.cost.builds <= 24, "no part of it is tried where nothing is obeyed"


def obeying_casts(needed: frozenset[str]) -> Telling:
    """An engine that is right only with `needed` between Casts."""

    def wrong(build: Build) -> bool:
        plan = build.plan
        return plan.precision is Precision.FP16 and not (plan.casts and plan.islands >= needed)

    engine = Telling(rmsnorm(scale=600.0), "b1_sq", wrong, rounds=False)
    engine.more = OPAQUE
    return engine


def test_casts_hold_an_island_where_nothing_is_obeyed(tmp_path: Path) -> None:
    needed = frozenset({"b1_sq", "b1_mean", "b1_addeps", "b1_sqrt", "b1_norm", "b1_gain"})
    engine = obeying_casts(needed)
    diagnosis = run(engine, out=tmp_path / "out")
    assert diagnosis.verdict is DiagnosisVerdict.PRECISION
    assert diagnosis.confirmed
    assert set(diagnosis.culprits) == needed
    assert "between Casts in the graph, cures it" in diagnosis.summary
    assert diagnosis.cost.builds <= 16
    last = [plan for plan in engine.plans if plan.islands == needed]
    assert [plan.casts for plan in last] == [True]
    assert f"--onnx={tmp_path / 'out' / 'typed.onnx'}" in diagnosis.recipes["trtexec"]
    assert "--precisionConstraints=obey" in diagnosis.recipes["trtexec"]

    first = kept(obeying_casts(needed), tmp_path, resume=False)
    assert first.summary == diagnosis.summary
    resumed = kept(obeying_casts(needed), tmp_path, resume=True)
    assert resumed.to_dict()["culprits"] == first.to_dict()["culprits"]
    assert resumed.recipes == first.recipes
    assert resumed.cost.builds <= first.cost.builds + 1


@pytest.mark.parametrize(
    ("needed", "asked"),
    [
        (5, [5, 7, 6]),  # what passes without the first five passes as a whole, too
        (1, [5, 0, 2, 1]),
    ],
)
def test_the_half_of_a_part_is_built_before_the_whole(needed: int, asked: list[int]) -> None:
    model = rmsnorm(scale=600.0)
    units = [node.name for node in model.lowerable][:10]
    engine = obeying_casts(frozenset(units[needed:]))
    bench = make_bench(model, feeds(model))
    evaluator = Context(Subject(bench, Precision.FP16, engine)).evaluator
    found = cure_with_casts(evaluator, units[-1:], [frozenset(units)])
    assert [plan.islands for plan in engine.plans] == [frozenset(units[first:]) for first in asked]
    assert found.island == tuple(units[needed:])


def test_an_island_in_a_compiled_region_is_not_built_without_casts() -> None:
    engine = obeying_casts(frozenset({"b1_sq", "b1_mean", "b1_addeps", "b1_sqrt"}))
    diagnosis = run(engine)
    assert diagnosis.confirmed
    low = [plan for plan in engine.plans if plan.precision is Precision.FP16 and plan.islands]
    assert all(plan.casts for plan in low)
    assert not any(plan.precision is Precision.FP32 for plan in engine.plans), "FP32 shows nothing more"
    assert diagnosis.cost.builds <= 6
    assert diagnosis.price is not None


def test_a_search_on_an_engine_goes_by_its_kernels() -> None:
    # Only the whole kernel between Casts cures, of which the emulator's island is a part.
    fused = frozenset({"b1_sq", "b1_mean", "b1_addeps", "b1_sqrt", "b1_norm", "b1_gain", "b1_up"})
    model = rmsnorm(scale=600.0)
    engine = Telling(model, "b1_sq", unless(fused), rounds=False, typing="strong")
    kernels = (Kernel("k0", "kgen", ("b0_up", "b0_add")), Kernel("k1", "kgen", tuple(sorted(fused))))
    engine.more = {"typing": "strong", "kernels": KernelList(TENSORRT_RTX, "1.6.1.120", "inspector", kernels)}
    diagnosis = run(engine)
    assert fused <= set(diagnosis.culprits)
    tried = [plan.islands for plan in engine.plans if plan.islands and plan.precision is Precision.FP16]
    assert fused in tried[:3], "the kernel is tried before blocks are"


class Parting(Telling):
    """An engine of which the kernels are parted where only some of their nodes are in FP32; `slow` is by kernel."""

    slow: tuple[float, float] = (1.0, 1.0)  # ms with parted kernels, and with a whole one in FP32

    def evaluate(self, plan: Plan, feeds: Mapping[str, np.ndarray], **more: Any) -> Evaluation:
        found = super().evaluate(plan, feeds, **more)
        assert found.engine is not None
        fused = ("b1_sq", "b1_mean", "b1_addeps", "b1_sqrt", "b1_norm", "b1_gain")
        low = tuple(node for node in fused if node not in plan.islands)
        parted = 0 < len(low) < len(fused)
        parts = [tuple(set(fused) - set(low)), low] if parted else [fused]
        kernels = tuple(Kernel(f"k{number}", "kgen", part) for number, part in enumerate(parts))
        median = self.slow[0] if parted else 1.0 if low else self.slow[1]
        timed = found.engine.latency is not None
        return replace(
            found,
            facts=replace(
                found.engine,
                typing="strong",
                kernels=KernelList(TENSORRT_RTX, "1.6.1.120", "inspector", kernels),
                latency=Latency(median, median, 1) if timed else None,
            ),
        )


@pytest.mark.parametrize(("slow", "whole"), [((2.0, 1.5), True), ((2.0, 1.9), False)])
def test_of_two_cures_the_faster_one_is_taken_where_an_island_parts_kernels(
    slow: tuple[float, float], whole: bool
) -> None:
    needed = frozenset({"b1_sq", "b1_mean", "b1_addeps", "b1_sqrt"})
    engine = Parting(rmsnorm(scale=600.0), "b1_sq", unless(needed), rounds=False)
    engine.slow = slow
    diagnosis = run(engine)
    kernel = {*needed, "b1_norm", "b1_gain"}
    assert set(diagnosis.culprits) == (kernel if whole else needed)
    assert diagnosis.confirmed
    assert diagnosis.price is not None
    assert diagnosis.price.after_ms == slow[1 if whole else 0]
    assert (
        "the island parts kernels: 2 in place of 1; with all their nodes in FP32 the engine has 1 and passes"
        in texts(diagnosis)
    )
    assert texts(diagnosis).count("not taken") == (0 if whole else 1)


def test_an_island_that_costs_nothing_is_not_made_larger() -> None:
    needed = frozenset({"b1_sq", "b1_mean", "b1_addeps", "b1_sqrt"})
    engine = Parting(rmsnorm(scale=600.0), "b1_sq", unless(needed), rounds=False)
    engine.slow = (1.05, 0.5)
    diagnosis = run(engine)
    assert set(diagnosis.culprits) == needed
    assert diagnosis.cost.builds == 3


@pytest.mark.parametrize("core", [{"3"}, {"2", "5"}])
@pytest.mark.parametrize("needed", range(1, 9))
@pytest.mark.parametrize("start", range(8))
def test_what_casts_hold_is_cut_down_from_both_ends(start: int, needed: int, core: set[str]) -> None:
    units = [str(number) for number in range(8)]
    wanted = frozenset(units[start : start + needed])
    evaluator = SimpleNamespace(
        subject=SimpleNamespace(
            ordered=lambda nodes: tuple(unit for unit in units if unit in nodes),
            plan=lambda island, casts: Plan(Precision.FP16, islands=frozenset(island), casts=casts),
        ),
        evaluate=lambda plan, phase, key, thorough: SimpleNamespace(
            trial=Trial(Outcome.PASS if plan.islands >= wanted else Outcome.FAIL)
        ),
    )
    found = cure_with_casts(evaluator, core, [frozenset(units[:2]), frozenset(units)])  # type: ignore[arg-type]
    places = sorted(units.index(unit) for unit in wanted | core)
    if core | set(units[:2]) >= wanted:  # the first part cures
        assert wanted | core <= set(found.island) <= core | set(units[:2])
    else:
        assert found.island == tuple(units[places[0] : places[-1] + 1])
    assert len(found.evidence[0].facts["log"]) <= 2 + 2 * 3


@pytest.mark.parametrize(
    ("change", "held"),
    [
        ({}, True),
        ({"typing": "strong"}, False),
        ({"realised": RealisedPrecision(opaque=0)}, False),
        ({"realised": RealisedPrecision(opaque=1, islands_ok=True)}, False),
    ],
)
def test_only_what_is_not_known_of_a_weakly_typed_engine_is_opaque(
    change: dict[str, Any], held: bool
) -> None:
    model = rmsnorm()
    found = regions_around(compiled_regions(EngineFacts(**{**OPAQUE, **change}), model), ISLAND)
    assert found == ((REGION,) if held else ())


def test_an_island_beside_the_opaque_layer_is_not_in_it() -> None:
    region = LayerInfo(REGION, "Myelin", ("b2_norm", "b2_add"))
    facts = EngineFacts(**{**OPAQUE, "layers": (COPY, region)})
    model = rmsnorm()
    assert regions_around(compiled_regions(facts, model), ISLAND) == ()
    assert regions_around(compiled_regions(facts, model), (*ISLAND, "b2_up")) == (REGION,)
    seen = LayerInfo("b2_up", onnx_nodes=("b2_up",), precision="fp32")
    visible = compiled_regions(replace(facts, layers=(COPY, region, seen)), model)
    assert regions_around(visible, ("b2_up",)) == ()


def test_long_names_of_layers_are_shortened_in_the_middle() -> None:
    assert REGION in region_evidence((REGION,), None).text
    long = "{ForeignNode[" + 100 * "a" + "..." + 100 * "z" + "]}"
    text = region_evidence((long,), None).text
    assert long not in text
    name = text.removeprefix("the island lies in ").partition(", which")[0]
    assert len(name) <= 81
    assert name.startswith("{ForeignNode[aaa")
    assert name.endswith("zzz]}")


def test_an_engine_that_was_built_relaxed_is_not_taken_for_the_strict_one(tmp_path: Path) -> None:
    engine = Telling(rmsnorm(scale=600.0), "b1_up", lambda build: False)
    engine.more = {"realised": RealisedPrecision(relaxed="preferred", asserted=True)}
    diagnosis = run(engine, out=tmp_path)
    assert diagnosis.verdict is DiagnosisVerdict.PRECISION
    text = "passes (built with less than was asked for: precisions are preferred, not obeyed)"
    assert text in texts(diagnosis)
    engine.more = {"realised": RealisedPrecision(relaxed="preferred")}
    assert "obeyed, and no layer is seen to compute in the precision under test)" in texts(run(engine))
    commands = [diagnosis.recipes["trtexec"], diagnosis.recipes["polygraphy"]]
    assert all("obey" not in command and "prefer" in command for command in commands)
    stubborn = Telling(rmsnorm(scale=600.0), "b1_up", unless(block(1)))
    stubborn.more = {"realised": RealisedPrecision(relaxed="neighbours_free", asserted=True)}
    diagnosis = run(stubborn)
    assert set(diagnosis.culprits) == block(1)
    found = [each.text for each in diagnosis.evidence if "the candidate passes" in each.text]
    assert all("are not pinned" in text for text in found[:1]), "what a search finds is no different"
    assert found


def test_a_search_for_marks_that_cannot_be_built_is_given_up() -> None:
    # Gone when all is observed, and no single mark can be built.
    engine = FakeEngine(
        rmsnorm(),
        "b1_up",
        when_fused("b1_up", "b1_up"),
        breaks=lambda plan: bool(plan.marks),
    )
    diagnosis = run(engine, budget=DiagnosisBudget(builds=64))
    assert "the search for a mark that cures was given up" in texts(diagnosis)
    assert diagnosis.cost.builds <= 40


@pytest.mark.parametrize("needed", [block(1), block(1, 2)])
def test_a_fault_that_takes_a_whole_block_is_found_by_blocks(needed: frozenset[str]) -> None:
    engine = FakeEngine(rmsnorm(scale=600.0), "b1_up", unless(needed))
    diagnosis = run(engine)
    assert diagnosis.verdict is DiagnosisVerdict.PRECISION
    assert diagnosis.confirmed
    assert set(diagnosis.culprits) == needed
    tried = [plan.islands for plan in engine.plans]
    assert tried.index(needed) <= 9, "before any ranking is searched"


def test_a_block_that_cures_is_refined() -> None:
    needed = frozenset({"b1_sq", "b1_up", "b1_down", "b1_add", "b1_relu"})
    engine = FakeEngine(rmsnorm(scale=600.0), "b1_up", unless(needed))
    diagnosis = run(engine)
    assert diagnosis.confirmed
    assert needed <= set(diagnosis.culprits) <= block(1)
    assert diagnosis.cost.builds <= 40


def test_blocks_are_tried_from_the_first_start_on() -> None:
    model = rmsnorm()
    subject = Subject(*subject_of(model))
    assert block_hints(subject, ["b1_sq"], []) == [block(1), block(1, 2)]
    assert block_hints(subject, ["b2_sq"], []) == [block(2)]
    assert block_hints(subject, ["b0_sq"], []) == [block(0)], "everything is no island"
    assert block_hints(subject, ["b1_sq"], [block(1)]) == [block(1, 2)]
    assert block_hints(subject, ["nowhere"], []) == []


def subject_of(model: Any) -> tuple[Any, Precision, Any]:
    bench = make_bench(model, feeds(model))
    return bench, Precision.FP16, bench.emulator


def no_islands(plan: Plan) -> bool:
    return bool(plan.islands)


def kept(engine: FakeEngine, folder: Path, *, resume: bool) -> Diagnosis:
    bench = make_bench(engine.model, feeds(engine.model))
    subject = Subject(bench, Precision.FP16, engine)
    context = Context(subject, DiagnosisBudget(builds=64), DiagnosisJournal(folder, subject, resume=resume))
    try:
        return investigate(context, DiagnosisOptions())
    finally:
        bench.close()


def test_a_search_that_cannot_build_what_it_asks_for_is_given_up(tmp_path: Path) -> None:
    engine = FakeEngine(rmsnorm(scale=600.0), "b1_up", lambda build: False, breaks=no_islands)
    diagnosis = kept(engine, tmp_path, resume=False)
    assert diagnosis.verdict is DiagnosisVerdict.UNRESOLVED
    assert diagnosis.exit_code == 4
    assert FEWEST <= diagnosis.cost.builds <= 24
    assert f"{FEWEST} of {FEWEST} engines could not be built; the last one" in diagnosis.summary
    assert "no implementation" in diagnosis.summary
    assert "the search on the engine was given up" in texts(diagnosis)
    again = FakeEngine(rmsnorm(scale=600.0), "b1_up", lambda build: False, breaks=no_islands)
    resumed = kept(again, tmp_path, resume=True)
    assert resumed.summary == diagnosis.summary
    assert resumed.cost.builds == diagnosis.cost.builds + 1, "the emulator's island alone is tried again"
