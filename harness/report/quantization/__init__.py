"""Quantised models: what their pairs cost, and what quantising one gave; on the console and as a page."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
