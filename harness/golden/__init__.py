"""Golden references: the reference's outputs as they were when somebody last looked at them."""

from harness.golden.status import Difference, GoldenState, GoldenStatus
from harness.golden.store import GoldenStore, Provenance

__all__ = ["Difference", "GoldenState", "GoldenStatus", "GoldenStore", "Provenance"]
