"""Try an environment: start a worker in it, ask what it is, and see whether it can build."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.environments.config import Environment
from harness.environments.process import end_all
from harness.environments.supervisor import Supervisor
from harness.errors import CandidateError, HarnessError
from harness.worker.protocol import Probe, ProbeReply


@dataclass(frozen=True)
class EnvironmentCheck:
    """What a probe found.

    Args:
        environment: the environment.
        probe: what it is; None if it cannot be used at all.
        problems: what does not work.
        hint: what to try.
        evidence: the last lines of a worker that failed.
    """

    environment: Environment
    probe: ProbeReply | None
    problems: tuple[str, ...] = ()
    hint: str | None = None
    evidence: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether models can be built here; `ability` says whether engines also run."""
        return self.probe is not None and not self.problems

    @property
    def ability(self) -> str:
        """What the environment can do, in a few words."""
        if self.probe is None or not self.probe.builder_ok:
            return "nothing"
        return "builds and runs" if self.probe.cannot_run is None else f"builds here; {self.probe.cannot_run}"

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        probe = self.probe
        facts = (
            {} if probe is None else {key: value for key, value in vars(probe).items() if key != "problems"}
        )
        return {
            "name": self.environment.name,
            "command": list(self.environment.command),
            "gpu_index": self.environment.gpu,
            "passed": self.passed,
            "ability": self.ability,
            **{key: list(value) if isinstance(value, tuple) else value for key, value in facts.items()},
            "problems": list(self.problems),
            "hint": self.hint,
            "evidence": list(self.evidence),
        }


def check_environment(environment: Environment, *, adapter: Path | None = None) -> EnvironmentCheck:
    """Probe `environment` in a worker of its own, which is ended again. Raises nothing that a probe can."""
    supervisor = Supervisor(environment, adapter=adapter, keep_cache=False)
    try:
        probe = supervisor.call(Probe(load=True))
    except HarnessError as error:
        evidence = error.evidence if isinstance(error, CandidateError) else ()
        return EnvironmentCheck(environment, None, (error.message,), error.hint, evidence)
    finally:
        supervisor.close()
    problems = probe.problems
    if not probe.builder_ok and not problems:
        problems = ("a builder cannot be made",)
    return EnvironmentCheck(environment, probe, problems)


def check_all(
    environments: Sequence[Environment], *, adapter: Path | None = None
) -> Iterator[EnvironmentCheck]:
    """Check environments, four at the same time, and give the results in order."""
    with ThreadPoolExecutor(max_workers=4) as pool, _ending_workers_on_interrupt():
        yield from pool.map(lambda environment: check_environment(environment, adapter=adapter), environments)


@contextlib.contextmanager
def _ending_workers_on_interrupt() -> Iterator[None]:
    """Threads that wait for a worker do not see Ctrl-C; they see that their worker is gone."""
    try:
        yield
    except KeyboardInterrupt:
        end_all()
        raise
