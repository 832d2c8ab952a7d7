"""The choices of a matrix that the command line offers: a module of its own, because it imports nothing heavy."""

from __future__ import annotations

from enum import StrEnum


class LayerBuilds(StrEnum):
    """In which builds of an engine the layers are observed, which takes a further build each, and a slow one.

    AUTO is the first build of an engine, and all builds of an emulated release, where it costs milliseconds.
    """

    AUTO = "auto"
    ALL = "all"
    FIRST = "first"
    NONE = "none"


class CacheUse(StrEnum):
    """Which builds use the timing cache: with it a rebuild mostly repeats the tactics of the one before."""

    BOTH = "both"
    WITH = "with"
    WITHOUT = "without"


class Against(StrEnum):
    """What a single release is held against."""

    GOLDEN = "golden"
    HISTORY = "history"
