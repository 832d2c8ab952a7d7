"""What the engine inspector reports of a built engine, in the forms of all releases.

A tensor's type is prose under `Format/Datatype` (`Row major linear FP16 format` in 8.x, `Half` in 10.x) or stands
alone under `Datatype`; the document of 8.6 holds raw control characters. Layers are objects, or names alone if the
engine was built with less than DETAILED verbosity. The list of inputs and outputs, `Bindings` up to 10.x and
`I/O Tensors` from 11 on, is not read: the engine itself has them in one form.
"""

import json
import re
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from ...protocol import PRECISION_OF, LayerInfo, is_region
from ..network import NodeMap, names_in_metadata

#: In prose or alone, most special first: `BFloat16` holds `Float`.
_TYPES: Tuple[Tuple[str, str], ...] = (
    (r"BF16|BFLOAT16", "bfloat16"),
    (r"FP16|HALF|FLOAT16", "float16"),
    (r"FP8|E4M3", "float8_e4m3fn"),
    (r"FP4|E2M1", "float4_e2m1fn"),
    (r"UINT8", "uint8"),
    (r"INT8", "int8"),
    (r"INT4", "int4"),
    (r"INT64", "int64"),
    (r"INT32", "int32"),
    (r"BOOL", "bool"),
    (r"FP32|FLOAT", "float32"),
)
_NO_TACTIC = re.compile(r"0x0*|0*")
_TF32_KERNEL = re.compile(r"tf32", re.IGNORECASE)


def parse_inspector(text: str) -> Dict[str, Any]:
    """The inspector's JSON; an empty one if there is none to read."""
    try:
        # 8.6 separates metadata by U+001E, raw: strict JSON has no control characters in strings.
        document = json.loads(text, strict=False)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def layers_of(
    document: Mapping[str, Any], nodes: NodeMap, producers: Mapping[str, str]
) -> Tuple[LayerInfo, ...]:
    """The layers of an engine; `producers` names the node that writes an ONNX tensor."""
    return tuple(_layer(entry, nodes, producers) for entry in document.get("Layers", ()))


def _layer(entry: Any, nodes: NodeMap, producers: Mapping[str, str]) -> LayerInfo:
    if not isinstance(entry, dict):
        members = members_of(str(entry), nodes.nodes_of)
        return LayerInfo(
            str(entry), onnx_nodes=_origins("", members, (), nodes, producers), fused_members=members
        )
    name = str(entry.get("Name", ""))
    kind = entry.get("LayerType")
    reads, writes = _dtypes(entry.get("Inputs")), _dtypes(entry.get("Outputs"))
    outputs = _names(entry.get("Outputs"))
    members = members_of(name, nodes.nodes_of)
    tactic = _tactic(entry, "TacticName", "TacticValue")
    return LayerInfo(
        name=name,
        kind=None if kind is None else str(kind),
        onnx_nodes=_origins(str(entry.get("Metadata", "")), members, outputs, nodes, producers),
        precision=None if is_region(name, kind) else _precision(entry, reads, writes, tactic),
        input_dtypes=reads,
        output_dtypes=writes,
        tactic=tactic,
        fused_members=members,
        outputs=outputs,
        tactic_id=_tactic(entry, "TacticValue"),
    )


def members_of(name: str, known: Mapping[str, Any]) -> Tuple[str, ...]:
    """The network layers that were fused into an engine layer, read off its name.

    `a + b`, `PWN(PWN(a), b)`, `{ForeignNode[a...b]}` (its first and last layer), `fc(Einsum) + …`.
    """
    if name in known:
        return (name,)
    text = re.sub(r"\{?ForeignNode\[", " + ", name).replace("]}", " + ").replace("...", " + ")
    found: List[str] = []
    for part in text.split(" + "):
        for piece in (part.strip(), *re.split(r"PWN\(|,\s|\)(?=[,)]|$)", part)):
            if piece.strip() in known:
                found.append(piece.strip())
    return tuple(dict.fromkeys(found))


def _origins(
    metadata: str,
    members: Sequence[str],
    outputs: Iterable[str],
    nodes: NodeMap,
    producers: Mapping[str, str],
) -> Tuple[str, ...]:
    """ONNX nodes of a layer: by its metadata, by what was fused, by the tensors that it writes."""
    known = nodes.layers_of
    found = [name for name in names_in_metadata(metadata) if name in known]
    found += [node for member in members for node in nodes.nodes_of.get(member, ())]
    if not found:
        found += [producers[name] for name in outputs if name in producers]
    return tuple(dict.fromkeys(found))


def _tensors(value: Any) -> List[Dict[str, Any]]:
    return [tensor for tensor in value if isinstance(tensor, dict)] if isinstance(value, list) else []


def _names(value: Any) -> Tuple[str, ...]:
    return tuple(str(tensor.get("Name", "")) for tensor in _tensors(value))


def _dtypes(value: Any) -> Tuple[str, ...]:
    found = [dtype_of(tensor) for tensor in _tensors(value)]
    return tuple(dtype for dtype in found if dtype is not None)


def dtype_of(tensor: Mapping[str, Any]) -> Optional[str]:
    """The dtype that the inspector names for a tensor, under whichever key; None if it names none that is known."""
    for key in ("Datatype", "DataType", "Format/Datatype", "Format", "Type"):
        text = str(tensor.get(key, "")).upper()
        for pattern, name in _TYPES:
            if re.search(pattern, text):
                return name
    return None


def _precision(
    entry: Mapping[str, Any], reads: Sequence[str], writes: Sequence[str], tactic: Optional[str]
) -> Optional[str]:
    """The precision that a layer computes in: of its weights, else the lowest that it reads, else writes."""
    weights = entry.get("Weights")
    own = dtype_of(weights) if isinstance(weights, dict) else None
    for candidates in ((own,), reads, writes):
        for dtype, precision in PRECISION_OF.items():
            if dtype in candidates:
                tf32 = precision == "fp32" and tactic is not None and _TF32_KERNEL.search(tactic)
                return "tf32" if tf32 else precision
    return None


def _tactic(entry: Mapping[str, Any], *keys: str) -> Optional[str]:
    for key in keys:
        value = str(entry.get(key, ""))
        if value and not _NO_TACTIC.fullmatch(value):
            return value
    return None
