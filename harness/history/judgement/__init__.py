"""What changed between two sets of builds, by how much, and whether by more than noise."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
