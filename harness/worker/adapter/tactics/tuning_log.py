"""The tables of candidates that the builder writes to its VERBOSE log while it tunes: no API returns them.

With the editable timing cache, each operator that is tuned leaves a block:

    Autotuning op NAME(key: 0x…): [ONNX Layer: …]
    Sorted table of all evaluated tactics:
    tactic_id, cost(in ms), cost/fastest_cost, prediction_correlation, kernel_name, tactic_hash, tunable_parameter
       3, 0.0112640, 1.00000, 0.50673, sm80_xmma_gemm_…, 0x665ded9abbf88,
       …
    The selected tactic is (tactic hash, cost(in ms)):0x665ded9abbf88,  0.011264

The parser takes lines as they come, one a message or many, and is not disturbed by what else is in the log.
"""

import math
import re
from dataclasses import dataclass, replace
from typing import Dict, List, Optional, Tuple

from ...protocol import hexadecimal
from ..network import names_in_metadata

_OPERATOR = re.compile(r"Autotuning op (?P<name>.+?) ?\(key: ?(?P<key>0x[0-9a-fA-F]+)\)(?P<rest>.*)$")
_TABLE = re.compile(r"Sorted table of all evaluated tactics")
_ROW = re.compile(
    r"^\s*\d+,\s*(?P<cost>[-+.\deE]+|nan|inf),.*?,\s*(?P<kernel>[^,\s][^,]*),\s*(?P<tactic>0x[0-9a-fA-F]+)\s*(?:,|$)"
)
_SELECTED = re.compile(r"The selected tactic is \([^:]*\):\s*(?P<tactic>0x[0-9a-fA-F]+)")


@dataclass(frozen=True)
class Candidate:
    """One row of a table: the tactic's hash, the kernel's name, and what was measured, in milliseconds."""

    tactic: str
    kernel: str
    milliseconds: Optional[float]


@dataclass(frozen=True)
class Operator:
    """One operator that was tuned.

    Args:
        name: as the builder calls it.
        key: its key in the timing cache, in lower case.
        candidates: fastest first.
        selected: hash of the tactic that was taken; None if the log does not say.
        onnx_nodes: from the metadata behind the name.
    """

    name: str
    key: str
    candidates: Tuple[Candidate, ...] = ()
    selected: Optional[str] = None
    onnx_nodes: Tuple[str, ...] = ()

    def candidate(self, tactic: str) -> Optional[Candidate]:
        """The candidate of that hash."""
        return next((each for each in self.candidates if each.tactic == tactic), None)


class TuningLog:
    """Reads the log of one build."""

    def __init__(self) -> None:
        self._operators: Dict[str, Operator] = {}
        self._open: Optional[Operator] = None
        self._rows: List[Candidate] = []
        self._in_table = False

    @property
    def operators(self) -> Tuple[Operator, ...]:
        """The operators so far, in the order in which they were tuned; of one that was tuned twice the last."""
        self._keep()
        return tuple(self._operators.values())

    def add(self, text: str) -> None:
        """Take one message of the log, of any severity."""
        for line in text.splitlines():
            self._line(line)

    def _line(self, line: str) -> None:
        begins = _OPERATOR.search(line)
        if begins is not None:
            self._keep()
            nodes = names_in_metadata(begins.group("rest").strip().lstrip(":").strip())
            self._open = Operator(begins.group("name"), begins.group("key").lower(), onnx_nodes=nodes)
            self._rows, self._in_table = [], False
            return
        if self._open is None:
            return
        if _TABLE.search(line):
            self._rows, self._in_table = [], True
            return
        selected = _SELECTED.search(line)
        if selected is not None:
            self._open = replace(self._open, selected=_hash(selected.group("tactic")))
            self._in_table = False
            return
        row = _ROW.match(line) if self._in_table else None
        if row is not None:
            self._rows.append(Candidate(_hash(row.group("tactic")), row.group("kernel").strip(), _cost(row)))

    def _keep(self) -> None:
        """File the operator that is open; what follows in the log may still add to it."""
        if self._open is None:
            return
        operator = self._open
        # An operator that the cache answers for is named again, without a table: the first one stays.
        if not self._rows and operator.key in self._operators:
            return
        self._operators[operator.key] = replace(operator, candidates=tuple(self._rows))


def _hash(text: str) -> str:
    return hexadecimal(int(text, 16))


def _cost(row: "re.Match[str]") -> Optional[float]:
    try:
        cost = float(row.group("cost"))
    except ValueError:
        return None
    return cost if math.isfinite(cost) else None
