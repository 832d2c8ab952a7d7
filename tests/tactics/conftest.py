import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "model"))  # graphs that several rooms are tested with


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A case and a harness.toml, whose environments are doubles."""
    import onnx
    from doubles import ADAPTER, CASE
    from graphs import norm_chain

    from harness import environments
    from harness.backends import tensorrt
    from harness.environments import Environment, Supervisor

    supervisors: dict[Environment, Supervisor] = {}

    def shared(environment: Environment) -> Supervisor:
        if environment not in supervisors:
            supervisors[environment] = Supervisor(environment, adapter=ADAPTER, keep_cache=False)
        return supervisors[environment]

    onnx.save(norm_chain(), tmp_path / "m.onnx")
    (tmp_path / "norm.case.yaml").write_text(CASE)
    monkeypatch.setattr(tensorrt, "shared_supervisor", shared)
    monkeypatch.setattr(environments, "shared_supervisor", shared)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    yield tmp_path
    for supervisor in supervisors.values():
        supervisor.close()
