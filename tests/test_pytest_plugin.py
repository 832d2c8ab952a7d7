"""Case files as test items: what pytest's own machinery makes of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tiny_cases import write_cases

from harness import pytest_plugin
from harness.pytest_plugin import pin_gpu

pytest_plugins = ["pytester"]

HEAVY = {
    "numpy",
    "onnx",
    "onnxruntime",
    "onnx_ir",
    "pandas",
    "matplotlib",
    "pydantic",
    "rich",
    "typer",
    "jinja2",
}


@pytest.fixture(scope="module", autouse=True)
def everything_is_imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """pytester forgets what its projects import, and NumPy cannot be imported twice: import it all before."""
    import hypothesis.core  # noqa: F401 - its own plugin, which takes seconds

    import harness.report.run.console  # noqa: F401
    from harness.case import load_case
    from harness.judge import Judge

    case = load_case(write_cases(tmp_path_factory.mktemp("warm"), "expected") / "expected.case.yaml")
    with Judge() as judge:
        judge.run(case, case.runs[1])


@pytest.fixture
def cases(pytester: pytest.Pytester, monkeypatch):
    """Write tiny cases into the `cases` folder of a project of its own."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("COLUMNS", "140")
    pytester.makeini("[pytest]\naddopts = --strict-markers --strict-config -p no:cacheprovider\n")

    def write(*names: str) -> Path:
        return write_cases(pytester.path / "cases", *names)

    return write


def collected(pytester: pytest.Pytester, *arguments: str) -> list[str]:
    result = pytester.runpytest("--collect-only", "-q", *arguments)
    return [line for line in result.outlines if "::" in line]


def test_each_run_is_an_item(pytester, cases) -> None:
    cases("failing", "clean")
    assert collected(pytester, "cases") == [
        "cases/clean.case.yaml::fp32",
        "cases/clean.case.yaml::fp16",
        "cases/clean.case.yaml::bf16",
        "cases/failing.case.yaml::fp32",
        "cases/failing.case.yaml::fp16",
    ]


def test_one_run_can_be_named(pytester, cases) -> None:
    cases("clean")
    pytester.runpytest("cases/clean.case.yaml::fp16").assert_outcomes(passed=1)


def test_verdicts_become_outcomes(pytester, cases) -> None:
    cases("clean", "expected", "failing", "cured", "skipped", "mistaken")
    result = pytester.runpytest("cases", "-rA")
    result.assert_outcomes(passed=5, xfailed=1, failed=4, skipped=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "XFAIL cases/expected.case.yaml::fp16 - fails as expected: squares overflow",
            "FAILED cases/cured.case.yaml::fp16 - RunFailed: passes, although the case expects it to fail*",
            "FAILED cases/failing.case.yaml::fp16 - RunFailed: y: 30 of 32 elements are not finite",
        ]
    )
    result.stdout.fnmatch_lines(["SKIPPED*a_package_that_is_nowhere*"])


def test_a_failure_prints_table_origin_and_next_command_and_no_traceback(pytester, cases) -> None:
    cases("failing")
    result = pytester.runpytest("cases")
    result.stdout.fnmatch_lines(
        [
            "*____ failing at fp16 ____*",
            "output *nrmse *max abs *gates*",
            "y * 30 *nrmse inf > 0.01",
            "origin  node square (Mul): 30 of 32 elements overflow*",
            "next    harness * cases/failing.case.yaml --precision fp16*",
        ]
    )
    text = result.stdout.str()
    assert "Traceback" not in text
    assert "pytest_plugin.py" not in text
    assert "def " not in text


def test_a_mistake_found_while_running_is_one_message(pytester, cases) -> None:
    cases("mistaken")
    result = pytester.runpytest("cases", "-k", "fp16")
    result.assert_outcomes(failed=1, deselected=1)
    result.stdout.fnmatch_lines(["*did you mean `scale`?*"])
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")


def test_a_bad_case_file_is_a_collection_error_that_names_all_mistakes(pytester, cases) -> None:
    folder = cases("clean")
    (folder / "bad.case.yaml").write_text("modle: {path: x.onnx}\nruns: [fp17]\n")
    result = pytester.runpytest("cases")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR collecting cases/bad.case.yaml*",
            "*bad.case.yaml:1:1: modle: *did you mean*",
            "*bad.case.yaml:2:*",
        ]
    )
    assert "Traceback" not in result.stdout.str()
    assert "load_case" not in result.stdout.str()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-k", "fp16"], ["clean.case.yaml::fp16", "expected.case.yaml::fp16"]),
        (["-k", "expected and not fp16"], ["expected.case.yaml::fp32"]),
        (["-k", "sound and bf16"], ["clean.case.yaml::bf16"]),
        (["-m", "bf16"], ["clean.case.yaml::bf16"]),
        (["-m", "tiny and fp16 and not sound"], ["expected.case.yaml::fp16"]),
        (["-m", "gpu"], []),
        (["--harness-precision", "fp16", "--harness-precision", "bf16", "-m", "sound"],
         ["clean.case.yaml::fp16", "clean.case.yaml::bf16"]),
    ],
)  # fmt: skip
def test_items_are_selected_by_keyword_mark_and_precision(arguments, expected, pytester, cases) -> None:
    cases("clean", "expected")
    assert collected(pytester, "cases", *arguments) == [f"cases/{name}" for name in expected]


def test_an_unknown_precision_is_refused(pytester, cases) -> None:
    cases("clean")
    result = pytester.runpytest("cases", "--harness-precision", "fp17")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*'fp17' is not a precision: did you mean `fp16`? Choose from fp32, tf32*"])


def test_tags_that_mean_something_to_pytest_stay_tags(pytester, cases) -> None:
    folder = cases("clean")
    file = folder / "clean.case.yaml"
    file.write_text(
        file.read_text().replace("[tiny, sound]", "[skip, xfail, usefixtures, _own, needs-torch, v1.2]")
    )
    pytester.runpytest("cases").assert_outcomes(passed=3)
    assert len(collected(pytester, "cases", "-k", "_own and fp32")) == 1
    assert len(collected(pytester, "cases", "-m", "needs-torch and v1.2")) == 3


def test_last_failed_runs_again_alone(pytester, cases) -> None:
    cases("clean", "failing")
    pytester.makeini("[pytest]\n")
    pytester.runpytest("cases").assert_outcomes(passed=4, failed=1)
    result = pytester.runpytest("cases", "--lf")
    result.assert_outcomes(failed=1)


def test_fixtures_of_every_scope_reach_the_items(pytester, cases) -> None:
    cases("clean")
    pytester.makeconftest(
        """
        import pytest
        log = []

        @pytest.fixture(autouse=True, scope="session")
        def for_session(): log.append("session")

        @pytest.fixture(autouse=True, scope="package")
        def for_package(): log.append("package")

        @pytest.fixture(autouse=True, scope="module")
        def for_module(request): log.append(f"module {request.node.name}")

        @pytest.fixture(autouse=True, scope="class")
        def for_class(): log.append("class")

        @pytest.fixture(autouse=True)
        def for_function(request, harness_judge, tmp_path):
            log.append(f"function {request.node.name} {request.node.case.name} {request.node.spec.precision}")

        def pytest_terminal_summary(terminalreporter):
            for line in log: terminalreporter.line(f"log: {line}")
        """
    )
    result = pytester.runpytest("cases")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        ["log: session", "log: package", "log: module clean.case.yaml", "log: function fp32 clean fp32"]
    )
    assert sum("log: module" in line for line in result.outlines) == 1


def test_a_project_may_judge_with_options_of_its_own(pytester, cases) -> None:
    cases("failing")
    pytester.makeconftest(
        """
        import pytest
        from harness.judge import Judge, JudgeOptions

        @pytest.fixture(scope="session")
        def harness_judge():
            with Judge(JudgeOptions(layers=False)) as judge:
                yield judge
        """
    )
    result = pytester.runpytest("cases")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.no_fnmatch_line("*origin*")


def test_one_judge_serves_all_cases_and_builds_each_model_once(pytester, cases) -> None:
    folder = cases("clean", "expected")
    (folder / "models.py").write_text((folder / "models.py").read_text() + BUILD_LOG)
    pytester.runpytest("cases").assert_outcomes(passed=4, xfailed=1)
    assert (folder / "built").read_text().split() == ["1.0", "1000.0"]


BUILD_LOG = """
import pathlib
really = squares

def squares(scale=1.0):
    with open(pathlib.Path(__file__).with_name("built"), "a") as log:
        log.write(f"{scale} ")
    return really(scale)
"""


def test_a_waiver_makes_an_item_xfail_until_it_expires(pytester, cases) -> None:
    file = cases("failing") / "failing.case.yaml"
    sound = file.read_text()
    file.write_text(sound + "waivers: [{reason: known, expires: 2999-01-01}]\n")
    pytester.runpytest("cases").assert_outcomes(passed=1, xfailed=1)
    file.write_text(sound + "waivers: [{reason: known, expires: 2000-01-01}]\n")
    result = pytester.runpytest("cases", "-rA")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["FAILED *30 of 32 elements are not finite; the waiver expired on 2000-01-01: known"]
    )


def test_an_expected_failure_is_a_failure_under_runxfail(pytester, cases) -> None:
    cases("expected", "cured")
    pytester.runpytest("cases", "--runxfail").assert_outcomes(passed=2, failed=1)


def test_a_failure_that_is_expected_elsewhere_is_none_here(pytester, cases) -> None:
    file = cases("expected") / "expected.case.yaml"
    text = file.read_text()
    for where, counts in (("emulator", {"xfailed": 1}), ("tensorrt<9", {"failed": 1})):
        file.write_text(text.replace("expect: fail", f"expect: fail, where: {where}"))
        pytester.runpytest("cases").assert_outcomes(passed=1, **counts)


def test_junit_has_the_reason_and_the_numbers(pytester, cases) -> None:
    cases("failing", "clean")
    pytester.runpytest("cases", "--junitxml=junit.xml")
    tree = ElementTree.parse(pytester.path / "junit.xml")
    (failed,) = [test for test in tree.iter("testcase") if test.find("failure") is not None]
    assert failed.get("classname") == "cases.failing.case.yaml"
    assert failed.get("name") == "fp16"
    failure = failed.find("failure")
    assert failure is not None
    assert failure.get("message") == "RunFailed: y: 30 of 32 elements are not finite"
    assert "origin  node square (Mul)" in (failure.text or "")
    properties = {item.get("name"): item.get("value") for item in failed.iter("property")}
    assert properties == {
        "case": "failing",
        "precision": "fp16",
        "candidate": "emulator",
        "verdict": "fail",
        "worst_output": "y",
        "worst_nrmse": "inf",
        "origin": "square",
    }


def test_xdist_runs_the_same_items_with_the_same_reports(pytester, cases) -> None:
    pytest.importorskip("xdist")
    cases("clean", "failing", "expected")
    pytester.makeconftest(
        """
        def pytest_runtest_logreport(report):
            if report.when == "call" and hasattr(report, "node"):
                with open("workers", "a") as log:
                    log.write(f"{report.nodeid.split('::')[0]} {report.node.gateway.id}\\n")
        """
    )
    result = pytester.runpytest("cases", "-n", "2", "--dist", "loadscope", "-rA")
    result.assert_outcomes(passed=5, failed=1, xfailed=1)
    result.stdout.fnmatch_lines(["*failing at fp16*", "origin  node square (Mul)*", "next    harness *"])
    result.stdout.fnmatch_lines(["FAILED cases/failing.case.yaml::fp16 - RunFailed: y: 30 of 32*"])
    lines = set((pytester.path / "workers").read_text().splitlines())
    assert len(lines) == 3, "the runs of a case share a worker"


def test_the_runs_of_a_case_are_a_group_to_xdist(pytester, cases) -> None:
    pytest.importorskip("xdist")
    cases("clean", "expected")
    items, _ = pytester.inline_genitems("cases")
    groups = {item.nodeid: item.get_closest_marker("xdist_group").args for item in items}
    assert len(set(groups.values())) == 2
    assert groups["cases/clean.case.yaml::fp16"] == groups["cases/clean.case.yaml::fp32"]


def test_properties_are_plain_types(pytester, cases) -> None:
    cases("expected")
    pytester.makeconftest(
        """
        import json

        def pytest_runtest_logreport(report):
            if report.when == "call":
                assert all(type(value) in (str, float, bool) for _, value in report.user_properties)
                print(json.dumps(report.user_properties))
        """
    )
    result = pytester.runpytest("cases", "-s")
    result.assert_outcomes(passed=1, xfailed=1)


def test_warnings_of_a_run_are_pytest_warnings(pytester, cases) -> None:
    cases("clean")
    pytester.makeconftest(
        """
        import dataclasses, pytest
        from harness.judge import Judge

        class Warning(Judge):
            def run(self, *arguments):
                return dataclasses.replace(super().run(*arguments), warnings=("the golden reference differs",))

        @pytest.fixture(scope="session")
        def harness_judge():
            with Warning() as judge:
                yield judge
        """
    )
    result = pytester.runpytest("cases", "-k", "fp32")
    result.assert_outcomes(passed=1, warnings=1, deselected=2)
    result.stdout.fnmatch_lines(["*HarnessWarning: clean: the golden reference differs"])


def test_golden_references_are_written_checked_and_pruned(pytester, cases) -> None:
    folder, golden = cases("clean"), pytester.path / "golden"
    pytester.runpytest("cases").assert_outcomes(passed=3)
    assert not golden.exists(), "nobody asked for golden references"

    pytester.runpytest("cases", "--golden-update").assert_outcomes(passed=3)
    assert [path.name for path in golden.iterdir()] == ["clean"]
    pytester.runpytest("cases").assert_outcomes(passed=3)

    models = folder / "models.py"
    models.write_text(
        models.read_text()
        .replace("np.float32(scale)", "np.float32(scale * 1.5)")
        .replace('["root", "scale"], ["y"], "y"', '["root", "root"], ["y"], "y"')
    )
    result = pytester.runpytest("cases")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(["*the reference is not the golden one any more*"])
    result.stdout.fnmatch_lines(["next  harness run cases/clean.case.yaml --golden-update"])

    pytester.runpytest("cases", "--golden-update").assert_outcomes(passed=3)
    pytester.runpytest("cases").assert_outcomes(passed=3)

    (folder / "clean.case.yaml").rename(folder / "renamed.case.yaml")
    result = pytester.runpytest("cases", "-k", "fp32")
    result.assert_outcomes(passed=1, deselected=2, warnings=1)
    result.stdout.fnmatch_lines(["*HarnessWarning: renamed: there is no golden reference yet*"])
    pytester.runpytest("cases", "--golden-prune", "--collect-only")
    assert (golden / "clean").exists(), "collecting changes nothing"
    result = pytester.runpytest("cases", "--golden-prune", "-k", "fp32")
    result.stdout.fnmatch_lines(["*HarnessWarning: removed *clean"])
    assert not (golden / "clean").exists()


@pytest.mark.parametrize("flag", ["--golden-update", "--golden-prune"])
def test_golden_references_are_left_alone_in_ci(flag: str, pytester, cases, monkeypatch) -> None:
    cases("clean")
    monkeypatch.setenv("CI", "true")
    result = pytester.runpytest("cases", flag)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*golden references are not * where CI is set*"])
    assert not (pytester.path / "golden").exists()


def test_an_error_of_a_candidate_shows_its_evidence(pytester, cases) -> None:
    cases("clean")
    pytester.makeconftest(
        """
        import dataclasses, pytest
        from harness.judge import Judge, RunReason, Verdict

        class Dying(Judge):
            def run(self, *arguments):
                result = super().run(*arguments)
                return dataclasses.replace(result, verdict=Verdict.ERROR, outputs=(), layers=(),
                                           why=RunReason(detail="the worker died (signal 11)"),
                                           evidence=("[TRT] the last words",))

        @pytest.fixture(scope="session")
        def harness_judge():
            with Dying() as judge:
                yield judge
        """
    )
    result = pytester.runpytest("cases", "-k", "fp32")
    result.assert_outcomes(failed=1, deselected=2)
    result.stdout.fnmatch_lines(["*the worker died (signal 11)*", "*the last words*"])


def test_items_of_environments_have_the_name_in_their_id_and_the_mark_gpu(pytester, cases) -> None:
    cases("clean")
    (pytester.path / "harness.toml").write_text(
        f'[environments.trt-9]\npython = "{sys.executable}"\n[environments.other]\npython = "{sys.executable}"\n'
    )
    arguments = ("cases", "-m", "fp16", "--harness-env", "trt-9", "--harness-env", "other")
    assert collected(pytester, *arguments) == [
        "cases/clean.case.yaml::trt-9-fp16",
        "cases/clean.case.yaml::other-fp16",
    ]
    assert collected(pytester, *arguments, "-m", "not gpu") == []
    assert collected(pytester, "cases", "--harness-env", "emulator", "-m", "fp16") == [
        "cases/clean.case.yaml::fp16"
    ]


def test_an_unknown_environment_is_refused_before_anything_is_collected(pytester, cases) -> None:
    cases("clean")
    result = pytester.runpytest("cases", "--harness-env", "nowhere")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*no environment is called 'nowhere'*"])


def test_case_files_in_a_folder_of_tests_are_collected_beside_them(pytester, cases) -> None:
    folder = cases("clean")
    (folder / "test_other.py").write_text("def test_it(): pass\n")
    (folder / "notes.yaml").write_text("nothing: here\n")
    pytester.runpytest("cases").assert_outcomes(passed=4)


def test_the_plugin_imports_nothing_heavy(tmp_path: Path) -> None:
    script = """
import json, sys, pytest

class Probe:
    def pytest_sessionfinish(self):
        print("modules: " + json.dumps(sorted(sys.modules)))

sys.exit(pytest.main(["-q", "-s", "-p", "no:cacheprovider", "test_it.py"], plugins=[Probe()]))
"""
    (tmp_path / "test_it.py").write_text("def test_it(): pass\n")
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    (line,) = [line for line in done.stdout.splitlines() if "modules: " in line]
    modules = set(json.loads(line.split("modules: ")[1]))
    assert "harness.pytest_plugin" in modules
    assert not {name.split(".")[0] for name in modules} & (HEAVY - {"rich"})
    assert not {name for name in modules if name.startswith("harness.")} - {"harness.pytest_plugin"}


def test_constants_that_the_plugin_repeats_equal_those_of_the_packages() -> None:
    from harness.case import CASE_SUFFIX
    from harness.environments import RESERVED

    assert pytest_plugin.CASE_SUFFIX == CASE_SUFFIX
    assert pytest_plugin.EMULATOR == RESERVED


@pytest.mark.parametrize(
    ("worker", "listed", "installed", "chosen"),
    [
        ("gw0", "2,3,5", [], "2"),
        ("gw2", "2,3,5", [], "5"),
        ("gw4", "2,3,5", [], "3"),
        ("gw1", "GPU-aaaa, MIG-bbbb", [], "MIG-bbbb"),
        ("gw3", "4,7,-1,5", [], "7"),
        ("gw1", None, ["0", "1"], "1"),
        ("gw1", None, [], None),
        ("gw1", "", ["0", "1"], None),
        ("gw1", "-1", ["0", "1"], None),
        ("master", "2,3", [], None),
        (None, "2,3", [], None),
    ],
)
def test_an_xdist_worker_gets_one_gpu_of_the_callers_list(worker, listed, installed, chosen) -> None:
    variables = {}
    if worker is not None:
        variables["PYTEST_XDIST_WORKER"] = worker
    if listed is not None:
        variables["CUDA_VISIBLE_DEVICES"] = listed
    before = dict(variables)
    assert pin_gpu(variables, installed) == chosen
    if chosen is None:
        assert variables == before
    else:
        assert variables["CUDA_VISIBLE_DEVICES"] == chosen
        assert pin_gpu(variables, installed) == chosen, "a second call changes nothing"
        assert ("CUDA_DEVICE_ORDER" in variables) == (listed is None)


def test_the_workers_of_this_project_are_pinned_before_anything_else(pytester) -> None:
    pytest.importorskip("xdist")
    root_conftest = Path(__file__).parents[1] / "conftest.py"
    pytester.makeconftest(root_conftest.read_text())
    pytester.makepyfile(
        """
        import os, pytest

        @pytest.mark.parametrize("place", range(4))
        def test_it(place, worker_id):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == {"gw0": "6", "gw1": "4"}[worker_id]
        """
    )
    pytester._monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,4")
    # This test may itself run in a worker of xdist, and its own conftest.py must not take the new controller for one.
    pytester._monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    pytester.runpytest_subprocess("-n", "2").assert_outcomes(passed=4)


CHECKED = """
model: {path: m.onnx}
runs: [fp32]
"""


def write_checked(pytester, expected: str = "") -> None:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node("TopK", ["x", "k"], ["v", "i"], "top")
    infos = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 5000])]
    outputs = [helper.make_tensor_value_info("v", TensorProto.FLOAT, None)]
    k = numpy_helper.from_array(np.array([4000]), "k")
    graph = helper.make_graph([node], "g", infos, outputs, [k])
    folder = pytester.path / "cases"
    folder.mkdir()
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "m.onnx"
    )
    (folder / "large.case.yaml").write_text(CHECKED + expected)


@pytest.mark.parametrize(
    ("expected", "outcome", "said"),
    [
        ("", {"failed": 1}, "*NOT BUILT topk-limit top (TopK): K is limited to 3840"),
        ("findings: [topk-limit]", {"passed": 1}, "*1 passed*"),
        ("findings: [{code: topk-limit, node: top}]", {"passed": 1}, "*1 passed*"),
        ("findings: [topk-limit, dtype]", {"failed": 1}, "*expected, and not found: dtype"),
        (
            "findings: [{code: topk-limit, node: other}]",
            {"failed": 1},
            "*expected, and not found: topk-limit",
        ),
    ],
)
def test_a_check_is_an_item_and_a_case_can_expect_a_finding(
    pytester, cases, expected: str, outcome: dict[str, int], said: str
) -> None:
    write_checked(pytester, expected)
    assert collected(pytester, "--harness-check", "cases") == [
        "cases/large.case.yaml::fp32",
        "cases/large.case.yaml::check",
    ]
    result = pytester.runpytest("--harness-check", "cases", "-k", "check")
    result.assert_outcomes(deselected=1, **outcome)
    result.stdout.fnmatch_lines([said])
    assert "Traceback" not in result.stdout.str()
