"""What is said of a node, and of which releases it holds: the words that rules, parsers and findings share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from harness.model import TensorInfo
from harness.worker.protocol import TENSORRT, TENSORRT_RTX


class FindingKind(StrEnum):
    """What becomes of a node, the worst first."""

    REFUSED = "refused"
    """The parser does not take it."""
    NOT_BUILT = "not built"
    """It is parsed, and the builder makes no engine of it."""
    DIFFERENT = "different"
    """It is built, and computes something else."""
    RISKY = "risky"
    """It is right for some inputs, shapes or releases only."""
    IMPROVABLE = "improvable"
    """It is right, and could be faster or more exact."""

    @property
    def is_failure(self) -> bool:
        """Whether an engine of the model is missing or wrong."""
        return self in (FindingKind.REFUSED, FindingKind.NOT_BUILT, FindingKind.DIFFERENT)


@dataclass(frozen=True)
class Releases:
    """A range of releases of one product.

    Args:
        product: TENSORRT or TENSORRT_RTX.
        first: the first one that it holds of, `1.4`; None: from the beginning.
        last: the last one, with everything that begins with it: `1.4` holds of 1.4.0.76; None: to this day.
    """

    product: str
    first: str | None = None
    last: str | None = None

    def include(self, product: str, release: str) -> bool:
        """Whether `release` of `product` is one of them."""
        if product != self.product:
            return False
        asked = _numbers(release)
        if self.first is not None and asked < _numbers(self.first):
            return False
        last = None if self.last is None else _numbers(self.last)
        return last is None or asked[: len(last)] <= last


RTX = Releases(TENSORRT_RTX)
"""Every release of TensorRT for RTX that was asked: 1.4 to 1.7."""
ANY = (Releases(TENSORRT), RTX)


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split(".") if part.isdigit())


@dataclass(frozen=True)
class NodeFacts:
    """A node as a finding shows it.

    Args:
        index: position in topological order.
        name: unique and never empty; of a node in a body, the name of that node.
        op: operator type.
        domain: operator set domain; empty for ONNX itself.
        attributes: by name, as text; tensors and graphs are left out.
        inputs: what it reads, omitted inputs left out.
        outputs: what it writes, likewise.
    """

    index: int
    name: str
    op: str
    domain: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[TensorInfo, ...] = ()
    outputs: tuple[TensorInfo, ...] = ()
