"""What is checked of an answer: whether its island holds on fresh inputs, and what is lost behind outputs that pass."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
