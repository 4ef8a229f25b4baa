"""The reference of the command line, from the commands themselves."""

import inspect
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from clients.cli.command_list import COMMANDS
from clients.cli.main import app
from clients.cli.output import EXIT_CODES
from deploy.documentation.markdown import code, escape, table

Command = Any
Parameter = Any
"""Typer's own copies of click's classes, which it does not export."""


def commands() -> Iterator[tuple[str, Command]]:
    """Return every command that does something, with its whole name."""
    yield from _below("slipway", get_command(app))


def _below(name: str, command: Command) -> Iterator[tuple[str, Command]]:
    children = getattr(command, "commands", {})
    if not children or command.invoke_without_command:
        yield name, command
    for child in children:
        yield from _below(f"{name} {child}", children[child])


def render() -> str:
    """Return the exit codes, an overview, and a section for each command, by the panels of the help."""
    panels: dict[str, list[str]] = {}
    for name, command in commands():
        panel = COMMANDS[name.split()[1]].panel
        panels.setdefault(panel, []).append(_section(name, command))
    parts = [escape(EXIT_CODES) + "\n", *(f"## {panel}\n\n" + "\n".join(panels[panel]) for panel in panels)]
    return "\n".join(parts)


def _section(name: str, command: Command) -> str:
    text = escape(inspect.cleandoc(command.help or "").replace("\f", ""))
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    usage = " ".join([name, *map(_usage, arguments), "[OPTIONS]"])
    rows = [_row(param) for param in command.params if not getattr(param, "hidden", False)]
    body = table(("option", "default", "meaning"), rows) if rows else ""
    return f"### {name}\n\n{text}\n\n```text\n{usage}\n```\n\n{body}"


def _usage(param: Parameter) -> str:
    shown = (param.metavar or param.name or "").strip("[]").upper() + ("…" if param.nargs == -1 else "")
    return shown if param.required else f"[{shown}]"


def _row(param: Parameter) -> tuple[str, str, str]:
    names = ", ".join(code(option) for option in (*param.opts, *param.secondary_opts))
    if param.param_type_name == "argument":
        names = code((param.metavar or param.name or "").strip("[]").upper())
    return names, _default(param), escape(getattr(param, "help", None) or "")


def _default(param: Parameter) -> str:
    if param.required:
        return "required"
    default = param.default
    if callable(default) or default in (None, False, "", [], ()):
        return ""
    return code(default)
