"""`slipway apply`: bring policies, teams, keys, mirrors and attachments to the state declared in files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from clients.cli.connection import find_stack
from clients.cli.declared import Declarations, read_declarations
from clients.cli.declared_state import Change, Key
from clients.cli.errors import CommandError, Exit
from clients.cli.installation import Installation, as_data, make_all, plan
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import show_json, show_line, warn

SIGNS = {"create": "+", "update": "~", "remove": "-", "issue": "!"}


def apply(
    *,
    file: Annotated[
        list[Path], typer.Option("--file", "-f", metavar="FILE|FOLDER", help="File, or folder of files; repeatable.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing. Exit code 5 if something would be changed, else 0.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Also remove what is not declared, of the kinds that the files declare.")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="Folder of the keys, for teams (default: the one in the state folder)."),
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store the policies, teams, key scopes, mirrors and attachments of files; without --prune nothing is removed.

    Nothing is changed if a file is not valid. A failed change ends the command with a list of the changes before it. A
    declared API key that does not exist is not made, because no file may hold its secret: the exit code is 1 until
    `slipway keys issue` makes it.
    """
    declared = read_declarations(file)
    target = Installation(find_stack(state), state, folder)
    changes, surplus = plan(target, declared, prune=prune)
    if not dry_run:
        make_all(target, declared, changes)
    _show(declared, changes, surplus, applied=not dry_run, prune=prune, as_json=as_json)
    if dry_run and changes:
        raise typer.Exit(int(Exit.DIFFERENT))
    missing = [change.name for change in changes if change.action == "issue"]
    if missing:
        raise CommandError(f"there is no valid API key {', '.join(missing)}; issue it with `slipway keys issue NAME`")


def _show(
    declared: Declarations,
    changes: Sequence[Change],
    surplus: Sequence[Key],
    *,
    applied: bool,
    prune: bool,
    as_json: bool,
) -> None:
    if as_json:
        listed = [as_data(change, declared) for change in changes]
        others = [{"kind": kind, "name": name} for kind, name in surplus]
        show_json({"different": bool(changes), "applied": applied, "changes": listed, "undeclared": others})
        return
    for change in changes:
        show_line(f"{SIGNS[change.action]} {change.kind} {change.name}{_place(change, declared)}")
        for difference in change.differences:
            show_line(f"    {difference}")
    made = [change for change in changes if change.action != "issue"]
    if not changes:
        show_line(f"no difference: {len(declared.values)} declared, all as they are in the installation")
    elif applied:
        show_line(f"{len(made)} changed, {len(declared.values) - len(changes)} unchanged")
    else:
        show_line(f"{len(changes)} would be changed; `slipway apply` changes them")
    if surplus and not prune:
        warn(
            f"not declared, and left as they are: {', '.join(f'{kind} {name}' for kind, name in surplus)}; see --prune"
        )


def _place(change: Change, declared: Declarations) -> str:
    place = declared.places.get((change.kind, change.name))
    if change.action == "issue":
        return f"  ({place.file}:{place.line}) is to be issued by a person" if place is not None else ""
    return f"  ({place.file}:{place.line})" if place is not None else "  (not declared)"
