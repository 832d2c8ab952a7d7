"""One case at one precision on one candidate: run it, compare it, say where the error starts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
