"""Run records, noise floors and drift: whether a new release changes the answer, and by more than noise.

pandas and pyarrow are imported when something here is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
