"""What a compiler said of itself, kept on disk: a report from the cache should not wait until a worker has started.

Only of TensorRT for RTX on a machine without a GPU, whose reports depend on nothing else, and as long as the packages
of its Python are the same ones by name and version.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

from harness.environments import Environment, Supervisor, cache_folder
from harness.tensors import write_text
from harness.worker.protocol import PROTOCOL, TENSORRT_RTX, ProbeReply, from_plain


def probe_of(environment: Environment, supervisor: Supervisor) -> ProbeReply:
    """What the compiler of `environment` is: from its worker if it runs, else as it was said earlier, else asked now.

    Raises:
        CandidateError: the worker does not start.
    """
    path = _path(environment)
    if not supervisor.running and path is not None:
        with contextlib.suppress(OSError, ValueError):
            return from_plain(ProbeReply, json.loads(path.read_text()))
    probe = supervisor.probe()
    if path is not None and probe.product == TENSORRT_RTX and probe.gpu is None:
        with contextlib.suppress(OSError):
            write_text(path, json.dumps(asdict(probe)))
    return probe


def _path(environment: Environment) -> Path | None:
    """Where it is kept; None where it cannot be seen whether the packages are still the same."""
    variables = {**os.environ, **dict(environment.variables)}
    if len(environment.command) != 1 or "PYTHONPATH" in variables:
        return None
    folders = Path(environment.command[0]).absolute().parent.parent.glob("lib/python3*/site-packages")
    packages = sorted(path.name for folder in folders for path in folder.glob("tensorrt*.dist-info"))
    if not packages:
        return None
    parts = (PROTOCOL, environment.command, environment.variables, packages)
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return cache_folder() / "compiled" / "probes" / f"{digest[:32]}.json"
