"""The codes that a finding can have, and those that cases expect."""

from __future__ import annotations

from collections.abc import Iterable

from harness.case import Case, read_document
from harness.compiler import RULES
from harness.conversion.exports import DIFFERS, FAILED, FROZEN
from harness.conversion.kernels import KERNEL_CODES
from harness.conversion.masks import MASK_BEYOND
from harness.conversion.scales import SCALE_CODES
from harness.errors import CaseFileError, Mistake, UsageError
from harness.text import suggestion

#: The code of a finding that no rule explains, by the kind of the failure; parsers only refuse.
FAILURE_CODES = {
    "crashed": "crashed",
    "timed_out": "timed-out",
    "out_of_memory": "out-of-memory",
    "unsupported": "not-asked",
    "no_gpu": "needs-gpu",
}
UNEXPLAINED = ("refused", "not-built", *FAILURE_CODES.values())
NOT_STARTED, ASSUMED_SHAPE, KEPT = "not-started", "assumed-shape", "kept-in-fp32"


def finding_codes() -> tuple[str, ...]:
    """All codes that a finding can have. They are stable: one that is gone, or has another meaning, is a change."""
    own = (*UNEXPLAINED, NOT_STARTED, ASSUMED_SHAPE, KEPT, FAILED, DIFFERS, FROZEN, MASK_BEYOND)
    return tuple(sorted({*own, *KERNEL_CODES, *SCALE_CODES, *(rule.code for rule in RULES)}))


def check_codes(cases: Iterable[Case]) -> None:
    """See that every finding that a case expects has a code that there is.

    Raises:
        CaseFileError: some have none; each is named with its place and the nearest code.
        UsageError: likewise, of a case that was made in memory.
    """
    known = finding_codes()
    mistakes: list[Mistake] = []
    for case in cases:
        for place, expected in enumerate(case.findings):
            if expected.code in known:
                continue
            hint = suggestion(expected.code, known) or "docs/check.md lists the codes"
            message = f"no finding has the code {expected.code!r}: {hint}"
            if case.path is None:
                raise UsageError(message, where=case.name)
            mistakes.append(read_document(case.path).mistake(("findings", place), message))
    if mistakes:
        raise CaseFileError(mistakes)
