"""What harness.toml says of the functions that cases name.

[functions]
packages = ["our_models"]      # installed packages whose functions may be called, beside those next to a case
seconds = 600                  # how long one call may take
"""

from __future__ import annotations

import tomllib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from harness.case.functions.config_file import find_config, read_config
from harness.errors import EnvironmentConfigError


class FunctionSettings(BaseModel):
    """The table `[functions]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    packages: tuple[Annotated[str, StringConstraints(min_length=1, strict=True)], ...] = ()
    """Installed packages whose functions a case may name."""
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 600.0
    """How long one call of a user's function may take."""


def function_settings() -> FunctionSettings:
    """What the file in force says of users' functions.

    Raises:
        EnvironmentConfigError: the file cannot be read, or its table holds mistakes.
    """
    path = find_config()
    if path is None:
        return FunctionSettings()
    try:
        return FunctionSettings.model_validate(tomllib.loads(read_config(path)).get("functions", {}))
    except tomllib.TOMLDecodeError as error:
        raise EnvironmentConfigError(f"not TOML: {error}", where=path) from error
    except ValidationError as error:
        first = error.errors()[0]
        keys = ".".join(["functions", *map(str, first["loc"])])
        raise EnvironmentConfigError(f"{keys}: {first['msg']}", where=path) from None
