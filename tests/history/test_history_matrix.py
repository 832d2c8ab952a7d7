"""The matrix over real builds: emulated releases, and engines of a real worker whose kernels are ONNX Runtime's."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import graph_model, norm_chain
from onnx import TensorProto, helper

import harness
import harness.backends.tensorrt as client
import harness.environments
from harness.environments import Environment, Supervisor
from harness.errors import EnvironmentConfigError, HistoryError, NothingSelectedError, UsageError
from harness.history import (
    CacheUse,
    DriftOptions,
    DriftStatus,
    DriftVerdict,
    Floors,
    LayerBuilds,
    read_reason,
    report_of,
)
from harness.history.judgement.runs import Pair, compare_pair, continuation
from harness.history.matrix.options import select_specs
from harness.history.store.files import list_runs
from harness.judge import MadeWith, select_cases
from harness.tensors import Precision

OLD, NEW = "emulator:fp16,noise=0.2,seed=1", "emulator:fp16,noise=0.2,seed=2"
ADAPTER = Path(__file__).parent.parent / "backends" / "cpu_engine.py"


@pytest.fixture
def drift(tmp_path: Path):
    def run(targets: Any, *releases: str, **options: Any):
        chosen = {
            name: options.pop(name)
            for name in ("repeats", "layers", "timing_cache", "run_limit")
            if name in options
        }
        return harness.drift(
            targets, environments=releases, history=tmp_path / "h", options=DriftOptions(**chosen), **options
        )

    return run


def test_the_same_release_under_another_seed_does_not_drift(tiny_cases, drift) -> None:
    report = drift(tiny_cases("clean"), OLD, NEW)
    (run,) = report.runs
    assert (run.status, run.verdict, report.exit_code) == (DriftStatus.PASS, DriftVerdict.WITHIN_NOISE, 0)
    assert report.newer == (NEW,)
    frame = report.to_frame()
    assert set(frame["verdict"]) <= {"within noise", "same"}
    assert (frame["noise"] >= 0).all()


def test_equal_releases_have_the_same_bits(tiny_cases, drift) -> None:
    report = drift(tiny_cases("clean"), "emulator:fp16", "emulator:fp16,seed=1")
    assert set(report.to_frame()["verdict"]) == {"same"}
    assert "same bits" in report.runs[0].reason


def test_the_history_keeps_why_as_a_code_with_its_fields(tiny_cases, drift, tmp_path: Path) -> None:
    """The sentence that is made of them is that of `harness run`."""
    folder = tiny_cases("failing", "expected", "skipped")
    drift(folder, "emulator:fp16", "emulator:bf16", repeats=1)
    frame = harness.load_history(tmp_path / "h")
    engines = frame[(frame["kind"] == "engine") & (frame["release"] == "emulator:fp16")]
    kept = {row.case: (row.verdict, row.cause, str(read_reason(row.why))) for row in engines.itertuples()}
    runs = harness.run(folder, precisions="fp16").results
    assert kept == {run.case: (run.verdict, run.cause, run.reason) for run in runs}
    assert kept["failing"][1:] == ("gate failed", "y: 30 of 32 elements are not finite")


def test_a_planted_fault_is_found_at_its_node_and_offers_no_command(tiny_cases, drift) -> None:
    report = drift(tiny_cases("clean"), OLD, f"{NEW},plant=square@bf16")
    (run,) = report.runs
    assert (run.status, report.exit_code) == (DriftStatus.FAIL, 1)
    assert run.verdict in (DriftVerdict.REGRESSED, DriftVerdict.NEW_FAILURE)
    assert [origin.node for origin in run.origins] == ["square"]
    assert run.command == "", "the plain emulator has no such fault"
    assert [change.nodes for change in run.structure] == [("square",)]


def test_the_command_that_goes_on_can_be_pasted_into_a_shell() -> None:
    shapes = ["x 1:[4,8]"]
    asked = "harness diagnose 'my net.onnx' --input 'x 1:[4,8]' --precision"
    assert continuation("my net.onnx", shapes, Precision.FP16, "trt new") == f"{asked} fp16 --env 'trt new'"
    for release in ("emulator", "emulator:fp16,noise=0.2,seed=2"):
        assert continuation("my net.onnx", shapes, Precision.FP16, release) == f"{asked} fp16"
    for release in ("emulator,plant=up", "emulator:bf16,seed=2"):
        assert continuation("my net.onnx", shapes, Precision.FP16, release) == "", "nothing does the same"


def test_the_shapes_of_a_bare_model_are_kept_for_the_command(tmp_path: Path) -> None:
    nodes = [helper.make_node("Exp", ["x"], ["y"], name="grow")]
    path = tmp_path / "net.onnx"
    onnx.save(graph_model(nodes, inputs={"x": ["n", 2]}, outputs={"y": ["n", 2]}), path)
    report = harness.drift(
        path,
        environments=["emulator:fp32", "emulator"],
        precisions=["bf16"],
        inputs={"x": [3, 2]},
        history=tmp_path / "h",
    )
    (run,) = report.runs
    assert run.command == f"harness diagnose {path} --input 'x:[3,2]' --precision bf16"
    kept = harness.load_history(tmp_path / "h")
    assert set(kept["inputs"]) == {'["x:[3,2]"]'}


def test_releases_may_be_precisions(tiny_cases, drift) -> None:
    report = drift(tiny_cases("clean", "expected"), "emulator:fp16", "emulator:bf16", repeats=1)
    verdicts = {run.case: run.verdict for run in report.runs}
    assert verdicts["clean"] in (DriftVerdict.REGRESSED, DriftVerdict.NEW_FAILURE)
    assert verdicts["expected"] is DriftVerdict.FIXED, "BF16 does not overflow"
    assert {run.precision for run in report.runs} == {Precision.FP16}


def test_several_newer_releases_are_compared_with_the_first(tiny_cases, drift) -> None:
    report = drift(tiny_cases("clean"), OLD, NEW, f"{NEW},plant=square@bf16", repeats=3)
    assert [(run.old, run.new, run.status) for run in report.runs] == [
        (OLD, NEW, DriftStatus.PASS),
        (OLD, f"{NEW},plant=square@bf16", DriftStatus.FAIL),
    ]
    assert len(report.to_frame()["release"].unique()) == 2


def test_every_number_can_be_traced_to_the_history(tiny_cases, drift, tmp_path: Path) -> None:
    report = drift(tiny_cases("clean"), OLD, NEW, repeats=2)
    (file,) = report.files
    rows = harness.load_history(file)
    assert set(rows["kind"]) == {"output", "layer", "engine"}
    judged = report.to_frame().set_index(["kind", "tensor", "sample"])
    for (kind, tensor, sample), one in judged.iterrows():
        mine = rows[(rows["kind"] == kind) & (rows["tensor"] == tensor) & (rows["sample"] == sample)]
        for side, release in (("old", OLD), ("new", NEW)):
            errors = mine.loc[mine["release"] == release, "error"].astype(float)
            assert errors.mean() == pytest.approx(one[side], rel=1e-6)
            assert len(errors) == one[f"{side}_builds"] == 2
    assert rows["model_sha256"].nunique() == 1
    assert rows.loc[rows["kind"] == "engine", "structure"].notna().all()


def test_layers_know_what_is_behind_them_through_tensors_that_are_not_observed(drift, tmp_path: Path) -> None:
    quantised = Path(__file__).parents[2] / "cases" / "quantised-conv.case.yaml"
    drift(quantised, "emulator:fp16", "emulator:fp16,seed=1", repeats=1)
    rows = harness.load_history(tmp_path / "h")
    layers = rows[(rows["kind"] == "layer") & (rows["release"] == "emulator:fp16")]
    reads = dict(zip(layers["tensor"].astype(str), layers["reads"], strict=True))
    assert "QuantizeLinear" not in set(layers["op"]), "int8 tensors are not observed"
    fed_by_nothing = [tensor for tensor, behind in reads.items() if not len(behind)]
    assert fed_by_nothing == [next(iter(reads))], "only the first layer has nothing but inputs behind it"


def test_a_node_that_no_output_is_computed_from_is_no_origin(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Sin", ["x"], ["unused"], name="unused"),
        helper.make_node("Exp", ["x"], ["grow"], name="grow"),
        helper.make_node("Sqrt", ["grow"], ["root"], name="root"),
        helper.make_node("Cast", ["root"], ["y"], name="y", to=TensorProto.INT64),
    ]
    path = tmp_path / "net.onnx"
    dtypes = {"y": TensorProto.INT64}
    onnx.save(graph_model(nodes, inputs={"x": [64]}, outputs={"y": [64]}, dtypes=dtypes), path)
    history = tmp_path / "h"
    report = harness.drift(
        path, environments=["emulator:fp16", "emulator:bf16"], precisions=["fp16"], history=history
    )
    (run,) = report.runs
    assert run.status is DriftStatus.FAIL
    assert [origin.node for origin in run.origins] == ["grow"]
    rows = harness.load_history(history)
    outputs = rows[rows["kind"] == "output"]
    assert [list(reads) for reads in outputs["reads"].head(1)] == [["root"]]


def test_an_interrupted_matrix_goes_on_where_it_was(tiny_cases, drift, tmp_path: Path) -> None:
    folder = tiny_cases("clean", "expected", "failing")

    def stop(event: Any) -> None:
        if event.case == "expected" and event.kind == "start" and event.candidate.startswith(NEW):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drift(folder, OLD, NEW, repeats=2, progress=stop)
    (info,) = list_runs(tmp_path / "h")
    assert not info.finished
    judged = []
    report = drift(
        folder,
        OLD,
        NEW,
        repeats=2,
        resume=True,
        progress=lambda event: event.result and judged.append(event.case),
    )
    assert "clean" not in judged, "what was there is not built again"
    assert judged.count("expected") == 4
    assert {run.case for run in report.runs} == {"clean", "expected", "failing"}
    assert report.run == info.run


def interrupted_case(folder: Path, drift) -> Path:
    """A case of a file and inputs of a file, whose run was interrupted between its two precisions."""
    folder.mkdir()
    nodes = [helper.make_node("Exp", ["x"], ["y"], name="grow")]
    onnx.save(graph_model(nodes, inputs={"x": [2, 2]}, outputs={"y": [2, 2]}), folder / "net.onnx")
    np.save(folder / "x.npy", np.eye(2, dtype=np.float32))
    case = folder / "net.case.yaml"
    case.write_text(
        "model: {path: net.onnx}\ninputs: {x: {fill: {kind: file, path: x.npy}}}\nruns: [fp16, bf16]\n"
    )

    def stop(event: Any) -> None:
        if event.precision is Precision.BF16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drift(case, OLD, NEW, precisions=["fp16", "bf16"], repeats=1, progress=stop)
    return case


@pytest.mark.parametrize("edited", ["model", "inputs"])
def test_what_was_edited_since_the_interruption_is_not_mixed_into_one_run(
    drift, tmp_path: Path, edited: str
) -> None:
    case = interrupted_case(tmp_path / "c", drift)
    if edited == "model":
        nodes = [helper.make_node("Tanh", ["x"], ["y"], name="grow")]
        onnx.save(graph_model(nodes, inputs={"x": [2, 2]}, outputs={"y": [2, 2]}), case.parent / "net.onnx")
    else:
        np.save(case.parent / "x.npy", np.ones((2, 2), np.float32))
    judged: list[Any] = []
    with pytest.raises(HistoryError, match=f": the {edited} of net changed since the run was interrupted"):
        drift(case, OLD, NEW, precisions=["fp16", "bf16"], repeats=1, resume=True, progress=judged.append)
    assert judged == [], "nothing is built before it is refused"
    (info,) = list_runs(tmp_path / "h")
    assert not info.finished


def test_what_was_not_edited_is_resumed(drift, tmp_path: Path) -> None:
    case = interrupted_case(tmp_path / "c", drift)
    os.utime(case.parent / "net.onnx")
    report = drift(case, OLD, NEW, precisions=["fp16", "bf16"], repeats=1, resume=True)
    assert {run.precision for run in report.runs} == {Precision.FP16, Precision.BF16}


def test_a_wrong_case_leaves_a_row_and_the_others_go_on(tiny_cases, drift) -> None:
    report = drift(tiny_cases("clean", "mistaken", "skipped"), OLD, NEW, repeats=2)
    statuses = {run.case: run.status for run in report.runs}
    assert statuses == {
        "clean": DriftStatus.PASS,
        "mistaken": DriftStatus.MISTAKE,
        "skipped": DriftStatus.SKIP,
    }
    assert report.exit_code == 2
    mistaken = next(run for run in report.runs if run.case == "mistaken")
    assert "skale" in mistaken.reason


def test_a_surprise_ends_one_run_and_not_the_night(tiny_cases, drift, monkeypatch) -> None:
    from harness.history.matrix.emulated import EmulatedBuild

    evaluate = EmulatedBuild.evaluate

    def fail(self: EmulatedBuild, *arguments: Any, **more: Any) -> Any:
        if self.model.name == "clean" and self.name == NEW:
            raise ZeroDivisionError("of our own making")
        return evaluate(self, *arguments, **more)

    monkeypatch.setattr(EmulatedBuild, "evaluate", fail)
    report = drift(tiny_cases("clean", "failing"), OLD, NEW, repeats=2)
    assert {run.case: run.status for run in report.runs} == {
        "clean": DriftStatus.ERROR,
        "failing": DriftStatus.PASS,
    }
    assert "internal error: ZeroDivisionError: of our own making" in report.runs[0].reason
    assert report.exit_code == 3


def test_senseless_requests_are_refused_before_anything_is_built(tiny_cases, drift, tmp_path: Path) -> None:
    folder = tiny_cases("clean")
    for releases, error in [
        ((OLD, OLD), UsageError), ((OLD, "trt-9.9"), EnvironmentConfigError), ((), UsageError),
        ((OLD, "emulator:fp99"), UsageError),
    ]:  # fmt: skip
        with pytest.raises(error):
            drift(folder, *releases)
    with pytest.raises(UsageError, match="at least once"):
        drift(folder, OLD, NEW, repeats=0)
    with pytest.raises(NothingSelectedError):
        drift(folder, OLD, NEW, precisions=["fp8"])
    assert not (tmp_path / "h").exists()


def test_which_runs_are_selected(tiny_cases) -> None:
    cases = select_cases(tiny_cases("clean"))

    def asked(*releases: str, precisions: tuple[Precision, ...] = ()) -> list[str]:
        return [spec.precision.value for _, spec in select_specs(cases, releases, precisions)]

    assert asked("emulator:bf16", "emulator:fp16") == ["bf16"]
    assert asked("emulator:fp8", "emulator:fp16") == ["fp8"], "although the case does not ask for it"
    assert asked("emulator", "emulator,seed=1") == ["fp32", "fp16", "bf16"]
    assert asked("emulator:bf16", "trt-8.6") == ["fp32", "fp16", "bf16"]
    assert asked("emulator:bf16", "emulator:fp16", precisions=(Precision.FP32,)) == ["fp32"]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (CacheUse.BOTH, [True, False, False]),
        (CacheUse.WITH, [True] * 3),
        (CacheUse.WITHOUT, [False] * 3),
    ],
)
def test_which_builds_use_the_timing_cache(choice: CacheUse, expected: list[bool]) -> None:
    options = DriftOptions(timing_cache=choice)
    assert [build.timing_cache for build in options.builds("trt-8.6")] == expected
    assert [build.timing_cache for build in options.builds("emulator:fp16")] == [None] * 3


# --- engines of a worker ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine_case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    onnx.save(norm_chain(), folder / "m.onnx")
    (folder / "norm.case.yaml").write_text(
        "model: {path: m.onnx}\ninputs: {x: [5, 16]}\nsamples: 2\nruns: [fp16]\n"
    )
    (folder / "broken.case.yaml").write_text(
        "model: {path: m.onnx}\ninputs: {x: [5, 16]}\nruns: [fp16]\nbuild: {workspace_mib: 1}\n"
    )
    return folder


class Requests(list[Any]):
    """Build requests with the names of their environments; `watch` sees each before it is made."""

    watch: Callable[[Any], None] = staticmethod(lambda request: None)


@pytest.fixture
def workers(monkeypatch, tmp_path: Path) -> Iterator[Requests]:
    """Two environments with real workers; every build request is seen."""
    (tmp_path / "harness.toml").write_text(
        f'[environments.old]\npython = "{sys.executable}"\n[environments.new]\npython = "{sys.executable}"\n'
    )
    monkeypatch.setenv("HARNESS_CONFIG", str(tmp_path / "harness.toml"))
    monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path / "s"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    made: dict[Environment, Supervisor] = {}
    requests = Requests()

    def supervisor(environment: Environment) -> Supervisor:
        if environment not in made:
            made[environment] = Supervisor(environment, adapter=ADAPTER)
        one = made[environment]
        if not hasattr(one, "spied"):
            ask = one.ask

            def spy(request: Any, *rest: Any) -> Any:
                if type(request).__name__ == "BuildRequest":
                    requests.append((environment.name, request))
                    requests.watch(request)
                return ask(request, *rest)

            one.ask = one.spied = spy  # type: ignore[method-assign,attr-defined]
        return one

    for module in (client, harness.environments):
        monkeypatch.setattr(module, "shared_supervisor", supervisor)
    yield requests
    for one in made.values():
        one.close()


def two_gpus(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [
        f'[environments.{name}]\npython = "{sys.executable}"\ngpu = {gpu}\n'
        for gpu, name in enumerate(("old", "new"))
    ]
    (folder / "harness.toml").write_text("".join(tables))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")


def test_each_build_of_an_engine_is_a_new_one(engine_case: Path, drift, workers, tmp_path: Path) -> None:
    report = drift(engine_case / "norm.case.yaml", "old", "new", repeats=3)
    (run,) = report.runs
    assert (run.status, run.verdict) == (DriftStatus.PASS, DriftVerdict.SAME)
    plain = [(name, request.options.timing_cache) for name, request in workers if not request.marks]
    assert plain == [(name, cached) for name in ("old", "new") for cached in (True, False, False)]
    marked = [name for name, request in workers if request.marks]
    assert marked == ["old", "new"], "the first build is observed, by a build of its own"
    assert all(request.options.timing_cache for _, request in workers if request.marks)
    rows = harness.load_history(tmp_path / "h")
    engines = rows[rows["kind"] == "engine"]
    assert engines["tensorrt"].unique().tolist() == ["8.6.0"]
    assert engines["latency_ms"].tolist() == [1.0] * 6
    assert engines["timing_cache"].tolist() == [True, False, False] * 2
    assert engines["faithful"].tolist() == [True, None, None] * 2
    assert set(report.engines["quantity"]) == {"latency", "engine size", "build time"}
    assert report.fingerprint.environments["old"].tensorrt == "8.6.0"
    (info,) = list_runs(tmp_path / "h")
    stopped = replace(info, finished=False, fingerprint=MadeWith())
    host = {"numpy": "", "onnx": "", "python": "", "system": ""}  # which rows do not have
    assert report_of(stopped).fingerprint == replace(report.fingerprint, **host)
    assert run.command.endswith("norm.case.yaml --precision fp16 --env new")


@pytest.mark.parametrize(
    ("layers", "observed"), [(LayerBuilds.ALL, 2), (LayerBuilds.FIRST, 1), (LayerBuilds.NONE, 0)]
)
def test_observing_fewer_builds_saves_theirs(engine_case: Path, drift, workers, layers, observed) -> None:
    report = drift(engine_case / "norm.case.yaml", "old", "new", repeats=2, layers=layers)
    assert sum(bool(request.marks) for _, request in workers) == 2 * observed
    judged = report.to_frame()
    assert ("layer" in set(judged["kind"])) == bool(observed)
    assert judged.loc[judged["kind"] == "layer", "noise"].notna().all() == (observed != 1)


def test_layers_are_observed_between_kernels_where_releases_have_such_tensors(
    engine_case: Path, drift, workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPABILITIES", "fp16,weak,unfused_debug_tensors")
    drift(engine_case / "norm.case.yaml", "old", "new", repeats=1)
    assert [request.observation for _, request in workers] == ["none", "debug"] * 2


def test_emulated_releases_are_observed_in_every_build() -> None:
    options = DriftOptions()
    first, second = list(options.builds("trt-8.6"))[:2]
    assert [options.observes("trt-8.6", build) for build in (first, second)] == [True, False]
    assert [options.observes("emulator:fp16", build) for build in (first, second)] == [True, True]


def test_layers_observed_in_one_build_do_not_drift_while_the_outputs_are_calm(tiny_cases, drift) -> None:
    """`square` is a layer of which the only observed build is far off, while all rebuilds agree on the output."""
    calm = {"repeats": 3, "layers": LayerBuilds.FIRST}
    folder = tiny_cases("clean")
    report = drift(folder, OLD, f"{NEW},plant=square@bf16", **calm)
    (run,) = report.runs
    assert run.verdict in (DriftVerdict.REGRESSED, DriftVerdict.NEW_FAILURE), "the outputs moved"
    assert [origin.node for origin in run.origins] == ["square"], "one build suffices to say where"
    frame = report.records
    outputs = frame["kind"] == "output"
    steady = frame[outputs & (frame["release"] == OLD)]
    frame.loc[outputs, "error"] = np.resize(steady["error"].to_numpy(dtype=float), int(outputs.sum()))
    pair = Pair(
        OLD, report.newer[0], frame["release"].eq(OLD).to_numpy(), frame["release"].ne(OLD).to_numpy()
    )
    (run,) = compare_pair(frame, pair, floors=Floors(), repeats=3).runs
    assert DriftVerdict.REGRESSED in run.counts["layer"] or DriftVerdict.NEW_FAILURE in run.counts["layer"]
    assert (run.status, run.verdict) == (DriftStatus.PASS, DriftVerdict.WITHIN_NOISE)


def test_releases_on_different_gpus_are_built_side_by_side(
    engine_case: Path, drift, workers, tmp_path: Path, monkeypatch
) -> None:
    two_gpus(tmp_path, monkeypatch)
    both, seen = threading.Barrier(2, timeout=60), []

    def building(request: Any) -> None:
        if not request.marks and not seen:
            both.wait()  # both lanes are at their first build at once, or this breaks

    workers.watch = building
    report = drift(
        engine_case / "norm.case.yaml",
        "old",
        "new",
        repeats=2,
        progress=lambda event: event.kind == "done" and seen.append((event.index, event.total)),
    )
    assert [run.verdict for run in report.runs] == [DriftVerdict.SAME]
    rows = harness.load_history(tmp_path / "h")
    engines = rows[rows["kind"] == "engine"]
    assert engines["release"].tolist() == ["old", "old", "new", "new"], "in their order, whoever was first"
    assert list(report.fingerprint.environments) == ["old", "new"]
    assert rows.loc[rows["kind"] == "output", "distance"].notna().all()
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4)]


def test_an_interruption_ends_the_builds_on_all_gpus(
    engine_case: Path, drift, workers, tmp_path: Path, monkeypatch
) -> None:
    two_gpus(tmp_path, monkeypatch)

    def stop(event: Any) -> None:
        if event.kind == "start" and event.case == "norm" and event.candidate == "new build 2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drift(engine_case, "old", "new", repeats=3, progress=stop)
    assert not [thread for thread in threading.enumerate() if "_fulfil" in thread.name]
    (info,) = list_runs(tmp_path / "h")
    assert (info.finished, [path.stem for path in info.files]) == (False, ["broken@fp16"])
    report = drift(engine_case, "old", "new", repeats=3, resume=True)
    assert {run.case: run.status for run in report.runs} == {
        "broken": DriftStatus.ERROR,
        "norm": DriftStatus.PASS,
    }


def test_after_the_time_limit_no_further_build_begins_and_the_report_says_so(
    engine_case: Path, drift, workers, tmp_path: Path
) -> None:
    report = drift(engine_case / "norm.case.yaml", "old", "new", repeats=3, run_limit=1e-3)
    (run,) = report.runs
    assert run.status is DriftStatus.ERROR, "and a build that takes longer is ended"
    assert "0.001" in run.reason
    shutil.rmtree(tmp_path / "h")
    limit = 3000.0  # what is left of it bounds real builds, too
    monotonic = iter(range(0, 100_000, 2000))
    clock = SimpleNamespace(perf_counter=lambda: float(next(monotonic)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.history.matrix.run.time", clock)
        report = drift(engine_case / "norm.case.yaml", "old", "new", repeats=3, run_limit=limit)
    (run,) = report.runs
    assert run.status is DriftStatus.PASS
    assert run.reason.endswith(
        "old: 2 of 3 builds within the time limit; new: 2 of 3 builds within the time limit"
    )


def test_an_engine_that_cannot_be_built_leaves_a_row_and_the_run_goes_on(
    engine_case: Path, drift, workers
) -> None:
    report = drift(engine_case, "old", "new", repeats=2)
    statuses = {run.case: run.status for run in report.runs}
    assert statuses == {"broken": DriftStatus.ERROR, "norm": DriftStatus.PASS}
    assert report.exit_code == 3
    broken = next(run for run in report.runs if run.case == "broken")
    assert "no implementation" in broken.reason
    assert {error.release for error in broken.errors} == {"old", "new"}
    assert not any("environment" in str(error) for error in broken.errors), "the release is named once"
    failed = [request for _, request in workers if request.options.workspace_mib == 1]
    assert len(failed) == 2, "what failed once is not built again"
