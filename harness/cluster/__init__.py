"""Units of work, and the workers of a dask scheduler that carry them out: the extra `cluster`.

A unit is frozen, and it and its result can be pickled, so that any process can carry it out. One machine carries out
the same units in a loop of its own; `open_cluster` gives a `Cluster`, which takes units and gives a future for each.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
