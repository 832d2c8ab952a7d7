"""The report of `harness check`: on the console, as a page and as Markdown, and the picture of kernels."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
