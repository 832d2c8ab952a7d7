"""Comparing a candidate's tensors with the reference's: metrics, gates, origins."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
