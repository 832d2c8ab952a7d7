"""What is built and run: cases × precisions × releases, each engine several times."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
