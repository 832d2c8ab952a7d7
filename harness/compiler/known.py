"""What is known against a model without asking a compiler now: rules, and the answers that are kept of earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from harness.compiler.cache import ReportCache
from harness.compiler.facts import FindingKind
from harness.compiler.rules import Match, match_rules
from harness.model import Model
from harness.worker.protocol import CompileReport

_MATCHES: WeakKeyDictionary[Model, tuple[Match, ...]] = WeakKeyDictionary()


@dataclass(frozen=True)
class KnownProblems:
    """What stands against a model.

    Args:
        refused: rules by which a node is refused, or not built, by some release.
        different: rules by which a node computes something else.
        reports: of each release that was asked about the model and never built it, what it said last.
    """

    refused: tuple[Match, ...]
    different: tuple[Match, ...]
    reports: tuple[CompileReport, ...]

    def __bool__(self) -> bool:
        return bool(self.refused or self.different or self.reports)


def known_problems(
    model: Model, release: tuple[str, str] | None = None, *, cache: ReportCache | None = None
) -> KnownProblems:
    """What is known against `model`.

    Args:
        model: the model.
        release: product and version of the one release that counts; None: any.
        cache: where the reports of compilers are kept; by default harness's cache folder.
    """
    if model not in _MATCHES:  # the runs of a case share their model
        _MATCHES[model] = match_rules(model)
    matches = [each for each in _MATCHES[model] if release is None or each.rule.include(*release)]
    return KnownProblems(
        tuple(each for each in matches if each.rule.kind in (FindingKind.REFUSED, FindingKind.NOT_BUILT)),
        tuple(each for each in matches if each.rule.kind is FindingKind.DIFFERENT),
        _never_built((cache or ReportCache()).reports_of(model.sha256), release),
    )


def _never_built(
    reports: Sequence[CompileReport], release: tuple[str, str] | None
) -> tuple[CompileReport, ...]:
    last: dict[tuple[str, str], CompileReport] = {}
    built = set()
    for report in reports:
        key = (report.product, report.release)
        if report.built:
            built.add(key)
        elif report.refused or (report.failure is not None and report.failure.kind == "build_failed"):
            last[key] = report
    return tuple(
        report for key, report in sorted(last.items()) if key not in built and release in (None, key)
    )
