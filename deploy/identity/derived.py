"""Files derived from the listing of identities and the teams."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from contracts.identities import Identity
from contracts.teams import Team
from decisions.access.teams import narrowed, with_members
from deploy.identity import bus_config
from deploy.identity.files import make_folder, write_file
from deploy.identity.key_files import KeyFiles

MANAGER: Final = "server-manager"


def derive(files: KeyFiles, kept: tuple[Identity, ...], teams: Iterable[Team]) -> None:
    """Update the derived files: teams, server configuration, lists of keys, keys of the store."""
    owned = tuple(with_members(team, kept) for team in teams)
    make_folder(files.team_list.parent, mode=0o755)
    replace_entries(files.team_list, [team.model_dump(mode="json") for team in owned])
    config = bus_config.authorization(kept, owned).encode()
    if not files.server_config.is_file() or files.server_config.read_bytes() != config:
        write_file(files.server_config, config)
    managers = [identity.model_dump(mode="json") for identity in kept if identity.name == MANAGER]
    replace_entries(files.managers, managers)
    people = [identity.model_dump(mode="json") for identity in kept if identity.roles]
    replace_entries(files.people, people)
    _link_for_console(files, kept)
    files.store.sync(narrowed(identity, owned) for identity in kept)


def _link_for_console(files: KeyFiles, kept: Iterable[Identity]) -> None:
    names = {each.name for each in kept if each.roles and "administrator" not in each.roles}
    linked = {file.stem: file for file in files.console.glob("*.nk")}
    for name in linked.keys() - names:
        linked[name].unlink()
    make_folder(files.console)
    for name in names - linked.keys():
        (files.console / f"{name}.nk").symlink_to(Path("..", "credentials", f"{name}.nk"))


def replace_entries(file: Path, entries: list[dict[str, Any]]) -> None:
    """Write a JSON file, unless it has these entries already."""
    content = json.dumps(entries, indent=1).encode() + b"\n"
    if not file.is_file() or file.read_bytes() != content:
        write_file(file, content)
