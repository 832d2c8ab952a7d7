"""The module of any of 24 releases of TensorRT and 4 of TensorRT for RTX, with exactly the names that it has.

The names come from the contract data, the behaviour from `trt_core` and its neighbours. A name that the release
lacks is an AttributeError, as in the wheel; a name that it has and that the double does not act out raises
`NotActedOut`, so that nothing is tested against an invention.
"""

import json
import random
import types
from functools import cache
from pathlib import Path
from typing import Any

import trt_core
import trt_network
import trt_runtime
import trt_tuning

_DATA = Path(__file__).with_name("trt_api.json")


class NotActedOut(BaseException):
    """The release has the name, the double has no behaviour for it. No `except Exception` may hide it."""


@cache
def data() -> dict[str, Any]:
    """The contract data."""
    return json.loads(_DATA.read_text())


def releases() -> tuple[str, ...]:
    """All releases, oldest first; those of TensorRT for RTX behind those of TensorRT."""
    return tuple(data()["releases"])


def module_name(version: str) -> str:
    """What a release is imported as."""
    return "tensorrt_rtx" if trt_core.is_rtx(version) else "tensorrt"


def kind_in(ranges: str, index: int) -> str | None:
    """What a name is in the release at `index`: a kind, "" where none is known, None if it is not there."""
    for run in ranges.split():
        span, _, kind = run.partition(":")
        first, _, last = span.partition("-")
        if span in ("", "*") or int(first) <= index <= int(last):
            return kind
    return None


@cache
def names(version: str) -> dict[str, dict[str, str]]:
    """Every enum, class and function of a release, with members and kinds; functions under ""."""
    index = releases().index(version)
    found: dict[str, dict[str, str]] = {}
    for table in ("enums", "classes"):
        for owner, members in data()[table].items():
            present = {name: kind_in(ranges, index) for name, ranges in members.items()}
            present = {name: kind for name, kind in present.items() if kind is not None}
            if present:
                found[owner] = {name: kind for name, kind in present.items() if name}
    found[""] = {
        name: "method" for name, ranges in data()["functions"].items() if kind_in(ranges, index) is not None
    }
    return found


class Contents:
    """Everything that a release has, made when it is first read."""

    def __init__(self, version: str, used: set[str]) -> None:
        self._version, self._used = version, used
        self._world = trt_core.World(version, self)

    def __getattr__(self, name: str) -> Any:
        table = names(self._version)
        if name in table[""]:
            made = trt_core.FUNCTIONS.get(name, _absent(name))
        elif name.startswith("_") or name not in table:
            raise AttributeError(
                f"module {module_name(self._version)!r} {self._version} has no attribute {name!r}"
            )
        elif name in data()["enums"]:
            made = make_enum(name, sorted(table[name]), self._version, self._used)
        else:
            made = make_class(name, table[name], self._world)
        setattr(self, name, made)
        return made


class Recorded(types.ModuleType):
    """A module that remembers what was read from it."""

    def __init__(self, version: str) -> None:
        super().__init__(module_name(version), f"A double of {module_name(version)} {version}.")
        self.__version__ = version
        self._used: set[str] = set()
        self._contents = Contents(version, self._used)
        self._world = self._contents._world

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._contents, name)
        self._used.add(name)
        return found


def make(version: str) -> Any:
    """The module of a release. Its `trt_core.World` is `_world`, the names read so far are `_used`."""
    return Recorded(version)


class EnumMember:
    """A member of a pybind enum: no integer, and equal only to itself."""

    def __init__(self, owner: str, name: str, value: int) -> None:
        self._owner, self.name, self.value = owner, name, value

    def __int__(self) -> int:
        return self.value

    def __repr__(self) -> str:
        return f"<{self._owner}.{self.name}: {self.value}>"


class NamelessMember:
    """A severity of 8.5 and 8.6.0, whose enum is not built like the others."""

    def __init__(self, name: str) -> None:
        self._text = f"Severity.{name}"

    def __str__(self) -> str:
        return self._text


class EnumType(type):
    """A pybind enum: its members are read off it, and that is remembered."""

    __members__: dict[str, EnumMember]
    _used: set[str]

    def __getattr__(cls, name: str) -> EnumMember:
        if name.startswith("_") or name not in cls.__members__:
            raise AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}")
        cls._used.add(f"{cls.__name__}.{name}")
        return cls.__members__[name]


def make_enum(owner: str, members: list[str], version: str, used: set[str]) -> type:
    """An enum whose values are shuffled by release, so that no code can know them."""
    values = list(range(len(members)))
    random.Random(f"{owner} {version}").shuffle(values)
    if owner == "EngineInvalidityDiagnostics":
        values = [1 << value for value in values]
    enum = EnumType(owner, (EnumMember,), {"__members__": {}, "_used": used})
    for name, value in zip(members, values, strict=True):
        enum.__members__[name] = enum(owner, name, value)
    return enum


def make_class(owner: str, members: dict[str, str], world: trt_core.World) -> type:
    """A class with exactly `members`, acted out by the class of the same name in the core."""
    core = next((vars(module)[owner] for module in _CORES if owner in vars(module)), None)
    acted = {} if core is None else vars(core)
    body: dict[str, Any] = {"_world": world, "_owner": owner, "__init__": _no_constructor(owner)}
    body.update({name: value for name, value in acted.items() if name.startswith("_") and callable(value)})
    for name, kind in members.items():
        if kind == "static" and name in acted:
            body[name] = staticmethod(_static(f"{owner}.{name}", acted[name], world))
        elif name != "__init__":
            body[name] = _member(f"{owner}.{name}", name, kind, acted.get(name))
    return type(owner, (trt_core.Strict, *acted.get("bases", ())), body)


_CORES = (trt_core, trt_network, trt_runtime, trt_tuning)
_SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")


def _member(full: str, name: str, kind: str, acted: Any) -> Any:
    if kind.startswith("property"):
        if acted is None:
            return property(_absent(full), _absent(full))
        return property(acted.fget, acted.fset if kind == "property-rw" else None)
    if name in _SEVERITIES:
        return (
            NamelessMember(name) if kind == "value" else EnumMember("Severity", name, _SEVERITIES.index(name))
        )
    return _absent(full) if acted is None else acted


def _static(full: str, acted: Any, world: trt_core.World) -> Any:
    """A static method, which is read off its class, and that is remembered; it gets the world first."""

    def call(*arguments: Any) -> Any:
        world.trt._used.add(full)
        return acted(world, *arguments)

    return call


def _absent(name: str) -> Any:
    def absent(*_arguments: Any, **_named: Any) -> Any:
        raise NotActedOut(f"{name} is there in the release, but the double does not act it out")

    return absent


def _no_constructor(owner: str) -> Any:
    def refuse(self: Any, *_arguments: Any) -> None:
        raise TypeError(f"tensorrt.{owner}: No constructor defined!")

    return refuse
