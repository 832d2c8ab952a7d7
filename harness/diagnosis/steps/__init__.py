"""Each row of the table as a step: from what was seen so far to what is seen with it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
