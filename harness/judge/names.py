"""Names in a case that only its model can confirm: of outputs and layers in tolerances, and of origins.

A pattern that matches nothing is no harmless one: the tensors that it was written for then have the default gates.
On engines patterns match the same names, as layers go by their ONNX tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from harness.case import Case, Location, parse_slice, read_document
from harness.errors import CaseFileError, HarnessError, Mistake, UsageError
from harness.judge.workbench import Workbench
from harness.model import Model
from harness.text import plural, suggestion

Wrong = tuple[Location, str]


def check_names(case: Case, model: Model) -> None:
    """See that every pattern and name of `case` finds something in its model.

    Raises:
        CaseFileError: some do not; each is named with its place and the nearest name.
        UsageError: likewise, for a case that was made in memory.
    """
    found = list(_wrong_names(case, model))
    if found and case.path is None:
        raise UsageError("; ".join(message for _, message in found), where=case.name)
    if mistakes := _placed(case, found):
        raise CaseFileError(mistakes)


def check_names_of(cases: Iterable[Case], bench: Callable[[Case], Workbench]) -> None:
    """`check_names` for all cases before any of them is run; only models of cases that name something are loaded.

    A case whose model cannot be had is left to its run, which says why.

    Raises:
        CaseFileError: names in case files find nothing; all of all files are listed.
        UsageError: likewise, for a case that was made in memory.
    """
    mistakes: list[Mistake] = []
    for case in cases:
        names = any(rule.layer or rule.output for rule in case.tolerances) or any(
            run.origin for run in case.runs
        )
        if not names or bench(case).missing_packages():
            continue
        try:
            model = bench(case).model
        except HarnessError:
            continue
        try:
            check_names(case, model)
        except CaseFileError as error:
            mistakes += error.mistakes
    if mistakes:
        raise CaseFileError(mistakes)


def _wrong_names(case: Case, model: Model) -> Iterator[Wrong]:
    outputs = [info.name for info in model.outputs]
    compared = dict.fromkeys([*outputs, *model.float_tensors])
    producers = [node.name for node in map(model.producer, compared) if node is not None]
    layers = [*compared, *dict.fromkeys(producers)]
    nodes = [node.name for node in model.nodes]
    others = [*nodes, *(name for node in model.nodes for name in node.outputs)]
    for place, rule in enumerate(case.tolerances):
        for key, globs, known, what in (
            ("output", rule.output, outputs, "output of the model"),
            ("layer", rule.layer, layers, "node and no tensor of the model"),
        ):
            for position, glob in enumerate(globs):
                if not _any_match(glob, known):
                    at: Location = ("tolerances", place, key)
                    message = f"{glob!r} matches no {what}"
                    if key == "layer" and _any_match(glob, others):
                        message = (
                            f"{glob!r} matches only what is not compared: constants, shapes and integers"
                        )
                    yield (*at, position) if len(globs) > 1 else at, message + _near(glob, known)
        ranks = {info.name: len(info.shape) for info in model.outputs if info.shape is not None}
        for name in (
            name for name in ranks if rule.slice and any(fnmatchcase(name, glob) for glob in rule.output)
        ):
            count = sum(each is not ... for each in parse_slice(rule.slice or ""))
            if count > ranks[name]:
                yield (
                    ("tolerances", place, "slice"),
                    f"{name} has {plural(ranks[name], 'axis', 'axes')}, not {count}",
                )
    for place, run in enumerate(case.runs):
        for name in run.origin:
            if name not in nodes:
                yield ("runs", place, "origin"), f"no node is named {name!r}{_near(name, nodes)}"


def _any_match(glob: str, names: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for name in names)


def _near(glob: str, known: Collection[str]) -> str:
    """The nearest name, or the first few where none is near."""
    near = suggestion(glob.strip("*?"), known)
    if near is not None:
        return f", {near}"
    first = ", ".join([*known][:5])
    return f"; there are {first}{', …' if len(known) > 5 else ''}" if known else ""


def _placed(case: Case, found: Sequence[Wrong]) -> list[Mistake]:
    if not found:
        return []
    assert case.path is not None
    document = read_document(case.path)
    return [document.mistake(location, message) for location, message in found]
