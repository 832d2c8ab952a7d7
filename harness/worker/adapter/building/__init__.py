"""Building: the network is typed and marked, the builder configured, and one engine comes out."""

from .builder import Builder, Built

__all__ = ["Builder", "Built"]
