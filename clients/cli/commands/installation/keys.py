"""`slipway keys`: identities on bus and store with their keys and roles, and the keys of attesters."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from clients.cli.audit_facts import key_change
from clients.cli.commands.installation.api_keys import (
    Listing,
    as_plain,
    issue,
    read_issued,
    revoke_key,
    show_issued,
    team_usage,
)
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import CommandError, is_terminal, show_json, show_line, show_list, show_table
from clients.cli.parsing import check_model
from clients.cli.settings import CliSettings
from contracts.identities import ROLES, Identity, Role
from contracts.provenance.attestations import AttesterKey
from contracts.teams import TeamQuota
from deploy.identity.key_files import KeysRefused
from deploy.identity.key_folder import KeyFolder
from deploy.local.plan import keys_folder
from deploy.local.state import StateFolder, reload_servers
from shared.runtime.clock import SystemClock

keys_app = typer.Typer(
    help="Make, list, replace and withdraw the keys of people and programs, on the bus and for the API.",
    no_args_is_help=True,
)
keys_app.command("issue")(issue)
team_app = typer.Typer(help="Declare which models belong to which team.", no_args_is_help=True)
keys_app.add_typer(team_app, name="team")

T = TypeVar("T")
FolderOption = Annotated[
    Path | None, typer.Option("--folder", help="Folder of the keys (default: the one in the state folder).")
]
LATER = "it takes effect when bus and store read their configuration again (SIGHUP)"
NOW = "bus and store have been told to read it"
AttestationOption = Annotated[
    bool, typer.Option("--attestation", help="The key that a service signs attestations with, not that of the bus.")
]
TeamArgument = Annotated[str, typer.Argument(metavar="TEAM", help="Name of the team.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the person or program.")]


def keys_of_folder(folder: Path | None, state: Path | None) -> KeyFolder:
    """Return the named folder of keys, by default the state folder's."""
    default = keys_folder(state if state is not None else CliSettings().state)
    return KeyFolder((folder or default).absolute())


@keys_app.command("init")
def init(
    *,
    host: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Name or address of the bus, as clients reach it; repeatable."),
    ] = None,
    store_host: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Name or address of the store; repeatable (default: those of the bus)."),
    ] = None,
    bucket: Annotated[
        str | None, typer.Option(metavar="BUCKET", help="Bucket that the store's policies are about.")
    ] = None,
    folder: FolderOption = None,
    state: StateOption = None,
) -> None:
    """Create an installation's keys: certificate authority, certificates of bus and store, keys of services.

    Existing keys stay; a certificate gets new hosts, and is replaced in its last 30 days. A wildcard needs two labels
    after it (`*.bus.example.org`), because clients refuse shorter names. After an interruption, run the command again.
    `slipway up` creates the keys of its own bus and store.
    """
    keys = keys_of_folder(folder, state)
    _attempt(
        keys,
        lambda: keys.prepare(
            [*keys.hosts(), *(host or [])] or ["127.0.0.1", "localhost"],
            SystemClock().now(),
            [*keys.store_hosts(), *(store_host or [])],
            bucket,
        ),
    )
    show_line(
        f"the keys are in {keys.path}; include {keys.server_config} in the configuration of the bus, and give the "
        f"store {keys.store.server_config} and {keys.store.certificate.parent}"
    )
    _reload(keys)


@keys_app.command("list")
def list_command(folder: FolderOption = None, state: StateOption = None, as_json: JsonOption = False) -> None:
    """List the identities on the bus with their roles, and the keys of the API with their limits and state.

    With --folder, the keys of the API are those that the installation has from its start: the others are on the bus.
    """
    keys = keys_of_folder(folder, state)
    identities, installed = _attempt(keys, keys.identities), _attempt(keys, keys.api_keys.entries)
    issued = read_issued(state, installed) if folder is None else Listing(list(installed.values()), {}, [])
    if not identities and not issued.keys and issued.problems:
        raise CommandError(f"there are no keys in {keys.path}, and {issued.problems[0]}")
    if as_json:
        plain = [identity.model_dump(mode="json") for identity in identities]
        api_keys = [as_plain(key, issued.usage.get(key.key_id)) for key in issued.keys]
        show_json({"identities": plain, "api_keys": api_keys, "tokens_of_teams": team_usage(issued)})
    else:
        rows = [
            [
                entry.name,
                ", ".join(entry.roles) or "part of Slipway",
                entry.team or "",
                _models(entry),
                len(entry.public_keys),
            ]
            for entry in identities
        ]
        show_table(["name", "roles", "team", "models", "keys"], rows)
        if is_terminal():
            show_line("")
        show_issued(issued)
    if issued.problems:
        raise CommandError(f"the list of keys of the API is not complete: {' '.join(issued.problems)}")


@keys_app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key: see `slipway keys list`.")],
    state: StateOption = None,
) -> None:
    """Revoke a key of the API: every gateway refuses it within a second."""
    keys = keys_of_folder(None, state)
    revoke_key(key_id, state, _attempt(keys, keys.api_keys.entries))


@keys_app.command("add")
def add(
    name: NameArgument,
    *,
    role: Annotated[list[str], typer.Option(metavar="ROLE", help=f"One of {', '.join(ROLES)}; repeatable.")],
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="Model that a publisher may announce; repeatable (default: all)."),
    ] = None,
    team: Annotated[
        str | None,
        typer.Option(
            metavar="TEAM",
            help="Team whose models it may act on (default: all models).",
        ),
    ] = None,
    folder: FolderOption = None,
    state: StateOption = None,
) -> None:
    """Make a key for a person or a program."""
    roles = [_role(text) for text in role]
    for name_of_model in model or []:
        check_model(name_of_model)
    keys, effect = change_keys(folder, state, "key.add", name, lambda keys: keys.add(name, roles, model or [], team))
    show_line(f"{name} has a key: give {_files(keys, name)} to its owner only; {effect}")


@team_app.command("set")
def team_set(
    name: TeamArgument,
    *,
    model: Annotated[list[str], typer.Option(metavar="MODEL", help="Model that the team owns; repeatable, name all.")],
    releases: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Releases that may be under way at the same time.")
    ] = None,
    announcements_per_minute: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=240, help="Checkpoints that are accepted within a minute.")
    ] = None,
    stored_bytes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Bytes that its checkpoints and versions may have.")
    ] = None,
    tokens_per_month: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Tokens of all its API keys together in a calendar month.")
    ] = None,
    folder: FolderOption = None,
    state: StateOption = None,
) -> None:
    """Create a team, or replace its models and quotas: members publish, order and approve for these models only.

    A quota that is not named is removed.
    """
    for name_of_model in model:
        check_model(name_of_model)
    quota = TeamQuota(
        releases=releases,
        announcements_per_minute=announcements_per_minute,
        stored_bytes=stored_bytes,
        tokens_per_month=tokens_per_month,
    )
    _, effect = change_keys(folder, state, "team.set", name, lambda keys: keys.set_team(name, model, quota))
    show_line(f"{name} owns {', '.join(model)}; its quota: {_quota(quota) or 'none'}; {effect}")


@team_app.command("list")
def team_list(folder: FolderOption = None, state: StateOption = None, as_json: JsonOption = False) -> None:
    """List the teams with their models and members."""
    keys = keys_of_folder(folder, state)
    teams, identities = _attempt(keys, keys.teams), _attempt(keys, keys.identities)
    members = {team.name: [each.name for each in identities if each.team == team.name] for team in teams}
    data = [{**team.model_dump(mode="json"), "members": members[team.name]} for team in teams]
    rows = [[team.name, ", ".join(team.models), ", ".join(members[team.name]), _quota(team.quota)] for team in teams]
    show_list(data, ["team", "models", "members", "quota"], rows, as_json=as_json)


def _quota(quota: TeamQuota) -> str:
    named = {
        "releases": quota.releases,
        "announcements per minute": quota.announcements_per_minute,
        "bytes stored": quota.stored_bytes,
        "tokens per month": quota.tokens_per_month,
    }
    return ", ".join(f"{limit} {name}" for name, limit in named.items() if limit is not None)


@team_app.command("remove")
def team_remove(name: TeamArgument, folder: FolderOption = None, state: StateOption = None) -> None:
    """Remove a team without members; its models then have no team. Its API keys stay valid until they are revoked."""
    _, effect = change_keys(folder, state, "team.remove", name, lambda keys: keys.remove_team(name))
    show_line(f"{name} is removed; {effect}")


@keys_app.command("rotate")
def rotate(
    name: NameArgument,
    *,
    attestation: AttestationOption = False,
    folder: FolderOption = None,
    state: StateOption = None,
) -> None:
    """Make another key of bus and store for an identity. The former key is accepted until it is retired."""
    if attestation:
        now = SystemClock().now()
        keys, _ = change_keys(
            folder,
            state,
            "attestation-key.rotate",
            name,
            lambda keys: keys.change_attester(name, lambda attesters: attesters.rotate(name, now)),
        )
        show_line(
            f"{name} has a new key in {keys.attesters.private_key(name)}: restart the service with it, then "
            f"`slipway keys retire {name} --attestation`"
        )
        return
    keys, effect = change_keys(folder, state, "key.rotate", name, lambda keys: keys.rotate(name))
    show_line(
        f"{name} has new keys in {_files(keys, name)}, and those before beside them, as {name}.old; "
        f"{effect}. When the new one is in use everywhere, withdraw the old one with `slipway keys retire {name}`"
    )


@keys_app.command("retire")
def retire(
    name: NameArgument,
    *,
    attestation: AttestationOption = False,
    folder: FolderOption = None,
    state: StateOption = None,
) -> None:
    """Withdraw the older of two keys of an identity, on bus and store."""
    if attestation:
        now = SystemClock().now()
        change_keys(
            folder,
            state,
            "attestation-key.retire",
            name,
            lambda keys: keys.change_attester(name, lambda attesters: attesters.retire(name, now)),
        )
        show_line(f"{name} attests with its newest key only; what the others attested until now stays accepted")
        return
    _, effect = change_keys(folder, state, "key.retire", name, lambda keys: keys.retire(name))
    show_line(f"the old key of {name} is withdrawn; {effect}")


@keys_app.command("distrust")
def distrust(name: NameArgument, folder: FolderOption = None, state: StateOption = None) -> None:
    """Revoke all attestation keys of a service, with their signatures, and create a new key."""
    now = SystemClock().now()
    keys, _ = change_keys(
        folder,
        state,
        "attestation-key.distrust",
        name,
        lambda keys: keys.change_attester(name, lambda attesters: attesters.revoke(name, now)),
    )
    show_line(
        f"nothing that {name} has attested until now is accepted; its new key is {keys.attesters.private_key(name)}: "
        "restart the service with it, and release again what must stay loadable"
    )


@keys_app.command("attesters")
def attesters(folder: FolderOption = None, state: StateOption = None, as_json: JsonOption = False) -> None:
    """List the attestation keys of services, the steps that each may attest, and the revocation times."""
    keys = keys_of_folder(folder, state)
    _identities(keys)
    entries = _attempt(keys, keys.attesters.entries)
    data = [entry.model_dump(mode="json") for entry in entries]
    rows = [[entry.attester, entry.key_id[:16], ", ".join(entry.steps), _state(entry)] for entry in entries]
    show_list(data, ["service", "key", "attests", "state"], rows, as_json=as_json)


@keys_app.command("remove")
def remove(name: NameArgument, folder: FolderOption = None, state: StateOption = None) -> None:
    """Withdraw all keys of a person or a program; its connections end."""
    _, effect = change_keys(folder, state, "key.remove", name, lambda keys: keys.remove(name))
    show_line(f"the keys of {name} are withdrawn; {effect}")


def _files(keys: KeyFolder, name: str) -> str:
    """Return the paths of an identity's keys for bus and store as text."""
    store = keys.store.credential(name)
    return f"{keys.credential(name)} and {store.name}" if store.is_file() else str(keys.credential(name))


def _identities(keys: KeyFolder) -> tuple[Identity, ...]:
    identities = _attempt(keys, keys.identities)
    if not identities:
        raise CommandError(f"there are no keys in {keys.path}; use `slipway keys init`, or name another --folder")
    return identities


def change_keys(
    folder: Path | None, state: Path | None, action: str, name: str, change: Callable[[KeyFolder], object]
) -> tuple[KeyFolder, str]:
    """Change keys, with a record in the audit log; return the folder, and a sentence on when the change applies."""
    keys = keys_of_folder(folder, state)
    _identities(keys)
    try:
        _attempt(keys, lambda: change(keys))
    except CommandError:
        _reload(keys)  # what an earlier command left unfinished is completed, although this one is refused
        raise
    effect = NOW if _reload(keys) else LATER
    if keys.path == keys_folder(keys.path.parent):
        key_change(keys.path.parent, action, name, _described(keys, name))
    return keys, effect


def _described(keys: KeyFolder, name: str) -> dict[str, object]:
    """Return the accepted public keys of a name, and the models and the quota of a team."""
    accepted = [list(each.public_keys) for each in keys.identities() if each.name == name]
    attesting = [key.key_id for key in keys.attesters.entries() if key.attester == name and _state(key) == "accepted"]
    teams = [team for team in keys.teams() if team.name == name]
    owned = {"models": [model for team in teams for model in team.models]}
    quotas = {"quota": teams[0].quota.model_dump(mode="json", exclude_none=True)} if teams else {}
    return {"public_keys": accepted[0] if accepted else [], "attestation_keys": attesting, **owned, **quotas}


def _reload(keys: KeyFolder) -> bool:
    """Reload the keys of bus and store; return whether the folder is of a running stack."""
    state = keys.path.parent
    return keys.path == keys_folder(state) and reload_servers(StateFolder(state))


def _attempt(keys: KeyFolder, work: Callable[[], T]) -> T:
    """Return the result of work on a folder of keys.

    Raises:
        CommandError: The work is refused, or the folder cannot be read or written.
    """
    try:
        return work()
    except KeysRefused as refused:
        raise CommandError(str(refused)) from refused
    except PermissionError as error:
        advice = "run the command as the user that owns it, or with sudo: what root writes there belongs to that user"
        raise CommandError(f"the keys in {keys.path} belong to another user ({error}); {advice}") from error
    except (OSError, ValueError) as error:
        raise CommandError(
            f"the keys in {keys.path} cannot be used ({error}); repair the folder, and try again"
        ) from error


def _role(text: str) -> Role:
    for role in ROLES:
        if role == text:
            return role
    raise CommandError(f"{text!r} is no role: use {', '.join(ROLES)}")


def _state(key: AttesterKey) -> str:
    if key.revoked_at is not None:
        return f"revoked {key.revoked_at:%Y-%m-%d %H:%M}"
    return f"retired {key.retired_at:%Y-%m-%d %H:%M}" if key.retired_at is not None else "accepted"


def _models(identity: Identity) -> str:
    if identity.team is not None and not identity.models:
        return "all of the team"
    return ", ".join(identity.models) or ("all" if {"publisher", "administrator"} & {*identity.roles} else "")
