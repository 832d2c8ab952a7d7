"""What the cures write: one module a family of operators, and `table`, which lists the cures in their order."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
