"""Nodes that choose by numbers: what a candidate chose otherwise for near ties, and what follows from its choice.

Scores that are closer than their rounding have no order of their own. Where a candidate ranks them otherwise, and its
scores pass their gates, nothing is wrong: what is computed from the choice is compared with what the reference computes
from the same choice.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
