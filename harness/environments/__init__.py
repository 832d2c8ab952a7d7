"""Environments: each one Python with one TensorRT release on one GPU, and the worker that serves it.

`load` and `select` read harness.toml; `shared_supervisor` gives the worker of an environment, which is started
when it is first asked for something and replaced when it fails.
"""

from harness.environments.config import Environment, Limits, find_config, load, select
from harness.environments.supervisor import Supervisor, abort_shared, close_shared, shared_supervisor

__all__ = [
    "Environment",
    "Limits",
    "Supervisor",
    "abort_shared",
    "close_shared",
    "find_config",
    "load",
    "select",
    "shared_supervisor",
]
