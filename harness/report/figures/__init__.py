"""Pictures made by matplotlib: error growth of runs and releases, all runs in dots, nights in series."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
