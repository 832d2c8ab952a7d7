"""A command group that imports a command's module only when that command is called.

`harness --help` must not pay for ONNX Runtime, pandas and matplotlib. So the group knows of each command no
more than its name and one line of help, and swaps in the real command at the moment it is resolved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import typer.main
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True)
class LazyCommand:
    """Where a command is found: `app` of `module` is a `typer.Typer`. `help` is its line in the overview."""

    module: str
    help: str
    app: str = "app"

    def load(self, name: str) -> Any:
        """Import the module and make the click command, called `name`."""
        command: Any = typer.main.get_command(getattr(import_module(self.module), self.app))
        command.name = name
        return command


class LazyGroup(TyperGroup):
    """A typer group whose commands are named in `lazy_commands`; subclasses fill it."""

    lazy_commands: ClassVar[Mapping[str, LazyCommand]] = {}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name, lazy in self.lazy_commands.items():
            self.add_command(TyperCommand(name, help=lazy.help), name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that `args` names and import it; its place in the overview stays a stub."""
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and name in self.lazy_commands:
            command = self.lazy_commands[name].load(name)
        return name, command, rest
