"""Nights in a series: the newest against those before it, and steps in the error of every output."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
