"""Why a node goes wrong, in physical terms, and the answer in words."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
