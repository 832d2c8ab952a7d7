"""Golden references: the reference's outputs as they were when somebody last looked at them."""

from harness.golden.status import Difference, GoldenState, GoldenStatus
from harness.golden.store import GoldenStore, Provenance, refuse_in_ci

__all__ = ["Difference", "GoldenState", "GoldenStatus", "GoldenStore", "Provenance", "refuse_in_ci"]
