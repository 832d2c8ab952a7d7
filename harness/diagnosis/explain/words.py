"""The answer in words: what, where, why, and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.diagnosis.context import (
    FORMATS,
    JOURNAL,
    NO_TF32,
    REMEDY,
    Conclusion,
    Context,
    Handover,
    ReleaseInUse,
    Seen,
    journal_folder,
)
from harness.diagnosis.results import CANDIDATE, DiagnosisVerdict, EvidenceKind, Mend, Recipe
from harness.judge import HiddenFault, ShapeFault, ShapeResult
from harness.tensors import Accumulate
from harness.text import bound, command, names, plural, sentence, target_words
from harness.worker.protocol import TENSORRT_RTX

LONGEST_COMMAND = 2000
"""Longer commands are left to the files: nobody reads them on a terminal."""


def summarise(context: Context, found: Conclusion, hidden: Sequence[HiddenFault] = ()) -> str:
    """The answer in one or two sentences."""
    subject, verdict = context.subject, found.verdict
    if found.own is not None:
        harm = f": {found.own.harm}" if found.own.harm else ""
        return f"The file itself is at fault, at any precision{harm}. {_cause(found)}".strip()
    where = "the emulator" if subject.emulated else f"the engine on {subject.candidate.name}"
    cause = _cause(found)
    at = f"At {subject.precision}, {where}"
    if verdict is DiagnosisVerdict.FUSION:
        pairs = " and ".join(
            f"{each.producer} and {', '.join(each.readers) or 'the output'}" for each in found.separations
        )
        return f"Fused, {pairs} go wrong; kept apart at the same precision they are right."
    texts = {
        DiagnosisVerdict.NONE: _nothing(f"{where} passes every gate at {subject.precision}", hidden),
        DiagnosisVerdict.SHAPE: "Every gate holds at the shapes of the case; other shapes of its profile are wrong.",
        DiagnosisVerdict.REFERENCE: "The FP32 reference itself is not sound, so the candidate cannot be judged.",
        DiagnosisVerdict.NONDETERMINISTIC: f"{at} does not give the same outcome twice.",
        DiagnosisVerdict.TACTIC: f"{at} is right or wrong depending on the tactics that the builder chooses. {cause}",
        DiagnosisVerdict.CONVERSION: f"Already in FP32 {where} computes something other than the ONNX model. {cause}",
        DiagnosisVerdict.TF32: f"TF32 is not precise enough here: {_without_tf32(found, where)}. {cause}",
        DiagnosisVerdict.PRECISION: f"{cause} {_remedy(found)}",
    }
    return texts[verdict].strip() if verdict in texts else f"{at} {_unresolved(context, found)}"


def _nothing(passes: str, hidden: Sequence[HiddenFault]) -> str:
    if not hidden:
        return f"Nothing is wrong: {passes}."
    places = plural(len(hidden), "place")
    if all(fault.overflows for fault in hidden):
        verb = "overflows" if len(hidden) == 1 else "overflow"
    else:
        verb = "is lost" if len(hidden) == 1 else "are lost"
    where = names([f"{fault.node} ({fault.op})" for fault in hidden])
    return sentence(f"{passes}, but {places} {verb} behind outputs that pass: {where}")


def _without_tf32(found: Conclusion, where: str) -> str:
    if found.confirmed:
        return f"without it, {where} is right"
    return f"{where} computes FP32 in TF32, too, and errs no more than the emulated TF32"


def _unresolved(context: Context, found: Conclusion) -> str:
    known = (
        f" Keeping {names(found.island)} in FP32 cures it all the same."
        if found.confirmed and found.island
        else ""
    )
    stopped = _stopped_by(context)
    if stopped is not None:
        return f"was not diagnosed to the end: it reached {stopped[0]}.{known}"
    if found.cure is not None and found.cure.given_up:
        return f"fails, and the search was given up: {found.cure.given_up}.{known}"
    return f"fails, and what was tried does not say why.{known}"


def _cause(found: Conclusion) -> str:
    if not found.origins:
        return ""
    first, *others = found.origins
    if others and all(origin.why == first.why for origin in others):
        return sentence(first.why)
    text = f"At {first.node} ({first.op}), {first.why}."
    if not others:
        return text
    more = "There is another fault" if len(others) == 1 else f"There are {len(others)} other faults"
    return f"{text} {more} ({names([origin.node for origin in others])})."


def _remedy(found: Conclusion) -> str:
    verb = "cures" if found.confirmed else "should cure"
    if found.fp32_sums:
        verb = "cure" if found.confirmed else "should cure"
        count = plural(len(found.fp32_sums), "product")
        text = f"Casts to FP32 around {count} ({names(found.fp32_sums)}) {verb} it, with no node back in FP32"
        return f"{text}: weights and tensors stay in FP16, and the sums are FP32."
    between = ", between Casts in the graph," if found.casts else ""
    text = f"Keeping {plural(len(found.island), 'node')} ({names(found.island)}) in FP32{between} {verb} it"
    starts = {origin.node for origin in found.origins}
    on_engine = found.cure is not None and found.cure.confirmed_on == CANDIDATE
    if on_engine and len(starts) == 1 and not starts.intersection(found.island):
        return f"{text}, although the error does not start there: the engine is then built in another way."
    return f"{text}."


def advise(context: Context, seen: Seen) -> tuple[str, ...]:
    """What to do next: commands and sentences."""
    found, handed = seen.conclusion, seen.handover
    assert found is not None
    assert handed is not None
    verdict = found.verdict
    if verdict is DiagnosisVerdict.UNRESOLVED:
        return _go_on(context, seen, found)
    if verdict in (DiagnosisVerdict.REFERENCE, DiagnosisVerdict.FILE):
        return (_mend_reference(found),)
    if verdict is DiagnosisVerdict.SHAPE:
        return _mend_shapes(context, () if seen.gates is None else seen.gates.shapes)
    if verdict is DiagnosisVerdict.TACTIC:
        return _pin(context, found, handed)
    if verdict is DiagnosisVerdict.NONDETERMINISTIC:
        return ("report it with the counts; until then, judge every build before it is used",)
    if verdict is DiagnosisVerdict.FUSION:
        marks = ", ".join(each.tensor for each in found.separations)
        return (f"mark {marks} as an output, with the dtype under test, and report the fusion",)
    if verdict is DiagnosisVerdict.CONVERSION:
        return ("report it with the repro; until then, express the node with other operators",)
    recipes = handed.recipes
    if verdict is DiagnosisVerdict.TF32 and context.subject.product == TENSORRT_RTX:
        return _leave_tf32(context, recipes)
    commands = [text for tool, text in recipes.items() if tool.builds]
    if any(len(each) > LONGEST_COMMAND for each in commands):
        listed = recipes.get(Recipe.LAYER_LIST)
        commands = [] if listed is None else [f"{listed} lists the nodes"]
    if found.fp32_sums:
        commands.append(_around(found.fp32_sums))
    elif found.accumulates and seen.baseline.typing != "strong":  # there they were tried
        commands.insert(0, _around(found.culprits))
    commands += _mends(context, found)
    if not handed.written and (found.island or found.fp32_sums or verdict is DiagnosisVerdict.TF32):
        files = "more recipes, a typed model and a repro" if commands else "recipes and a repro"
        commands.append(f"for {files}: {again(context)} --out DIR")
    return tuple(commands)


def _around(products: Sequence[str]) -> str:
    """The cure that costs nothing, to do by hand."""
    these, their = ("this product", "its") if len(products) == 1 else ("these products", "their")
    return (
        f"put Casts to FP32 around {these}, and keep {their} weights in FP16: TensorRT for RTX 1.6 then adds up in "
        "FP32, at the speed of FP16; 1.4 fuses the Casts around a MatMul away"
    )


def _leave_tf32(context: Context, recipes: Mapping[Recipe, str]) -> tuple[str, ...]:
    """TensorRT for RTX reads a variable when the process starts, and no flag of the builder."""
    variable = f"{NO_TF32} in the environment of the process that runs the engine"
    if Recipe.TENSORRT_RTX in recipes:
        return recipes[Recipe.TENSORRT_RTX], f"set {variable}: no flag of the builder turns TF32 off"
    if not ReleaseInUse(context.subject.product, context.subject.release).obeys_no_tf32:
        return (
            f"use TensorRT for RTX 1.5 or later, with {variable}: {context.subject.release} runs nothing then",
        )
    return (f"set {variable}: no flag of the builder turns TF32 off",)


def _mends(context: Context, found: Conclusion) -> list[str]:
    """What else mends the origins than FP32 there."""
    kind = FORMATS[context.subject.precision]
    most, least = bound(kind.largest), bound(kind.smallest, least=True)
    ways = {
        Mend.LARGE_CONSTANT: "where the constant of {} stands for infinity, as in a mask, and no such number is meant, "
        f"clamp it to what {kind.name} holds: between -{most} and {most}",
        Mend.SMALL_CONSTANT: f"raise the constant of {{}} to what {kind.name} holds: to at least {least}",
        Mend.FACTOR: f"merge the factor of {{}} with those around it, so that {kind.name} holds what is left",
        Mend.LAYER_NORM: "export the norm at {} as LayerNormalization, opset 17 or later: TensorRT computes it in FP32",
        Mend.RMS_NORM: "export the norm at {} as RMSNormalization, opset 23 or later, for a release that reads it: "
        "TensorRT computes it in FP32",
    }
    nodes = {mend: [origin.node for origin in found.origins if origin.mend is mend] for mend in ways}
    return [way.format(names(nodes[mend])) for mend, way in ways.items() if nodes[mend]]


def _mend_shapes(context: Context, shapes: Sequence[ShapeResult]) -> tuple[str, ...]:
    """What to do about shapes of the profile that are wrong."""
    target = again(context, tool="check", at=False)
    baked = next((each for each in shapes if each.baked), None)
    if baked is not None:
        nodes = names(dict.fromkeys(node.node for each in shapes for node in each.baked), separator=" and ")
        return (
            f"export {nodes} with {baked.cure}",
            f"let harness mend the file, with a proof: {target} --fix OUT.onnx",
        )
    wrong = " and ".join(dict.fromkeys(each.which for each in shapes))
    if all(each.fault is ShapeFault.REFUSED for each in shapes):
        return (
            f"export the model so that it takes every size of the profile, or leave the {wrong} out of it",
        )
    return (f"see what is known against the model: {target}",)


def _mend_reference(found: Conclusion) -> str:
    if any(origin.draws for origin in found.origins):
        return "make what is drawn an input of the model, or feed 0 to what scales it"
    if found.own is not None and not found.own.dtypes and not found.origins:
        return (
            "calibrate the file again: many of its Q/DQ pairs err a little. With --reference FLOAT.onnx a diagnosis "
            "says which pairs hurt most, and gives better scales"
        )
    if found.own is not None and not found.own.dtypes:
        return (
            f"change the file: leave {names(origin.node for origin in found.origins)} out of the quantisation, or give "
            "each tensor that is joined there a scale of its own. No flag of a builder cures a scale that the file "
            "itself writes down"
        )
    if found.own is not None:
        return (
            f"change the file: export it in FP32, or put Casts to FP32 around "
            f"{names(origin.node for origin in found.origins)}. No flag of a builder and no island is a cure for types "
            "that the file itself writes down"
        )
    return "check the model and its inputs in ONNX Runtime first, in FP32 and in FP64"


def _pin(context: Context, found: Conclusion, handed: Handover) -> tuple[str, ...]:
    if Recipe.PINS in handed.recipes:
        return (
            f"pin the tactics of a build that passes: `build: {{pins: {handed.recipes[Recipe.PINS]}}}` in the case",
            handed.recipes[Recipe.BUILD_PINNED],
        )
    if found.pins is not None:
        return (
            f"{again(context)} --out DIR writes the tactics of a build that passes, and a script that builds with them",
        )
    return ("keep the timing cache of a build that passes, and build with it",)


def again(context: Context, *, tool: str = "diagnose", at: bool = True) -> str:
    """The command that makes this diagnosis again, or runs another `tool` on the same subject; with `at`, at the same
    precision and environment, and with what was assumed."""
    subject, case = context.subject, context.subject.bench.case
    target = str(case.path or subject.model.path or case.name)
    words = ["harness", tool, *target_words(target, case.shape_arguments)]
    if not at:
        return command(*words)
    words += ["--precision", subject.precision.value]
    if not subject.emulated:
        words += ["--env", subject.candidate.name]
    words += _assumptions(context)
    folder = context.journal.folder
    if folder is not None and folder.name == JOURNAL and folder != journal_folder(subject):
        words += ["--out", str(folder.parent)]
    return command(*words)


def _assumptions(context: Context) -> list[str]:
    """The options that let the emulator assume what it did, where it would not by itself."""
    subject = context.subject
    assumed, wanted = subject.bench.assumed, subject.bench.case.accumulate
    words = ["--kernels", assumed.kernels] if subject.emulated and assumed.compiler is not None else []
    if wanted is Accumulate.AUTO:
        in_fp16 = not subject.emulated or assumed.compiler is not None
        wanted = Accumulate.FP16 if in_fp16 else Accumulate.FP32
    return words if assumed.accumulate is wanted else [*words, "--accumulate", assumed.accumulate.value]


def _stopped_by(context: Context) -> tuple[str, str] | None:
    """The limit that was reached, in words, and the options that give more; None if none was."""
    spending, limits = context.spending, context.budget
    if limits.builds is not None and spending.builds >= limits.builds:
        return f"its limit of {limits.builds} builds (--max-builds)", f"--max-builds {2 * limits.builds}"
    if limits.seconds is not None and not spending.seconds_left():
        return f"its limit of {limits.seconds:g} s (--max-seconds)", f"--max-seconds {2 * limits.seconds:g}"
    return None


def _go_on(context: Context, seen: Seen, found: Conclusion) -> tuple[str, ...]:
    """For what is unresolved: what is known, and the command that goes on."""
    known = ""
    if found.cure and found.cure.best:
        known = f"known so far: keeping {names(found.suspects)} in FP32 cures it"
    elif found.suspects:
        known = f"most suspected so far: {names(found.suspects)}"
    stopped = _stopped_by(context)
    go_on = again(context, tool="explore") if stopped is None else f"{again(context)} --resume {stopped[1]}"
    in_region = any(each.kind is EvidenceKind.REGIONS for each in seen.evidence)
    return tuple(filter(None, (known, REMEDY if in_region else "", go_on)))
