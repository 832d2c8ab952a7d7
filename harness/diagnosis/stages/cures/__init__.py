"""Stage 4, cure: the minimal island on the emulator, islands that an engine passes with, and what is tried beside them:
FP32 sums, islands with a margin, islands between Casts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
