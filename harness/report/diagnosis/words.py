"""A diagnosis in words: what, where, why, how it was shown, and what it cost."""

from __future__ import annotations

from harness.diagnosis import A_FEW, Diagnosis, DiagnosisVerdict
from harness.judge import Hiding, Judged
from harness.report.words import Look, Statement, listed
from harness.text import duration, names, number, plural

MOST_ORIGINS = 4
MOST_NODES = 8
LOOKS = {
    DiagnosisVerdict.NONE: Look("✓", "+", "none", "green", "good", 0),
    DiagnosisVerdict.UNRESOLVED: Look("●", "?", "UNRESOLVED", "bold yellow", "calm", 2),
}
_FAULT = Look("✗", "X", "FAULT", "bold red", "bad", 4)
_PASSES = (DiagnosisVerdict.NONE, DiagnosisVerdict.SHAPE)
MEANINGS = {
    DiagnosisVerdict.NONE: "nothing is wrong",
    DiagnosisVerdict.PRECISION: "the precision is too low for a few nodes",
    DiagnosisVerdict.TF32: "TF32 is too low a precision for products of this model",
    DiagnosisVerdict.CONVERSION: "the engine does not compute what the model says, even in FP32",
    DiagnosisVerdict.FUSION: "layers that are right one by one are wrong when they are fused",
    DiagnosisVerdict.TACTIC: "right or wrong by the kernels that the builder chooses",
    DiagnosisVerdict.NONDETERMINISTIC: "the same network does not give the same outcome twice",
    DiagnosisVerdict.REFERENCE: "the FP32 reference itself is not sound",
    DiagnosisVerdict.FILE: "roundings in the file itself make its outputs wrong",
    DiagnosisVerdict.SHAPE: "every gate holds at the shapes of the case; other shapes of its profile are wrong",
    DiagnosisVerdict.UNRESOLVED: "the evidence does not decide what it is",
}


def look(diagnosis: Diagnosis) -> Look:
    """How the verdict is shown."""
    return LOOKS.get(diagnosis.verdict, _FAULT)


def meaning(diagnosis: Diagnosis) -> str:
    """The verdict in words."""
    many = len(diagnosis.culprits)
    if diagnosis.fp32_sums:
        return "adding up FP16 products in FP16 is not precise enough"
    if diagnosis.verdict is DiagnosisVerdict.PRECISION and many == 1:
        return "the precision is too low for one node"
    if diagnosis.verdict is DiagnosisVerdict.PRECISION and many > A_FEW:
        return f"the precision is too low for {many} nodes taken together"
    if diagnosis.verdict is DiagnosisVerdict.NONE and diagnosis.hidden:
        return "every gate holds"
    return MEANINGS[diagnosis.verdict]


def heading(diagnosis: Diagnosis) -> str:
    """`rmsnorm-overflow at fp16: precision`, with the engine, or what the emulator assumed of one."""
    assumed = f" ({diagnosis.emulation})" if str(diagnosis.emulation) else ""
    where = assumed if diagnosis.candidate == "emulator" else f" on {diagnosis.candidate}"
    return f"{diagnosis.case} at {diagnosis.precision}{where}: {diagnosis.verdict}"


def statements(diagnosis: Diagnosis) -> tuple[Statement, ...]:
    """What, where, why, how it was shown, and what it cost, in the order in which a person asks."""
    found = [Statement("what", meaning(diagnosis))]
    if diagnosis.before is not None and diagnosis.verdict not in _PASSES:
        found.append(Statement("", diagnosis.before.reason))
    found += [Statement("beside", sentence) for sentence in diagnosis.beside]
    found += listed("where", _places(diagnosis))
    found += listed("why", _reasons(diagnosis))
    found += listed("proof", _proof(diagnosis))
    if text := _hidden(diagnosis):
        found.append(Statement("hidden", text))
    found += [Statement("ties", each.describe(diagnosis.precision)) for each in diagnosis.selections]
    if diagnosis.price is not None:
        price = diagnosis.price
        text = f"{number(price.before_ms)} ms before, {number(price.after_ms)} ms after ({number(price.ratio)} times)"
        found.append(Statement("price", text))
    if diagnosis.repro is not None:
        found.append(Statement("repro", f"{plural(diagnosis.repro.nodes, 'node')}; {diagnosis.repro.note}"))
    if diagnosis.before is not None:
        found += [Statement("warning", warning) for warning in diagnosis.before.warnings]
    found.append(Statement("cost", cost(diagnosis)))
    return tuple(found)


def _reasons(diagnosis: Diagnosis) -> list[str]:
    """Why it goes wrong at each origin, the nodes named where there are several reasons."""
    nodes: dict[str, list[str]] = {}
    for origin in diagnosis.origins:
        nodes.setdefault(origin.why, []).append(origin.node)
    shown = list(nodes)[:MOST_ORIGINS]
    if len(nodes) < 2:
        return shown
    others = {why: names(nodes[why][1:], MOST_ORIGINS) for why in shown}
    return [f"{nodes[why][0]}: {why}{f' ({others[why]}, too)' if others[why] else ''}" for why in shown]


def cure_words(diagnosis: Diagnosis) -> str:
    """`the culprits in FP32`, or `2 products added up in FP32`."""
    if diagnosis.fp32_sums:
        return f"{plural(len(diagnosis.fp32_sums), 'product')} added up in FP32"
    return "the culprits in FP32"


def cost(diagnosis: Diagnosis) -> str:
    """`3 builds, 22 emulations, 31 s`."""
    spent = diagnosis.cost
    builds = [plural(spent.builds, "build")] if spent.builds or diagnosis.candidate != "emulator" else []
    return ", ".join([*builds, plural(spent.emulations, "emulation"), duration(spent.seconds)])


def _places(diagnosis: Diagnosis) -> list[str]:
    origins = names([f"{origin.node} ({origin.op})" for origin in diagnosis.origins], MOST_ORIGINS)
    starts = "it shows at" if diagnosis.hidden else "it starts at"
    verb = "gates begin to fail at" if accumulates(diagnosis) else starts
    lines = [f"{verb} {origins}"] if origins else []
    lines += dict.fromkeys(
        each.written for each in diagnosis.shapes if each.written
    )  # advice says how to mend it
    lines += [each.seen for each in diagnosis.shapes]
    for separation in diagnosis.separations:
        readers = ", ".join(separation.readers) or "the output"
        lines.append(f"between {separation.producer} and {readers}, at tensor {separation.tensor}")
    if diagnosis.islands:
        nodes = [node for island in diagnosis.islands for node in island]
        parts = f", in {len(diagnosis.islands)} places" if len(diagnosis.islands) > 1 else ""
        lines.append(f"back to FP32: {names(nodes, MOST_NODES)} ({plural(len(nodes), 'node')}{parts})")
    if diagnosis.fp32_sums:
        count = plural(len(diagnosis.fp32_sums), "product")
        lines.append(f"added up in FP32, between Casts: {names(diagnosis.fp32_sums, MOST_NODES)} ({count})")
    return lines


def accumulates(diagnosis: Diagnosis) -> bool:
    """Whether the error is the sum of many roundings, to which no node adds much."""
    return any(origin.accumulates for origin in diagnosis.origins)


def _passes(diagnosis: Diagnosis) -> str:
    """What the outputs with the cure do, as far as they were judged."""
    judged = {output.judged for output in diagnosis.outputs_after}
    if Judged.FINITENESS not in judged:
        return "passes"
    some = Judged.VALUES in judged
    return "passes, as far as its outputs could be judged," if some else "gives finite outputs"


def _on_fresh_samples(diagnosis: Diagnosis) -> str:
    share = f"{diagnosis.fresh_passed} of {diagnosis.fresh_samples}"
    count = f"{diagnosis.fresh_passed} of {plural(diagnosis.fresh_samples, 'fresh sample')}"
    if diagnosis.fresh_passed < diagnosis.fresh_samples:
        more = [name for name in diagnosis.wider if name not in diagnosis.culprits]
        wider = f"; with {names(more, MOST_NODES)} in FP32 as well, it passes on all of them" if more else ""
        what = "the cure" if diagnosis.fp32_sums else "the island"
        return f"{what} is fitted to its sample: it passes on {count}{wider}"
    if diagnosis.widened:
        added = f"{plural(diagnosis.widened, 'node')} {'was' if diagnosis.widened == 1 else 'were'} added"
        return f"{added} for fresh samples that failed; it passes on {share} further ones"
    return f"it also passes on {count}"


def _hidden(diagnosis: Diagnosis) -> str:
    """`4 more places overflow the same way, hidden by the residual: b0_sq; keeping 15 nodes in FP32 cures all`."""
    if not diagnosis.hidden:
        return ""
    faults = diagnosis.hidden
    overflows = all(fault.overflows for fault in faults)
    more = " more" if diagnosis.origins else ""
    places = f"{len(faults)}{more} {'place' if len(faults) == 1 else 'places'}"
    verb = (
        ("overflows" if overflows else "is lost")
        if len(faults) == 1
        else ("overflow" if overflows else "are lost")
    )
    same = " the same way" if overflows and diagnosis.origins else ""
    added = all(fault.how is Hiding.ADDED for fault in faults)
    by = "by the residual" if added else "behind outputs that pass"
    text = (
        f"{places} {verb}{same}, hidden {by}: {names([f'{f.node} ({f.op})' for f in faults], MOST_ORIGINS)}"
    )
    if diagnosis.hidden_island:
        them = "it" if len(faults) == 1 and not diagnosis.origins else "them all"
        nodes = plural(len(diagnosis.hidden_island), "node")
        text += f"; keeping {nodes} in FP32 cures {them}: {names(diagnosis.hidden_island, 2 * MOST_NODES)}"
    return text


def _proof(diagnosis: Diagnosis) -> list[str]:
    candidate = "the emulator" if diagnosis.candidate == "emulator" else "the unobserved engine"
    lines = []
    if diagnosis.confirmed and diagnosis.islands:
        these = "this node" if len(diagnosis.culprits) == 1 else "these nodes"
        lines.append(f"{candidate} {_passes(diagnosis)} with {these} in FP32")
    elif diagnosis.confirmed and diagnosis.fp32_sums:
        these = "this product" if len(diagnosis.fp32_sums) == 1 else "these products"
        lines.append(f"{candidate} {_passes(diagnosis)} with {these} added up in FP32")
    elif diagnosis.confirmed and diagnosis.separations:
        lines.append("the engine passes when the layers are not fused")
    elif diagnosis.confirmed and diagnosis.verdict is DiagnosisVerdict.TF32:
        lines.append(f"{candidate} {_passes(diagnosis)} in FP32 without TF32")
    elif diagnosis.confirmed:
        lines.append("shown alone")
    if diagnosis.minimal:
        lines.append(f"without {'it' if len(diagnosis.culprits) == 1 else 'any one of them'} it fails")
    elif diagnosis.minimal_on == "emulator":
        lines.append("without any one of them the emulator fails")
    if diagnosis.fresh_samples:
        lines.append(_on_fresh_samples(diagnosis))
    if diagnosis.faithful is False:
        lines.append("observing changed the engine: the deployed one may compute something else inside")
    return lines
