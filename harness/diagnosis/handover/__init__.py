"""What is handed over: recipes by tool, the typed model, and a repro that runs by itself."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
