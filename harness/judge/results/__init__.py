"""The verdicts and numbers of runs: what every report, the JSON and the pytest items are made from."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
