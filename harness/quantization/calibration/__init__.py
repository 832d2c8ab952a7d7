"""From samples to scales: what was seen of tensors, the scale that each method makes of it, and which to take."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
