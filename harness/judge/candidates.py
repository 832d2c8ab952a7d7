"""Where candidates come from: the emulator, or an engine in an environment of harness.toml."""

from __future__ import annotations

from harness.backends import Candidate
from harness.judge.workbench import Workbench

EMULATOR = "emulator"


class Candidates:
    """Makes candidates by name and keeps the workers of environments across cases."""

    def __init__(self) -> None:
        self._open: dict[str, Candidate] = {}

    def get(self, name: str, bench: Workbench) -> Candidate:
        """The candidate `name` for the model of `bench`.

        Raises:
            EnvironmentConfigError: no environment has this name.
        """
        if name == EMULATOR:
            return bench.emulator
        if name not in self._open:
            self._open[name] = self._engine(name, bench)
        return self._open[name]

    def _engine(self, name: str, bench: Workbench) -> Candidate:
        from harness.errors import EnvironmentConfigError

        raise EnvironmentConfigError(f"no environment is named {name!r}")

    def release_model(self) -> None:
        """Forget the engines of the model at hand; workers stay."""
        for candidate in self._open.values():
            candidate.close()
        self._open.clear()

    def close(self) -> None:
        """End the workers."""
        self.release_model()
