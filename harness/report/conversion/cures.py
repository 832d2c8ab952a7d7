"""What `check --fix` shows of cures, and in which words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.conversion import AppliedCure, CompileOutcome, FixResult, LeftOut, Proof
from harness.report.words import Look, Statement
from harness.text import names, number, plural

PROVED = Look("✓", "+", "proved", "bold green", "good", 0)
LEFT_OUT = Look("–", "-", "left out", "yellow", "calm", 1)
MOST_NODES = 6


@dataclass(frozen=True)
class CureRow:
    """One cure, as it is shown: `topk-beyond-limit: top_scores`, and what there is to say."""

    look: Look
    code: str
    nodes: str
    statements: tuple[Statement, ...]


def cure_rows(fix: FixResult) -> tuple[CureRow, ...]:
    """The cures that stay, and those that were left out."""
    asked = bool(fix.environments)
    stay = [
        CureRow(PROVED, cure.code, _nodes(cure.nodes), tuple(_applied(cure, asked))) for cure in fix.applied
    ]
    out = [CureRow(LEFT_OUT, cure.code, _nodes(cure.nodes), tuple(_left_out(cure))) for cure in fix.left_out]
    return (*stay, *out)


def fix_answer(fix: FixResult) -> str:
    """`Wrote out.onnx with 2 cures; rtx builds it`, or why nothing was written."""
    if fix.file is None:
        why = f"{plural(len(fix.left_out), 'cure')} left out" if fix.left_out else "no cure applies"
        return f"Nothing was written: {why}"
    text = f"Wrote {fix.file} with {plural(len(fix.applied), 'cure')}"
    built = [each.environment for each in fix.environments if each.outcome is CompileOutcome.BUILT]
    others = [each.environment for each in fix.environments if each.outcome is not CompileOutcome.BUILT]
    if not fix.environments:
        return f"{text}, proved on the reference alone: no compiler was asked"
    parts = [f"{names(built)} {'builds' if len(built) == 1 else 'build'} it"] if built else []
    parts += [f"{names(others)} still {'does' if len(others) == 1 else 'do'} not build it"] if others else []
    return "; ".join([text, *parts])


def _nodes(found: tuple[str, ...]) -> str:
    return names(list(found)) if len(found) <= MOST_NODES else f"{names(list(found[:MOST_NODES]))} and more"


def _applied(cure: AppliedCure, asked: bool) -> Iterator[Statement]:
    proof = cure.proof
    yield Statement("does", cure.does)
    if proof.before is not None:
        kind = "of the data" if proof.given else "that were generated: give data of yours to calibrate on"
        yield Statement("calibrated", f"on {plural(proof.calibrated, 'input')} {kind}")
        yield Statement(
            "proof",
            f"errs by {number(proof.error)} of the same products in float, and the scales at run time by "
            f"{number(proof.before)}, on {plural(proof.samples, 'other input')} in {proof.by}",
        )
    else:
        yield Statement("proof", _equal(proof))
    if asked:
        yield Statement("taken by", names(list(cure.taken_by)))
    yield Statement("source", cure.source)


def _equal(proof: Proof) -> str:
    """`the same answers on 12 inputs of 4 shapes in ONNX Runtime, floats up to 1e4, mask of 0 and 1 only`."""
    ran = f"{plural(proof.samples, 'input')} of {plural(proof.shapes, 'shape')} in {proof.by}"
    same = "the same answers" if proof.error == 0 else f"answers within {number(proof.error)}"
    rows = (
        f"; each row by itself in {plural(proof.batches, 'other batch', 'other batches')}"
        if proof.batches
        else ""
    )
    floats = "" if proof.largest is None else f", floats up to {number(proof.largest)}"
    binary = f", {names(list(proof.binary))} of 0 and 1 only" if proof.binary else ""
    return f"{same} on {ran}{floats}{binary}{rows}"


def _left_out(cure: LeftOut) -> Iterator[Statement]:
    yield Statement("would do", cure.does)
    yield Statement("why not", cure.why)
