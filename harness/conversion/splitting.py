"""The largest parts of a model that a compiler takes, and those that it does not, each an ONNX file of its own.

The parts are run in the order of their numbers, each fed what earlier ones and the model's inputs give.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from harness.conversion.examination import Ask, Examination, outcome_of
from harness.conversion.findings import CompileOutcome, SplitPart
from harness.conversion.parts import Parts
from harness.model import Model, save_model
from harness.tensors import to_json, write_text

ROUNDS = 4
"""How often parts that do not build are split again."""
MANIFEST = "split.json"


def split(parts: Parts, bad: Collection[str], ask: Ask | None, folder: Path) -> tuple[SplitPart, ...]:
    """Write the parts of a model to `folder`, with a manifest.

    Args:
        parts: cuts the model.
        bad: the nodes that are not taken.
        ask: the compiler, which is asked about each part that should be taken; None: it is believed.
        folder: made if it is not there; what it holds under the same names is replaced.
    """
    built: set[tuple[str, ...]] = set()
    for _ in range(ROUNDS):
        groups = list(_groups(parts, bad))
        more = set() if ask is None else _not_built(parts, groups, ask, built)
        if not more:
            break
        bad = {*bad, *more}
    written = []
    for number, (nodes, is_good) in enumerate(_groups(parts, bad), 1):
        is_taken = None if is_good and ask is not None and nodes not in built else is_good
        word = _WORDS[is_taken]
        model = parts.of(nodes, f"part-{number}", closed=False)
        if model is None:
            continue
        path = save_model(model, folder / f"part-{number:02}-{word}.onnx")
        reads = tuple(info.name for info in model.inputs)
        writes = tuple(info.name for info in model.outputs)
        written.append(SplitPart(path, is_taken, nodes, reads, writes))
    document = {"schema": "harness.split/1", "model": parts.model.name, "parts": to_json(written)}
    write_text(folder / MANIFEST, json.dumps(document, indent=2) + "\n")
    return tuple(written)


def folder_names(names: Iterable[str]) -> list[str]:
    """Names of folders for `names`, each a folder of its own: `net`, and `net-2` for another `net`."""
    found: list[str] = []
    for name in names:
        plain = re.sub(r"[^\w.-]+", "-", name)
        numbered = (f"{plain}-{number}" for number in itertools.count(2))
        found.append(next(each for each in itertools.chain([plain], numbered) if each not in found))
    return found


_WORDS = {True: "supported", False: "refused", None: "not-asked"}


def _not_built(
    parts: Parts, groups: list[tuple[tuple[str, ...], bool]], ask: Ask, built: set[tuple[str, ...]]
) -> set[str]:
    """Nodes of groups that should be taken and are not; those that were seen to build are added to `built`."""
    found: set[str] = set()
    for nodes, is_taken in groups:
        part = parts.of(nodes, "part") if is_taken else None
        if part is None:
            continue
        report = ask(part)
        if report.built:
            built.add(nodes)
        if outcome_of(report) in (CompileOutcome.REFUSED, CompileOutcome.NOT_BUILT):
            examination = Examination(Parts(part, {}), ask)
            examination.run(report)
            found |= examination.bad or set(nodes)
    return found


def _groups(parts: Parts, bad: Collection[str]) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Connected nodes that are all taken, or all not, in an order in which they can be run.

    Along each path a number grows by one wherever what is taken and what is not meet; nodes of one number and one kind
    that read each other are a group. So no group needs what is computed from itself.
    """
    refused = {name for node in bad for name in parts.pairs[node]}
    model = parts.model
    levels = _levels(model, refused.__contains__)
    members: dict[str, list[str]] = {}
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for node in model.nodes:
        leader[node.name] = node.name
    for node in model.nodes:
        for tensor in node.inputs:
            writer = model.producer(tensor)
            if (
                writer is not None
                and levels[writer.name] == levels[node.name]
                and (writer.name in refused) == (node.name in refused)
            ):
                leader[find(node.name)] = find(writer.name)
    for node in model.nodes:
        members.setdefault(find(node.name), []).append(node.name)
    order = {node.name: node.index for node in model.nodes}
    for nodes in sorted(
        members.values(), key=lambda nodes: (levels[nodes[0]], nodes[0] in refused, order[nodes[0]])
    ):
        yield tuple(nodes), nodes[0] not in refused


def _levels(model: Model, is_refused: Callable[[str], bool]) -> dict[str, int]:
    """The number of each node; nodes that read nothing of the inputs have that of the first one that reads them."""
    levels: dict[str, int] = {}
    fixed: set[str] = set()
    fed = set(model.feed_names())
    for node in model.nodes:
        writers = [writer for tensor in node.inputs if (writer := model.producer(tensor)) is not None]
        if not fed.intersection(node.inputs) and all(writer.name in fixed for writer in writers):
            fixed.add(node.name)
        levels[node.name] = max(
            (
                levels[writer.name] + (is_refused(writer.name) != is_refused(node.name))
                for writer in writers
                if writer.name not in fixed or is_refused(writer.name)
            ),
            default=0,
        )
    readers: dict[str, list[str]] = {}
    for node in model.nodes:
        for tensor in node.inputs:
            if (writer := model.producer(tensor)) is not None:
                readers.setdefault(writer.name, []).append(node.name)
    for node in reversed(model.nodes):
        if node.name in fixed and not is_refused(node.name) and node.name in readers:
            levels[node.name] = min(levels[name] for name in readers[node.name])
    return levels
