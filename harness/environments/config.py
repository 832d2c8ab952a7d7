"""harness.toml: the environments that engines are built in, one table each.

    [emulator]
    kernels = "rtx-1.7"                     # the environment whose kernels the emulator assumes

    [environments.trt-8_6]
    python = "/opt/trt-8.6/bin/python"      # or command = ["docker", "run", …, "python3"]
    gpu = 0                                 # counted in the caller's own CUDA_VISIBLE_DEVICES
    variables = { LD_LIBRARY_PATH = "/opt/cuda/lib64" }
    build = { tactic_sources = ["jit_convolutions"] }
    limits = { build = 1800, inference = 300, compile = 300, idle = 600, memory_gib = 8, workers = 4 }   # seconds first

    [functions]
    packages = ["our_models"]               # installed packages whose functions cases may name
    seconds = 600                           # how long one call of a user's function may take

A container gets two folders under their own paths, and its user must be allowed to use them:

    command = ["docker", "run", "--rm", "--init", "--gpus", "device={gpu}", "-v", "{scratch}:{scratch}",
               "-v", "{worker}:{worker}:ro", "IMAGE", "python3"]

The file is searched for from the working folder upwards; `$HARNESS_CONFIG` names another one.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from harness.case import BuildOptions, FunctionSettings, find_config, read_config
from harness.environments.command import Launch, program_path
from harness.errors import EnvironmentConfigError
from harness.text import command, suggestion

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
#: The name that the candidate without TensorRT has everywhere.
RESERVED = "emulator"
#: Read once, when a process starts; TensorRT for RTX obeys no flag of the builder.
TF32_VARIABLE = "NVIDIA_TF32_OVERRIDE"

_MOST_LANES = 4
_CORES_OF_A_LANE = 4

_Text = Annotated[str, StringConstraints(min_length=1, strict=True)]
_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WorkerLimits(_Strict):
    """How many seconds a worker may take before it is ended, and how much memory it may have.

    The first build of a process loads every kernel library: 44 to 86 seconds for a model of 132 nodes on an
    H200 with TensorRT 8.5 and 8.6, and minutes when several processes do so at once.
    """

    start: _Seconds = 120.0
    """From the start of the process to its first word, and a probe, which imports TensorRT."""
    build: _Seconds = 1800.0
    """One build."""
    inference: _Seconds = 300.0
    """One inference with its repetitions."""
    compile: _Seconds = 300.0
    """One build that is only looked at; 0.2 to 4 s for models of up to 200 nodes on two cores without a GPU."""
    idle: _Seconds = 600.0
    """How long a worker without a GPU is kept without a request; starting another takes half a second."""
    memory_gib: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Memory of the host that a worker may have, in GiB; by default all."""
    workers: Annotated[int, Field(strict=True, ge=1)] | None = None
    """How many workers of TensorRT for RTX may be at work: builds need no GPU. By default see `lanes` and `second`."""

    @property
    def lanes(self) -> int:
        """How many workers may share the GPU: one for each four cores, four at most; one where memory is limited."""
        if self.workers is not None:
            return self.workers
        if self.memory_gib is not None:
            return 1
        return max(1, min(_MOST_LANES, len(os.sched_getaffinity(0)) // _CORES_OF_A_LANE))

    @property
    def second(self) -> bool:
        """Whether a second worker may build beside the one at work: with four cores, where memory is not limited."""
        if self.workers is not None:
            return self.workers > 1
        return self.memory_gib is None and len(os.sched_getaffinity(0)) >= _CORES_OF_A_LANE


class _Emulator(_Strict):
    """The table of the emulator, as written."""

    kernels: _Text | None = None


class _Table(_Strict):
    """One table of the file, as written."""

    python: _Text | None = None
    command: Annotated[tuple[_Text, ...], Field(min_length=1)] | None = None
    gpu: Annotated[int, Field(strict=True, ge=0)] = 0
    variables: dict[str, Annotated[str, StringConstraints(strict=True)]] = Field(default_factory=dict)
    build: BuildOptions = BuildOptions()
    limits: WorkerLimits = WorkerLimits()


@dataclass(frozen=True)
class Environment:
    """One Python with one TensorRT release on one GPU.

    Args:
        name: what commands and reports call it.
        command: what starts its Python. `{gpu}` in it stands for the GPU's number; `{scratch}` and `{worker}`
            for the folders that a container must mount under the same paths.
        gpu: which GPU, counted in the CUDA_VISIBLE_DEVICES of whoever starts harness.
        variables: environment variables that are set for it, sorted pairs.
        build: build options where neither the case nor the plan says otherwise.
        limits: seconds that a worker may take.
        source: the file that it comes from; None for one made in memory.
        lane: which of the lanes that share its GPU; each has a worker of its own.
    """

    name: str
    command: tuple[str, ...]
    gpu: int = 0
    variables: tuple[tuple[str, str], ...] = ()
    build: BuildOptions = field(default_factory=BuildOptions)
    limits: WorkerLimits = field(default_factory=WorkerLimits)
    source: Path | None = None
    lane: int = 0

    @property
    def launch(self) -> Launch:
        """What its worker is started with."""
        return Launch(self.command, self.gpu, self.variables, self.limits.memory_gib)


def load(path: Path | None = None) -> Mapping[str, Environment]:
    """The environments of `path`, or of the file in force, in the file's order; none if there is no file.

    Raises:
        EnvironmentConfigError: the file cannot be read, another user can write it, or it holds mistakes; all of
            them are named.
    """
    path = find_config() if path is None else path
    if path is None:
        return {}
    return parse(read_config(path), path)


def emulated_kernels(path: Path | None = None) -> str | None:
    """The environment whose kernels the emulator assumes, as `path` or the file in force names it; None if none.

    Raises:
        EnvironmentConfigError: the file cannot be read, holds mistakes, or names no environment of its own.
    """
    path = find_config() if path is None else path
    environments = load(path)
    if path is None:
        return None
    text = path.read_text()
    try:
        name = _Emulator.model_validate(tomllib.loads(text).get("emulator", {})).kernels
    except ValidationError as error:
        raise EnvironmentConfigError(
            "\n".join(describe(error, _Emulator, text, path, ("emulator",)))
        ) from error
    return None if name is None else select(name, environments).name


def select(name: str, environments: Mapping[str, Environment] | None = None) -> Environment:
    """The environment called `name`; `environments` default to those of the file in force.

    Raises:
        EnvironmentConfigError: there is none of that name.
    """
    known = load() if environments is None else environments
    if name in known:
        return known[name]
    raise unknown_environment(name, known)


def unknown_environment(name: str, known: Mapping[str, Environment]) -> EnvironmentConfigError:
    """The error that says that `name` is not in `known`, and which name may be meant."""
    if near := suggestion(name, ["emulator"]):
        hint = near
    elif not known:
        hint = f"`{command('harness', 'env', 'add', name, '--python', 'PATH')}` makes it"
    elif close := get_close_matches(name, known, n=1, cutoff=0.5):
        hint = f"did you mean {close[0]!r}? There are: {', '.join(known)}"
    else:
        hint = "there are: " + ", ".join(known)
    return EnvironmentConfigError(f"no environment is called {name!r}", where=find_config(), hint=hint)


def parse(text: str, path: Path) -> Mapping[str, Environment]:
    """The environments in `text`; relative paths start from the folder of `path`.

    Raises:
        EnvironmentConfigError: `text` holds mistakes; all of them are named.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise EnvironmentConfigError(f"not TOML: {error}", where=path) from error
    mistakes: list[str] = []
    known = ["environments", "emulator", "functions"]
    for key in document.keys() - set(known):
        mistakes.append(place(text, path, (key,)) + unknown("key", key, known))
    try:
        FunctionSettings.model_validate(document.get("functions", {}))
    except ValidationError as error:
        mistakes += describe(error, FunctionSettings, text, path, ("functions",))
    tables = document.get("environments", {})
    if not isinstance(tables, dict):
        raise EnvironmentConfigError("`environments` must be tables, `[environments.NAME]`", where=path)
    environments: dict[str, Environment] = {}
    for name, table in tables.items():
        try:
            environments[name] = _environment(name, table, path)
        except ValidationError as error:
            mistakes += describe(error, _Table, text, path, ("environments", name))
        except EnvironmentConfigError as error:
            mistakes.append(place(text, path, ("environments", name)) + str(error))
    if mistakes:
        raise EnvironmentConfigError("\n".join(mistakes))
    return environments


def check_name(name: str) -> None:
    """Refuse a name that could not be a file name, a TOML key and part of a test id.

    Raises:
        EnvironmentConfigError: it is such a name.
    """
    if not NAME_PATTERN.fullmatch(name) or name == RESERVED:
        raise EnvironmentConfigError(
            f"{name!r} cannot be the name of an environment",
            hint=f"use letters, digits, '.', '_' and '-', and not the word {RESERVED!r}; such as 'trt-8.6'",
        )


def _environment(name: str, table: Any, path: Path) -> Environment:
    check_name(name)
    checked = _Table.model_validate(table)
    if (checked.python is None) == (checked.command is None):
        found = "neither" if checked.python is None else "both"
        raise EnvironmentConfigError(f"needs either `python` or `command`, has {found}")
    if checked.build.pins is not None:
        raise EnvironmentConfigError("`build.pins` belong to a case: one environment builds many models")
    first = checked.command[0] if checked.command else str(checked.python)
    rest = checked.command[1:] if checked.command else ()
    return Environment(
        name=name,
        command=(program_path(first, path.parent), *rest),
        gpu=checked.gpu,
        variables=tuple(sorted(checked.variables.items())),
        build=checked.build,
        limits=checked.limits,
        source=path,
    )


def describe(
    error: ValidationError, model: type[BaseModel], text: str, path: Path, table: tuple[str, ...]
) -> list[str]:
    """One line for each mistake that pydantic found in `table` of the file, which `model` describes."""
    found = []
    for item in error.errors():
        keys = tuple(str(part) for part in item["loc"])
        message = item["msg"]
        if item["type"] == "extra_forbidden":
            message = unknown("key", keys[-1], _fields(model, keys[:-1]))
        elif item["type"] == "enum" and isinstance(item["input"], str):
            message = unknown("value", item["input"], _words(item["ctx"]["expected"]))
        found.append(place(text, path, (*table, *keys)) + message)
    return found


def unknown(what: str, word: str, known: Sequence[str]) -> str:
    """That `word` is none of `known`, and which of them is near."""
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else "there are: " + ", ".join(known)
    return f"unknown {what} {word!r} ({hint})"


def place(text: str, path: Path, keys: tuple[str, ...]) -> str:
    """`file:line: keys: `, the line being that of the table or of the key in it, if it is found."""
    line = _line_of(text, keys)
    where = f"{path}" if line is None else f"{path}:{line}"
    return f"{where}: {'.'.join(keys)}: "


def _fields(model: type[BaseModel], inside: tuple[str, ...]) -> list[str]:
    kind: Any = model
    for part in inside:
        kind = kind.model_fields[part].annotation
    return list(kind.model_fields)


def _words(expected: str) -> list[str]:
    """The words in pydantic's `'a', 'b' or 'c'`."""
    return re.findall(r"'([^']*)'", expected)


def _line_of(text: str, keys: tuple[str, ...]) -> int | None:
    """tomllib keeps no positions, so the header and the key are looked for as people write them."""
    best, depth = None, 0
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\[?([^\]]+)\]", line):
            here = table = _split(header[1])
        elif key := re.match(r"\s*([^=#]+?)\s*=", line):
            here = [*table, *_split(key[1])]
        else:
            continue
        common = min(len(here), len(keys))
        if common > depth and here[:common] == list(keys[:common]):
            best, depth = number, common
    return best


def _split(dotted: str) -> list[str]:
    """The parts of a dotted key, quoted or bare."""
    return [part.strip().strip("\"'") for part in re.findall(r"\"[^\"]*\"|'[^']*'|[^.]+", dotted)]
