"""The subcommands. A new one is a new file here with a ``COMMAND``."""

from __future__ import annotations

import importlib
import pkgutil

from octavo.bench.commands.base import Command, Suite

__all__ = ["Command", "Suite", "all_commands"]


def all_commands() -> dict[str, Command]:
    """Every subcommand by name, in the order of ``--help``."""
    found: list[Command] = []
    for module in pkgutil.iter_modules(__path__):
        imported = importlib.import_module(f"{__name__}.{module.name}")
        if hasattr(imported, "COMMAND"):
            found.append(imported.COMMAND)
    return {command.name: command for command in sorted(found, key=lambda c: (c.order, c.name))}
