"""How much memory this process may take: that of the machine, or of the container it runs in."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

#: Limit, use, and what it is used for, of a control group of either version.
_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "memory.usage_in_bytes"),
)


def memory_limit() -> int:
    """Bytes of memory of the machine, or fewer where a control group allows fewer."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit, _ in _GROUPS:
        with contextlib.suppress(OSError, ValueError):  # no control groups, or `max`
            found.append(int(Path(limit).read_text()))
    return min(found)


def available_memory() -> int:
    """Bytes that are free, or hold files that can be read again; 0 where the system does not tell."""
    found = [memory_limit()]
    try:
        found.append(_fields("/proc/meminfo")["MemAvailable:"] * 1024)
        for name, used in _GROUPS:
            limit = Path(name)
            with contextlib.suppress(FileNotFoundError, ValueError):
                files = _fields(limit.with_name("memory.stat"))["inactive_file"]
                found.append(int(limit.read_text()) - int(limit.with_name(used).read_text()) + files)
    except (OSError, KeyError):
        return 0
    return min(found)


def _fields(path: str | Path) -> dict[str, int]:
    """By name, the number that follows it."""
    lines = (line.split() for line in Path(path).read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines}
