"""What a function can change of the process that it runs in, and the next function would find."""

from __future__ import annotations

import gc
import resource
import signal
import sys
import threading
import warnings
from typing import Any


class State:
    """The state of the process as it is now. Filters of warnings are not part of it: each request brings its own."""

    def __init__(self) -> None:
        self._first = _settings()

    def restore(self) -> bool:
        """Stop timers, and whether all else is as it was. Where it is not, the process is no longer used: what has
        replaced a handler, closed a stream or left a thread may hold on to more than can be seen."""
        signal.alarm(0)
        for timer in (signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        threads = [each for each in threading.enumerate() if not each.daemon]
        return len(threads) == 1 and _settings() == self._first


def _settings() -> dict[str, Any]:
    import numpy as np

    torch: Any = sys.modules.get("torch")
    streams = (sys.stdin, sys.stdout, sys.stderr)
    numbers = sorted(signal.valid_signals())
    return {
        "handlers": [signal.getsignal(number) for number in numbers],
        "mask": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "limits": [resource.getrlimit(each) for each in _LIMITS],
        "recursion": sys.getrecursionlimit(),
        "streams": [(id(each), each is not None and each.closed) for each in streams],
        "hooks": (sys.excepthook, sys.displayhook, threading.excepthook, sys.unraisablehook),
        "traces": (sys.gettrace(), sys.getprofile()),
        "warnings": warnings.showwarning,
        "collects": gc.isenabled(),
        "numpy": np.geterr(),
        "torch": torch is None or (str(torch.get_default_dtype()), torch.is_grad_enabled()) == _TORCH,
    }


_LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
_TORCH = ("torch.float32", True)
