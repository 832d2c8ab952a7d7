"""Where harness keeps what outlives a run, after the XDG base directory specification."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """What can be made again: `$XDG_CACHE_HOME/harness`."""
    return _base("XDG_CACHE_HOME", ".cache") / "harness"


def data_folder() -> Path:
    """What was installed: `$XDG_DATA_HOME/harness`."""
    return _base("XDG_DATA_HOME", ".local/share") / "harness"


def _base(variable: str, default: str) -> Path:
    given = os.environ.get(variable, "")
    return Path(given) if os.path.isabs(given) else Path.home() / default
