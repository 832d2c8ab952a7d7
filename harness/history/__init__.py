"""Run records, noise floors and drift: whether a new release changes the answer, and by more than noise.

pandas and pyarrow are imported when something here is first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.history.api import drift, load_history
    from harness.history.choices import Against, CacheUse, LayerBuilds
    from harness.history.judgement import DriftVerdict
    from harness.history.matrix import DriftOptions
    from harness.history.noise import Floors
    from harness.history.outcome import RunDrift, Status
    from harness.history.report import DriftReport
    from harness.history.store import HistoryWarning

_LAZY = {
    "Against": "harness.history.choices",
    "CacheUse": "harness.history.choices",
    "DriftOptions": "harness.history.matrix",
    "DriftReport": "harness.history.report",
    "DriftVerdict": "harness.history.judgement",
    "Floors": "harness.history.noise",
    "HistoryWarning": "harness.history.store",
    "LayerBuilds": "harness.history.choices",
    "RunDrift": "harness.history.outcome",
    "Status": "harness.history.outcome",
    "drift": "harness.history.api",
    "load_history": "harness.history.api",
}

__all__ = [
    "Against",
    "CacheUse",
    "DriftOptions",
    "DriftReport",
    "DriftVerdict",
    "Floors",
    "HistoryWarning",
    "LayerBuilds",
    "RunDrift",
    "Status",
    "drift",
    "load_history",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
