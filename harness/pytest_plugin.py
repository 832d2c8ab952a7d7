"""pytest collects case files: each run of `cases/x.case.yaml` is an item such as `cases/x.case.yaml::fp16`.

The items are ordinary test functions to pytest, so fixtures, `-k`, `-m`, `--lf`, xdist and JUnit work. pytest
loads this module in every project of the virtual environment, so it imports nothing heavy until a case file
is collected.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.case import Case, RunSpec
    from harness.conversion import CheckResult
    from harness.judge import Judge, RunResult
    from harness.tensors import Precision

CASE_SUFFIX = ".case.yaml"
EMULATOR = "emulator"
RESERVED_MARKS = frozenset({"filterwarnings", "parametrize", "skip", "skipif", "usefixtures", "xfail"})
"""Marks that pytest gives a meaning; a tag of this name is no mark."""


class HarnessWarning(pytest.PytestWarning):
    """A warning of a run, which changes no verdict."""


class RunFailed(Exception):
    """A run that did not come out as its case expects."""

    def __init__(self, result: RunResult) -> None:
        super().__init__(result.reason)
        self.result = result


RunFailed.__module__ = "builtins"  # so that reports say `RunFailed`, without a path into this package


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the group `harness`."""
    group = parser.getgroup("harness", "judging case files (*.case.yaml)")
    group.addoption(
        "--harness-env",
        metavar="NAME",
        action="append",
        default=[],
        help="judge engines of this environment of harness.toml instead of the emulator; may be repeated",
    )
    group.addoption(
        "--harness-precision",
        metavar="P",
        action="append",
        default=[],
        type=_precision,
        help="judge only this precision; may be repeated",
    )
    group.addoption(
        "--harness-check",
        action="store_true",
        help="check whether the models convert, too: an item for each case and --harness-env, or by the rules alone",
    )
    group.addoption(
        "--golden-update",
        action="store_true",
        help="rewrite golden references that are missing or differ; refused when CI is set",
    )
    group.addoption(
        "--golden-prune",
        action="store_true",
        help="remove golden references that no case has; refused when CI is set",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark `gpu`, and refuse options that make no sense.

    Raises:
        UsageError: an environment is unknown, or golden references would be rewritten where CI is set.
    """
    config.addinivalue_line("markers", "gpu: needs a GPU, such as a run on a TensorRT engine")
    update, names = config.getoption("golden_update"), set(config.getoption("harness_env")) - {EMULATOR}
    rewrites = update or config.getoption("golden_prune")
    if not rewrites and not names:
        return
    from harness.environments import select
    from harness.errors import EnvironmentConfigError, GoldenError
    from harness.golden import refuse_in_ci

    try:
        if rewrites:
            refuse_in_ci("rewritten" if update else "removed")
        for name in sorted(names):
            select(name)
    except (EnvironmentConfigError, GoldenError) as error:
        raise pytest.UsageError(str(error)) from None


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> CaseFile | None:
    """Collect `*.case.yaml`."""
    if file_path.name.endswith(CASE_SUFFIX):
        collector: CaseFile = CaseFile.from_parent(parent, path=file_path)
        return collector
    return None


@pytest.fixture(scope="session")
def harness_judge(pytestconfig: pytest.Config) -> Iterator[Judge]:
    """The judge of all case files; override it in a conftest.py to judge with other options."""
    from harness.judge import Judge, JudgeOptions

    with Judge(JudgeOptions(golden_update=pytestconfig.getoption("golden_update"))) as judge:
        yield judge


def pytest_collection_finish(session: pytest.Session) -> None:
    """With `--golden-prune`, remove the golden references that no case has any more."""
    config = session.config
    worker = getattr(config, "workerinput", {}).get("workerid", "gw0")  # of xdist's, one is enough
    if config.getoption("golden_prune") and worker == "gw0" and not config.getoption("collectonly"):
        from harness.golden import prune_goldens

        for folder in prune_goldens(item.case for item in session.items if isinstance(item, RunItem)):
            warnings.warn(HarnessWarning(f"removed {folder}"), stacklevel=1)


class CaseFile(pytest.Module):
    """A case file; a module to pytest, so that fixtures of every scope find their place."""

    obj = None  # there is no Python module behind it

    def collect(self) -> Iterator[RunItem | CheckItem]:
        """Yield an item for each candidate and precision, and for each check.

        Raises:
            CollectError: the file holds mistakes; the message names all of them.
        """
        from harness.case import load_case
        from harness.errors import HarnessError

        try:
            case = load_case(self.path)
        except HarnessError as error:
            raise self.CollectError(str(error)) from None
        for candidate in self.config.getoption("harness_env") or [EMULATOR]:
            for spec in case.select_runs(self.config.getoption("harness_precision")):
                name = str(spec.precision) if candidate == EMULATOR else f"{candidate}-{spec.precision}"
                yield RunItem.from_parent(
                    self, name=name, callobj=_judge_run, case=case, spec=spec, candidate=candidate
                )
        if self.config.getoption("harness_check"):
            names = [name for name in self.config.getoption("harness_env") if name != EMULATOR]
            for environment in names or [None]:
                name = "check" if environment is None else f"{environment}-check"
                yield CheckItem.from_parent(
                    self, name=name, callobj=_check_case, case=case, environment=environment
                )


class CheckFailed(Exception):
    """A model that does not convert as its case expects; the message is the report."""


CheckFailed.__module__ = "builtins"


class CheckItem(pytest.Function):
    """Whether the model of a case converts, by the compiler of an environment or by the rules."""

    def __init__(self, *, case: Case, environment: str | None, **options: Any) -> None:
        super().__init__(**options)
        self.case = case
        self.environment = environment
        self.extra_keyword_matches.update([case.name, "check", *case.tags])

    def check(self) -> None:
        """Check, and report the outcome to pytest."""
        from harness.conversion import check
        from harness.report import check_text

        report = check(self.case, environments=() if self.environment is None else self.environment)
        (result,) = report.results
        self.user_properties += [("case", result.case), ("findings", ", ".join(_codes(result)))]
        if result.fails:
            raise CheckFailed(check_text(report))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """The case file, and what the item is called in headlines."""
        where = "by the rules" if self.environment is None else f"on {self.environment}"
        return self.path, 0, f"check of {self.case.name} {where}"

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any) -> Any:
        """A failed check as its report; an error of harness as its message."""
        from harness.errors import HarnessError

        if isinstance(excinfo.value, (CheckFailed, HarnessError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo)


def _check_case(request: pytest.FixtureRequest) -> None:
    request.node.check()


def _codes(result: CheckResult) -> list[str]:
    """The codes of what was found: in the environment, or by the rules."""
    found = [finding for each in result.environments for finding in each.findings] or result.findings
    return list(dict.fromkeys(finding.code for finding in found))


class RunItem(pytest.Function):
    """One run of a case."""

    def __init__(self, *, case: Case, spec: RunSpec, candidate: str, **options: Any) -> None:
        super().__init__(**options)
        self.case = case
        self.spec = spec
        self.candidate = candidate
        self.add_marker(_mark(self.config, spec.precision.value, "a run at this precision"))
        for tag in case.tags:
            if tag not in RESERVED_MARKS and not tag.startswith("_"):
                self.add_marker(_mark(self.config, tag, "tag of a case file"))
        self.extra_keyword_matches.update([case.name, candidate, *case.tags])
        if candidate != EMULATOR:
            self.add_marker(pytest.mark.gpu)
        if self.config.pluginmanager.hasplugin("xdist"):
            # With `--dist loadgroup` the runs of a case share a worker, which builds model and reference once.
            self.add_marker(pytest.mark.xdist_group(f"{case.name}-{candidate}"))

    def judge(self, judge: Judge) -> None:
        """Run, and report the outcome to pytest."""
        from harness.judge import Verdict

        result = judge.run(self.case, self.spec, self.candidate)
        self.user_properties += _properties(result)
        for warning in result.warnings:
            self.warn(HarnessWarning(f"{self.case.name}: {warning}"))
        if result.verdict is Verdict.SKIP:
            pytest.skip(result.reason)
        if result.verdict is Verdict.XFAIL:
            pytest.xfail(result.reason)  # returns under --runxfail
        expected = Verdict.XPASS if self.config.getoption("runxfail") else Verdict.PASS
        if result.verdict not in (Verdict.PASS, expected):
            raise RunFailed(result)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """The case file, and what the item is called in headlines."""
        where = "" if self.candidate == EMULATOR else f" on {self.candidate}"
        return self.path, 0, f"{self.case.name} at {self.spec.precision}{where}"

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any) -> Any:
        """A failed run as its table, its origin and the next command; an error of harness as its message."""
        from harness.errors import HarnessError

        if isinstance(excinfo.value, RunFailed):
            # pytest's own kind of report: xdist sends no other between processes.
            report: Any = excinfo.getrepr(style="value")
            report.addsection(self.reportinfo()[2], self._explain(excinfo.value.result), sep="-")
            return report
        if isinstance(excinfo.value, HarnessError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def _explain(self, result: RunResult) -> str:
        from dataclasses import replace

        from harness.report import failure_text

        path = os.path.relpath(self.path, self.config.invocation_params.dir)
        width = self.config.get_terminal_writer().fullwidth
        return failure_text(replace(result, case_path=path), width=max(80, min(width, 120)))


def _judge_run(request: pytest.FixtureRequest, harness_judge: Judge) -> None:
    request.node.judge(harness_judge)


def _properties(result: RunResult) -> list[tuple[str, object]]:
    """What JUnit files and reports keep of a run; plain types, because xdist sends no others."""
    worst = result.worst
    properties: dict[str, object] = {
        "case": result.case,
        "precision": str(result.precision),
        "candidate": result.candidate,
        "verdict": str(result.verdict),
        "worst_output": None if worst is None else worst.tensor,
        "worst_nrmse": None if worst is None else float(worst.metrics.nrmse),
        "origin": ", ".join(layer.node for layer in result.origins) or None,
        "faithful": result.faithful,
    }
    return [(name, value) for name, value in properties.items() if value is not None]


def _mark(config: pytest.Config, name: str, meaning: str) -> pytest.MarkDecorator:
    """The mark `name`, registered first: under `--strict-markers` pytest makes no other."""
    known = {str(line).split(":")[0].split("(")[0].strip() for line in config.getini("markers")}
    if name not in known:
        config.addinivalue_line("markers", f"{name}: {meaning}")
    mark: pytest.MarkDecorator = getattr(pytest.mark, name)
    return mark


def _precision(text: str) -> Precision:
    from harness.tensors import Precision

    try:
        return Precision(text)
    except ValueError:
        from harness.text import suggestion

        near, names = suggestion(text, Precision), ", ".join(Precision)
        hint = f"choose from {names}" if near is None else f"{near} Choose from {names}"
        raise argparse.ArgumentTypeError(f"{text!r} is not a precision: {hint}") from None


def pin_gpu(variables: MutableMapping[str, str], installed: Sequence[str] | None = None) -> str | None:
    """Leave an xdist worker one GPU, so that workers do not share one; call it before CUDA starts.

    The worker `gw3` gets the fourth entry of the caller's own CUDA_VISIBLE_DEVICES, counted round.

    Args:
        variables: the environment variables, changed in place.
        installed: what to choose from where CUDA_VISIBLE_DEVICES is not set; by default this machine's GPUs.

    Returns:
        The entry chosen; None outside xdist and where there is no GPU.
    """
    worker = variables.get("PYTEST_XDIST_WORKER", "")
    if not worker.removeprefix("gw").isdigit():
        return None
    listed = variables.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        entries = list(_installed_gpus() if installed is None else installed)
        # The order in which the system counts; CUDA's own default puts the fastest GPU first.
        order = {"CUDA_DEVICE_ORDER": variables.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")}
    else:
        entries, order = [], {}
        for entry in listed.split(","):
            if entry.strip() in ("", "-1"):  # CUDA reads no further
                break
            entries.append(entry.strip())
    if not entries:
        return None
    chosen = entries[int(worker.removeprefix("gw")) % len(entries)]
    variables.update(order, CUDA_VISIBLE_DEVICES=chosen)
    return chosen


def _installed_gpus() -> list[str]:
    count = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return [str(index) for index in range(count)]
