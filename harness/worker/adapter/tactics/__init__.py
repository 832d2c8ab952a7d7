"""Tactics: what the builder chose is read, and choices are forced and forbidden."""

from .edited_cache import Shelf
from .tactics import Tactics

__all__ = ["Shelf", "Tactics"]
