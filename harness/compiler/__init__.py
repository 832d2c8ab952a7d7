"""What a compiler makes of a model: what it refuses, what it cannot build, and which kernels come out. No GPU needed.

TensorRT for RTX parses, fuses and builds without a GPU, and says in its log which kernels it made; so every machine can
ask a real compiler. A TensorRT that needs a GPU answers the same questions where there is one. The answers are types of
`harness.worker.protocol`: nothing here reads the compiler's text.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
