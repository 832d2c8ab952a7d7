"""The picture of an engine's kernels: what the script of the page draws, as data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import groupby

from harness.conversion import EnvironmentResult
from harness.worker.protocol import Kernel, KernelTensor

BLOCK = 24
"""So many kernels make a block where names tell of none."""
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def picture_data(result: EnvironmentResult) -> str:
    """The kernels of an engine by blocks, and the tensors between them, as JSON that may stand in a page."""
    listed = result.report.kernels
    kernels = () if listed is None else listed.kernels
    ops = {fate.node: fate.op for fate in result.fates}
    wrong = {fate.node for fate in result.fates if not fate.is_done}
    blocks, times = list(_blocks(kernels)), result.times
    writers: dict[str, int] = {}
    edges = []
    for number, kernel in enumerate(kernels):
        edges += [[writers[tensor.name], number] for tensor in kernel.inputs if tensor.name in writers]
        writers.update({tensor.name: number for tensor in kernel.outputs})
    document = {
        "blocks": blocks,
        "kernels": [
            {
                "kind": kernel.kind,
                "name": kernel.name,
                "dtype": _dtype(kernel),
                "nodes": [[name, ops.get(name, "")] for name in kernel.onnx_nodes],
                "reads": list(map(_tensor, kernel.inputs)),
                "writes": list(map(_tensor, kernel.outputs)),
                "wrong": bool(wrong.intersection(kernel.onnx_nodes)),
                **({} if times is None else {"ms": times.kernel_ms[number]}),
            }
            for number, kernel in enumerate(kernels)
        ],
        "edges": sorted(map(list, {tuple(edge) for edge in edges if edge[0] != edge[1]})),
    }
    text = json.dumps(document, separators=(",", ":"))
    return "".join(_ESCAPES.get(character, character) for character in text)


def _dtype(kernel: Kernel) -> str:
    """The datatype that a kernel computes in: the narrowest that it reads, or else writes."""
    order = ("int4", "float4_e2m1fn", "float8_e4m3fn", "int8", "float16", "bfloat16", "float32")
    found = {tensor.dtype for tensor in kernel.inputs} or {tensor.dtype for tensor in kernel.outputs}
    return next((dtype for dtype in order if dtype in found), "other")


def _tensor(tensor: KernelTensor) -> str:
    sizes = ("?" if size < 0 else str(size) for size in tensor.shape)
    return f"{tensor.name} {tensor.dtype or '?'}[{', '.join(sizes)}]"


def _blocks(kernels: tuple[Kernel, ...]) -> Iterator[list[object]]:
    """Name, first and last kernel of each block: neighbours whose nodes share the beginning of their names."""
    named: list[str] = []
    for kernel in kernels:
        own = next(filter(None, map(block_of, kernel.onnx_nodes)), None)
        named.append(own if own is not None else named[-1] if named else "")
    position = 0
    for name, group in groupby(named):
        count = len(list(group))
        size = count if name else BLOCK
        for start in range(position, position + count, size):
            stop = min(start + size, position + count)
            yield [name or f"kernels {start} to {stop - 1}", start, stop - 1]
        position += count


def block_of(node: str) -> str | None:
    """The beginning of a node's name up to its first number: `b7` of `b7_sq`, `/layers.3` of `/layers.3/attn/Mul`."""
    parts = re.split(r"([/._:]+)", node)
    for index, part in enumerate(parts):
        if any(map(str.isdigit, part)):
            return "".join(parts[: index + 1]) if index + 1 < len(parts) else None
    return None
