"""The kernels of an engine: from the builder's log where no engine can be loaded, else from the inspector.

With DETAILED profiling verbosity, the builder writes one VERBOSE message for each engine that it has built:

    Layers:
    Name: NAME, LayerType: kgen, Inputs: [ { Name: x, Dimensions: [4,32], … Datatype: Half, … }], Constants: [],
    Outputs: [ … ], TacticName: …, StreamId: 0, Metadata: [ONNX Layer: a]<U+001F>[ONNX Layer: b]

one line a kernel (wrapped here), up to an empty line. The inspector has the same fields in JSON. TensorRT for RTX 1.4
has `Format/Datatype` and no constants; a jump has its target before the metadata. A message that does not read so is
not guessed at: then there is no list.
"""

import re
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ...protocol import BuilderOptions, Kernel, KernelList, KernelTensor, kind_of, operations_in
from ..network import names_in_metadata
from ..release import Release
from .inspector import dtype_of

_HEAD = "Layers:"
_LIST = r"\[(?P<{}>| ?\{{ .*? \}})\]"
_LINE = re.compile(
    r"Name: (?P<Name>.*?), LayerType: (?P<LayerType>[^,]*), Inputs: {}(?:, Constants: {})?, Outputs: {}, "
    r"TacticName: (?P<TacticName>.*?), StreamId: -?\d+(?:, \w+: [^,]*)*, Metadata: (?P<Metadata>.*)".format(
        *(_LIST.format(name) for name in ("Inputs", "Constants", "Outputs"))
    ),
    re.DOTALL,
)
_TENSOR = re.compile(
    r"\{ Name: (?P<Name>.*?), Dimensions: \[(?P<Dimensions>[-\d,]*)\](?:, Strides: \[[-\d,]*\])?"
    r"(?:, StrideOrder: \[[-\d,]*\])?, (?:Format/)?Datatype: (?P<Datatype>\w+)(?:, Format: [^{}]*)? \}(?:, |$)"
)
#: A node of a body: `NODE | GRAPH (then_branch) | OWNER (If)`.
_INNER = re.compile(r" \| .* \(\w+\) \| .* \(\w+\)$")


class Unreadable(ValueError):
    """A line of a kernel list does not have the known form. `line` is that line."""

    def __init__(self, line: str) -> None:
        super().__init__(line)
        self.line = line


class KernelLog:
    """Listens to a builder's log for the list of kernels of the engine that it built last."""

    def __init__(self) -> None:
        self._text: Optional[str] = None

    def add(self, text: str) -> None:
        """Take one message, of any severity."""
        if text.startswith(_HEAD):
            self._text = text

    def kernels(self) -> Tuple[Kernel, ...]:
        """The kernels; empty if the log has no list."""
        return () if self._text is None else kernels_of_log(self._text)


def kernels_of_log(text: str) -> Tuple[Kernel, ...]:
    """The kernels in a message of the builder's log.

    Raises:
        Unreadable: a line of the list cannot be read.
    """
    head, *lines = text.split("\n\n", 1)[0].split("\n")
    if head.strip() != _HEAD or not lines:
        raise Unreadable(head)
    return tuple(_kernel(_entry(line), line) for line in lines)


def kernels_of_inspector(document: Mapping[str, Any]) -> Tuple[Kernel, ...]:
    """The kernels in the inspector's JSON; empty if it has names alone.

    Raises:
        Unreadable: an entry has another form.
    """
    entries = document.get("Layers", ())
    if not all(isinstance(entry, dict) for entry in entries):
        return ()
    return tuple(_kernel(entry, str(entry)) for entry in entries)


def list_kernels(
    document: Mapping[str, Any], release: Release, options: BuilderOptions
) -> Optional[KernelList]:
    """The kernels in the inspector's JSON as what they are of; None if it names none, or not in the known form."""
    try:
        found = kernels_of_inspector(document)
    except Unreadable:
        return None
    if not found:
        return None
    return KernelList(release.product, release.version, "inspector", found, options.compute_capability)


def _entry(line: str) -> Dict[str, Any]:
    """A line of the log as the inspector would give it."""
    found = _LINE.fullmatch(line)
    if found is None:
        raise Unreadable(line)
    entry: Dict[str, Any] = found.groupdict()
    for key in ("Inputs", "Constants", "Outputs"):
        entry[key] = _tensors((found.group(key) or "").strip(), line)
    return entry


def _tensors(text: str, line: str) -> List[Dict[str, Any]]:
    tensors: List[Dict[str, Any]] = []
    position = 0
    while position < len(text):
        found = _TENSOR.match(text, position)
        if found is None:
            raise Unreadable(line)
        sizes = found.group("Dimensions")
        tensors.append(
            {**found.groupdict(), "Dimensions": [int(size) for size in sizes.split(",")] if sizes else []}
        )
        position = found.end()
    return tensors


def _kernel(entry: Mapping[str, Any], source: str) -> Kernel:
    try:
        name, kind = str(entry["Name"]), str(entry["LayerType"])
        reads, writes = (tuple(map(_tensor, entry[key])) for key in ("Inputs", "Outputs"))
        constants = [dtype_of(tensor) for tensor in entry.get("Constants", ())]
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(source) from error
    nodes = (_INNER.sub("", node) for node in names_in_metadata(str(entry.get("Metadata", ""))))
    return Kernel(
        name,
        kind_of(name, kind),
        tuple(dict.fromkeys(nodes)),
        reads,
        writes,
        tuple(sorted({dtype for dtype in constants if dtype is not None})),
        operations_in(name),
        str(entry.get("TacticName", "")) or None,
    )


def _tensor(entry: Mapping[str, Any]) -> KernelTensor:
    shape = tuple(int(size) for size in entry.get("Dimensions", ()))
    return KernelTensor(str(entry["Name"]), dtype_of(entry), shape)
