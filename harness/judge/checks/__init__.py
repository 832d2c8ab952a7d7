"""What is checked of a case beside its outputs at one shape: whether its inputs prove anything."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
