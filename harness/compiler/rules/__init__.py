"""What is known of operators without asking a compiler: one table a family, each rule with its releases and source."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
