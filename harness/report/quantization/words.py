"""Quantisation in words: verdicts, why a pair costs what it costs, and what to do about it in each tool."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.quantization import UNEVEN as UNEVEN_CHANNELS
from harness.quantization import (
    Format,
    PairError,
    PairKind,
    QuantizationDiagnosis,
    QuantizationVerdict,
    QuantizedKernels,
    Reason,
    Repair,
    ScaleFault,
)
from harness.report.words import Look, Statement, listed
from harness.text import command, names, number, percent, plural

LOOKS = {
    QuantizationVerdict.SOUND: Look("✓", "+", "sound", "green", "good", 0),
    QuantizationVerdict.REFUSED: Look("✗", "X", "REFUSED", "bold red", "bad", 4),
    QuantizationVerdict.SCALES: Look("✗", "X", "SCALES", "bold red", "bad", 4),
    QuantizationVerdict.FORMAT: Look("✗", "X", "FORMAT", "bold red", "bad", 4),
}
UNEVEN = 30.0
"""Largest channel over the smallest, from which on rebalancing channels is worth naming."""
MOST = 6


def heading(found: QuantizationDiagnosis) -> str:
    """`model at int8: scales`."""
    return f"{found.model} at {found.format}: {found.verdict}"


def meaning(found: QuantizationDiagnosis) -> str:
    """The verdict in words."""
    if found.verdict is QuantizationVerdict.SOUND:
        return f"no scale of the {plural(found.pairs, 'Q/DQ pair')} is at fault"
    if found.verdict is QuantizationVerdict.REFUSED:
        return "TensorRT does not take this file as it is, though its scales are sound: see what to do below"
    if found.verdict is QuantizationVerdict.SCALES:
        count = len(found.faulty)
        noun, verb = ("scale", "is") if count == 1 else ("scales", "are")
        return f"the {noun} of {plural(count, 'Q/DQ pair')} {verb} wrong"
    return "better scales are not enough: some of the work has to stay in float"


def why(pair: PairError) -> str:
    """What makes a pair cost what it costs."""
    what = f"{pair.tensor} ({pair.kind})"
    texts = {
        Reason.SATURATION: f"{what} reaches {number(pair.largest)}, and its scale of {number(pair.scale)} cuts off "
        f"{percent(pair.saturated)} of the elements",
        Reason.VANISHING: f"the scale of {what}, {number(pair.scale)}, is so large that {percent(pair.vanished)} of "
        "the elements round to 0",
        Reason.GRANULARITY: f"the channels of {what} differ by {number(pair.channel_ratio)} times and share one scale",
        Reason.AXIS: f"the scales of {what} lie along the wrong axis",
        Reason.JOINED: f"tensors of different sizes are joined in {what} and share one scale, {number(pair.scale)}, "
        f"which rounds most of {pair.part} to 0",
        Reason.BROKEN: f"a scale of {what} is {number(pair.scale)}",
        Reason.COARSE: f"the scale of {what} is larger than it need be: nrmse {number(pair.introduced)}, and "
        f"{number(pair.best)} with the best one",
        Reason.RANGE: f"a few values of {what} are far larger than the rest (up to {number(pair.largest)}), and no "
        "scale serves both",
        Reason.FORMAT: f"{what} needs more bits: its scale is as good as can be",
    }
    return texts[pair.reason]


def advice(pair: PairError) -> str:
    """What else to do about a pair than another scale; empty if there is nothing."""
    uneven = pair.kind is PairKind.ACTIVATION and pair.channel_ratio > UNEVEN
    if not uneven or pair.reason not in (Reason.RANGE, Reason.FORMAT):
        return ""
    return (
        f"the channels of {pair.tensor} differ by {number(pair.channel_ratio)} times: move the difference into the "
        "weights behind it before calibrating (SmoothQuant)"
    )


def remedies(found: QuantizationDiagnosis) -> dict[str, str]:
    """By tool, how to quantise again: with what has to stay in float left there, and as TensorRT takes it; and how to
    rewrite a file that it does not take. Nothing where all is well."""
    faults = {each.fault for each in found.refused}
    biases_only = faults == {ScaleFault.BIAS} and not found.taken_out
    tools = {} if biases_only or not (faults or found.taken_out) else _quantizing_again(found)
    options = ["…"]
    if faults - {ScaleFault.BIAS}:
        options += ["activation_type=QuantType.QInt8", "weight_type=QuantType.QInt8"]
    if faults:
        symmetric = "" if biases_only else "'ActivationSymmetric': True, 'WeightSymmetric': True, "
        options.append(f"extra_options={{{symmetric}'QuantizeBias': False}}")
        tools["a rewrite that computes the same"] = command(
            "harness", "check", found.file, "--fix", "fixed.onnx"
        )
    if found.excluded:
        options.append(f"nodes_to_exclude={list(found.excluded)!r}")
    if tools:
        tools["ONNX Runtime"] = f"quantize_static({', '.join(options)})"
    return tools


def _quantizing_again(found: QuantizationDiagnosis) -> dict[str, str]:
    nodes, data = found.excluded, found.data_files or ("data.npz",)
    patterns = [f"^{re.escape(name)}$" for name in nodes]  # they are matched with the start of a name
    tools = {
        "harness": command(
            *("harness", "quantize", found.float_file),
            *(word for file in data for word in ("--data", file)),
            *(("--format", found.format) if found.format is not Format.INT8 else ()),
            *("--out", "mixed.onnx" if nodes else "symmetric.onnx"),
            *(word for name in nodes for word in ("--exclude", name)),
        ),
        "ModelOpt": command(
            *("python", "-m", "modelopt.onnx.quantization", "--onnx_path", found.float_file),
            *("--quantize_mode", found.format),
            *(("--nodes_to_exclude", *patterns) if nodes else ()),
        ),
    }
    if found.taken_out:
        tools["AIMET"] = (
            f"for name in {list(found.taken_out)!r}: sim.qc_quantize_op_dict[name].enabled = False"
        )
    return tools


def statements(found: QuantizationDiagnosis) -> tuple[Statement, ...]:
    """What, which, why, how it was shown, and what to do."""
    lines = [
        Statement("what", meaning(found)),
        Statement(
            "error",
            f"nrmse of {found.worst} {number(found.before)} against the float model; {number(found.best)} with the "
            f"best scale for each pair; the limit is {number(found.limit)}",
        ),
    ]
    lines += listed("refused", _faults(found, True))
    named = [found.ranking[name] for name in (found.faulty or found.taken_out)[:MOST]]
    shown = named or list(found.ranking.pairs[:3])
    label = "why" if named else "most"
    lines += listed(label, map(why, shown))
    lines += [
        Statement("swapped", f"{first} and {other} have each other's scales")
        for first, other in found.swapped
    ]
    lines += listed("scale", map(_repair, found.repairs[:MOST]))
    if found.repaired is not None and found.repairs:
        lines.append(Statement("repaired", _errors(found.repaired, found.unseen_repaired)))
    if found.without is not None and found.taken_out:
        minimal = ", and none of them can be left out" if found.minimal and len(found.taken_out) > 1 else ""
        errors = _errors(found.without, found.unseen_without)
        lines.append(Statement("in float", f"{names(found.taken_out, MOST)}{minimal}: {errors}"))
    lines += _on_engine(found)
    lines += [Statement("beside", text) for text in _beside(found)]
    lines += [Statement("beside", text) for pair in found.ranking.pairs[:MOST] if (text := advice(pair))]
    cost = f"{plural(found.inferences, 'inference')} over {plural(found.samples, 'sample')}"
    return (*lines, Statement("cost", cost))


def _repair(repair: Repair) -> str:
    unit = "a scale for each channel" if repair.granularity == "channel" else f"scale {repair.text}"
    change = f"from {number(repair.before)} to {number(repair.after)}"
    return f"{repair.pair}: {unit} ({repair.method}) takes its nrmse {change}"


_FAULTS = {
    ScaleFault.ZERO: "a scale that is 0",
    ScaleFault.SUBNORMAL: "a subnormal scale, which a GPU may take for 0",
    ScaleFault.NOT_FINITE: "a scale that is not finite",
    ScaleFault.NEGATIVE: "a negative scale",
    ScaleFault.ZERO_POINT: "a zero point other than 0, which no release of TensorRT takes",
    ScaleFault.UNSIGNED: "UINT8, which TensorRT takes as INT8 or not at all",
    ScaleFault.BIAS: "INT32, which no release of TensorRT dequantises: a bias belongs in float",
    ScaleFault.UNEVEN: f"one scale for channels that differ by {UNEVEN_CHANNELS:.0f} times and more",
    ScaleFault.AXIS: "scales that do not lie along the output channels",
}


def _faults(found: QuantizationDiagnosis, stops: bool) -> list[str]:
    """The faults for which TensorRT does not take the file, or the others."""
    texts = []
    for fault, text in _FAULTS.items():
        pairs = [each.pair for each in found.faults if each.fault is fault and each.stops is stops]
        if pairs:
            texts.append(f"{names(pairs, MOST)} {'has' if len(pairs) == 1 else 'have'} {text}")
    return texts


def _beside(found: QuantizationDiagnosis) -> list[str]:
    texts = _faults(found, False)
    if found.misplaced:
        listed = names((each.pair for each in found.misplaced), MOST)
        texts.append(
            f"no product reads {listed} quantised: TensorRT has no use for a pair there, and it splits kernels"
        )
    return texts


def _errors(error: float, unseen: float | None) -> str:
    known = f"nrmse {number(error)}"
    return known if unseen is None else f"{known}; {number(unseen)} on inputs that nothing was chosen on"


def _on_engine(found: QuantizationDiagnosis) -> list[Statement]:
    engine = found.engine
    if engine is None:
        return []
    if engine.failure:
        return [Statement("engine", f"{engine.environment} cannot say: {engine.failure}")]
    known = {"as it is": engine.before, "repaired": engine.repaired, "in float": engine.without}
    text = ", ".join(f"{label} {number(error)}" for label, error in known.items() if error is not None)
    return [Statement("engine", f"nrmse on {engine.environment}: {text}")]


def kernels_text(kernels: QuantizedKernels, format: Format, behind: Sequence[str] = ()) -> str:
    """What the kernels of a quantised model are, in one line; `behind` are products with a pair that saves a kernel."""
    count = f"{plural(kernels.kernels, 'kernel')}, {plural(len(kernels.products), 'product')} in {format}"
    text = f"{kernels.release}: {count}"
    if kernels.in_float:
        text += f"; {names(kernels.in_float, MOST)} computed in float behind Q/DQ kernels of their own: leave these out"
    if kernels.rounding:
        text += f"; {plural(len(kernels.rounding), 'kernel does', 'kernels do')} nothing but round"
    if behind:
        text += f"; {plural(len(behind), 'kernel')} fewer with a pair behind {names(behind, MOST)}"
    return text
