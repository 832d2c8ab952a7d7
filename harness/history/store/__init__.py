"""The history on disk: runs in Parquet files, their columns, and the rows that a judged build makes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
