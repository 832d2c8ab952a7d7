"""What a tensor is made of: the tensors that were joined in it, and how large its slices are by construction."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
