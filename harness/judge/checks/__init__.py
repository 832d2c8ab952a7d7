"""What is checked of a run beside its outputs: whether its inputs prove anything, and what its outputs do not show."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
