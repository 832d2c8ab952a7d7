"""How harness speaks: numbers, counts, durations, lists of names, commands and gates in words.

Functions from plain values to text, for consoles, pages, reasons and evidence alike. Nothing reads their text back.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
