from pathlib import Path

import contract_models
import pytest
import trt_double


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return contract_models.write_all(tmp_path_factory.mktemp("models"))


@pytest.fixture(params=trt_double.releases())
def release(request: pytest.FixtureRequest) -> str:
    return request.param
