"""The answer in words: what, where, why, and what to do."""

from __future__ import annotations

from harness.diagnosis.context import JOURNAL, REMEDY, Lab, journal_folder
from harness.diagnosis.results import Verdict
from harness.diagnosis.stages import CANDIDATE, DRAWS, Findings
from harness.text import command, names, plural, target_words

LONGEST_COMMAND = 2000
"""Longer commands are left to the files: nobody reads them on a terminal."""


def summarise(lab: Lab, found: Findings) -> str:
    """The answer in one or two sentences."""
    subject = lab.subject
    if found.own_types:
        return f"The model's own types are to blame, at any precision. {_cause(found)}"
    where = "the emulator" if subject.emulated else f"the engine on {subject.candidate.name}"
    text = {
        Verdict.NONE: f"Nothing is wrong: {where} passes every gate at {subject.precision}.",
        Verdict.REFERENCE: "There is nothing to be held against: the FP32 reference itself is not sound.",
        Verdict.NONDETERMINISTIC: f"At {subject.precision}, {where} does not give the same outcome twice.",
        Verdict.TACTIC: f"At {subject.precision}, {where} is right or wrong by the tactics that the builder chooses."
        f" {_cause(found)}".rstrip(),
    }.get(found.verdict)
    if text is not None:
        return text
    cause = _cause(found)
    if found.verdict is Verdict.CONVERSION:
        return f"Already in FP32 {where} computes something else than the ONNX model says. {cause}".strip()
    if found.verdict is Verdict.TF32:
        return f"TF32 is not precise enough here: without it, {where} is right. {cause}".strip()
    if found.verdict is Verdict.FUSION:
        pairs = " and ".join(
            f"{each.producer} and {', '.join(each.readers) or 'the output'}" for each in found.separations
        )
        return f"Fused, {pairs} go wrong; kept apart at the same precision they are right."
    if found.verdict is Verdict.PRECISION:
        return f"{cause} {_remedy(found)}".strip()
    known = (
        f" FP32 at {names(found.island)} cures it all the same." if found.confirmed and found.island else ""
    )
    stopped = _stopped_by(lab) if found.verdict is Verdict.UNRESOLVED else None
    if stopped is not None:
        return (
            f"At {subject.precision}, {where} was not diagnosed to the end: it reached {stopped[0]}.{known}"
        )
    if found.cure is not None and found.cure.stuck:
        return (
            f"At {subject.precision}, {where} fails, and the search was given up: {found.cure.stuck}.{known}"
        )
    return f"At {subject.precision}, {where} fails, and what was tried does not say why.{known}"


def _cause(found: Findings) -> str:
    if not found.origins:
        return ""
    first, *others = found.origins
    if others and all(origin.why == first.why for origin in others):
        return f"{_as_sentence(first.why)}."
    text = f"At {first.node} ({first.op}), {first.why}."
    if not others:
        return text
    more = plural(len(others), "other place")
    return f"{text} There is a fault of its own at {more}, too ({names([origin.node for origin in others])})."


def _starts(found: Findings) -> list[str]:
    return [origin.node for origin in found.origins]


def _as_sentence(reason: str) -> str:
    """`reason` with a capital letter, unless it begins with the name of a kernel."""
    word, _, _ = reason.partition(" ")
    return reason[0].upper() + reason[1:] if word.isalpha() else reason


def _remedy(found: Findings) -> str:
    verb = "cures" if found.confirmed else "should cure"
    between = ", between Casts in the graph," if found.casts else ""
    text = f"FP32 at {plural(len(found.island), 'node')} ({names(found.island)}){between} {verb} it"
    starts = {origin.node for origin in found.origins}
    on_engine = found.cure is not None and found.cure.confirmed_on == CANDIDATE
    if on_engine and len(starts) == 1 and not starts.intersection(found.island):
        return f"{text}, although the error does not start there: the engine is then built in another way."
    return f"{text}."


def advise(lab: Lab, found: Findings, recipes: dict[str, str], *, written: bool) -> tuple[str, ...]:
    """What to do next: commands and sentences; `written` says whether files were handed over."""
    command = again(lab)
    if found.verdict is Verdict.UNRESOLVED:
        return _go_on(lab, found)
    if found.verdict is Verdict.REFERENCE:
        if any(origin.why == DRAWS for origin in found.origins):
            return ("make what is drawn an input of the model, or feed 0 to what scales it",)
        if found.own_types:
            return (
                f"change the file: export it in FP32, or put Casts to FP32 around {names(_starts(found))}. No flag of "
                "a builder and no island is a cure for types that the file itself writes down",
            )
        return ("check the model and its inputs in ONNX Runtime first, in FP32 and in FP64",)
    if found.verdict is Verdict.TACTIC:
        if "pins" in recipes:
            return (
                f"pin the tactics of a build that passes: `build: {{pins: {recipes['pins']}}}` in the case",
                recipes["build_pinned"],
            )
        if found.pins is not None:
            return (
                f"{command} --out DIR writes the tactics of a build that passes, and what builds with them",
            )
        return ("keep the timing cache of a build that passes, and build with it",)
    if found.verdict is Verdict.NONDETERMINISTIC:
        return ("report it with the counts; until then, judge every build before it is used",)
    if found.verdict is Verdict.FUSION:
        marks = ", ".join(each.tensor for each in found.separations)
        return (f"mark {marks} as an output, with the dtype under test, and report the fusion",)
    if found.verdict is Verdict.CONVERSION:
        return ("report it with the repro; until then, express the node by other operators",)
    commands = [recipes[name] for name in ("trtexec", "polygraphy") if name in recipes]
    if any(len(command) > LONGEST_COMMAND for command in commands):
        commands = [f"{recipes['layer_list']} lists the nodes"] if "layer_list" in recipes else []
    if not written and (found.island or found.verdict is Verdict.TF32):
        files = "more recipes, a typed model and a repro" if commands else "recipes and a repro"
        commands.append(f"for {files}: {command} --out DIR")
    return tuple(commands)


def again(lab: Lab, *, tool: str = "diagnose") -> str:
    """The command that makes this diagnosis again, or another command on the same subject."""
    subject, case = lab.subject, lab.subject.bench.case
    target = str(case.path or subject.model.path or case.name)
    words = ["harness", tool, *target_words(target, case.shape_arguments)]
    words += ["--precision", subject.precision.value]
    if not subject.emulated:
        words += ["--env", subject.candidate.name]
    folder = None if lab.notebook is None else lab.notebook.folder
    if folder is not None and folder.name == JOURNAL and folder != journal_folder(subject):
        words += ["--out", str(folder.parent)]
    return command(*words)


def _stopped_by(lab: Lab) -> tuple[str, str] | None:
    """The limit that was reached, in words, and the options that give more; None if none was."""
    spending, limits = lab.spending, lab.limits
    if limits.builds is not None and spending.builds >= limits.builds:
        return f"its limit of {limits.builds} builds (--max-builds)", f"--max-builds {2 * limits.builds}"
    if limits.seconds is not None and not spending.seconds_left():
        return f"its limit of {limits.seconds:g} s (--max-seconds)", f"--max-seconds {2 * limits.seconds:g}"
    return None


def _go_on(lab: Lab, found: Findings) -> tuple[str, ...]:
    """For what is unresolved: what is known, and the command that goes on."""
    known = ""
    if found.cure and found.cure.best:
        known = f"known so far: {names(found.suspects)} in FP32 cure it"
    elif found.suspects:
        known = f"most suspected so far: {names(found.suspects)}"
    stopped = _stopped_by(lab)
    go_on = again(lab, tool="explore") if stopped is None else f"{again(lab)} --resume {stopped[1]}"
    remedy = REMEDY if any("opaque" in each.facts for each in found.evidence) else ""
    return tuple(filter(None, (known, remedy, go_on)))
