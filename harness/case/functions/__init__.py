"""Functions that a case names: whose may be called, how long they may take, and blame for what goes wrong in them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
