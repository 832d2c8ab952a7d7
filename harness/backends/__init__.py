"""What computes tensors: the FP32 reference, the emulator, and TensorRT engines; one protocol for the last two."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
