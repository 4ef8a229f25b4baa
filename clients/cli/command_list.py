"""The commands of `slipway`; the module of a command is imported on first use, which halves the time to start."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from shared.runtime.program_imports import import_program

STACK, RELEASES, INSPECT, OPERATE = "Embedded stack", "Releases", "Inspect", "Operations"


@dataclass(frozen=True)
class Listed:
    """A command: its module in `clients.cli.commands`, its function or Typer application, its panel in the help."""

    module: str
    member: str
    panel: str


COMMANDS = {
    "doctor": Listed("installation.doctor", "doctor", STACK),
    "up": Listed("installation.stack", "up", STACK),
    "ps": Listed("installation.stack", "ps", STACK),
    "down": Listed("installation.stack", "down", STACK),
    "env": Listed("installation.stack", "env", STACK),
    "open": Listed("installation.console", "open_console", INSPECT),
    "publish": Listed("publish", "publish", RELEASES),
    "status": Listed("status", "status", RELEASES),
    "approve": Listed("releases", "approve", RELEASES),
    "cancel": Listed("releases", "cancel", RELEASES),
    "reject": Listed("releases", "reject", RELEASES),
    "pause": Listed("releases", "pause", RELEASES),
    "resume": Listed("releases", "resume", RELEASES),
    "promote": Listed("releases", "promote", RELEASES),
    "retry": Listed("releases", "retry", RELEASES),
    "versions": Listed("versions", "versions", INSPECT),
    "show": Listed("versions", "show", INSPECT),
    "card": Listed("card", "card", INSPECT),
    "verify": Listed("verify", "verify", INSPECT),
    "pull": Listed("pull", "pull", INSPECT),
    "erase": Listed("installation.erase", "erase", OPERATE),
    "routes": Listed("routes", "routes", INSPECT),
    "ask": Listed("ask", "ask", INSPECT),
    "traffic": Listed("traffic", "traffic", INSPECT),
    "sample-lora": Listed("installation.sample_lora", "sample_lora", RELEASES),
    "audit": Listed("installation.audit", "audit_app", OPERATE),
    "events": Listed("events", "events", OPERATE),
    "alerts": Listed("alerts", "alerts", OPERATE),
    "rollback": Listed("rollback", "rollback", OPERATE),
    "drill": Listed("drill", "drill", OPERATE),
    "replay": Listed("replay", "replay_command", OPERATE),
    "base": Listed("base", "base_app", RELEASES),
    "policy": Listed("policy", "policy_app", RELEASES),
    "apply": Listed("apply", "apply", OPERATE),
    "endpoints": Listed("endpoints", "endpoints_app", OPERATE),
    "attach": Listed("attach", "attach", OPERATE),
    "detach": Listed("attach", "detach", OPERATE),
    "keys": Listed("installation.keys", "keys_app", OPERATE),
    "deadletters": Listed("events", "deadletters_app", OPERATE),
    "backup": Listed("installation.backup", "backup", OPERATE),
    "restore": Listed("installation.restore", "restore", OPERATE),
    "gc": Listed("installation.gc", "gc", OPERATE),
}


class _Imported(Mapping[str, Any]):
    """Typer's commands by name, imported on first use."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._known: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._known:
            self._known[name] = self._read(name, COMMANDS[name])
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)

    def _read(self, name: str, listed: Listed) -> Any:
        member = getattr(import_program(f"clients.cli.commands.{listed.module}"), listed.member)
        only = typer.Typer(add_completion=False, **self._settings)
        if isinstance(member, typer.Typer):
            only.add_typer(member, name=name, rich_help_panel=listed.panel)
        else:
            only.command(name, rich_help_panel=listed.panel)(member)
        return get_group(only).commands[name]


class CommandGroup(TyperGroup):
    """The group of all commands."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = _Imported({"rich_markup_mode": settings["rich_markup_mode"]})
