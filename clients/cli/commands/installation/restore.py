"""`slipway restore`: restore a backup into an empty installation."""

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from clients.cli.backup.folder import Folder, FolderArgument
from clients.cli.backup.restoring import Chosen, choose, put_back, verify
from clients.cli.commands.installation.stack import NatsOption, folder_of, inherited_variables, parse_nats
from clients.cli.connection import find_stack
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import CommandError, Exit, show_result, size_text
from clients.cli.settings import CliSettings
from deploy.local import bus
from deploy.local.plan import StackConfig
from deploy.local.servers import ServersOnly
from deploy.local.state import AlreadyUp, StateFolder, new_description
from deploy.local.supervisor import CannotStart, Options, default_engine_root, programs_of
from deploy.local.view import View
from shared.runtime.clock import SystemClock


def restore(
    source: FolderArgument,
    *,
    backup: Annotated[
        str | None, typer.Option("--backup", metavar="NAME", help="The backup in that folder (default: the newest).")
    ] = None,
    digest: Annotated[
        str | None, typer.Option("--digest", metavar="sha256:…", help="Refuse a manifest with another digest.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read and verify the whole backup, and change nothing.")
    ] = False,
    nats: NatsOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Restore a backup into an empty installation without running services.

    Bus and store of the stack on this machine are started for the restore. It takes an administrator's credential.
    """
    if check and nats is not None:
        raise CommandError("--nats changes nothing with --check; leave one of them out", Exit.USAGE)
    chosen = choose(Folder(source.absolute()), backup, digest)
    size = verify(chosen)
    manifest = chosen.manifest
    if not check:
        is_elsewhere = state is None and CliSettings().nats_url is not None
        folder = None if is_elsewhere else folder_of(state)
        if folder is None and nats is not None:
            raise CommandError("--nats is for the stack on this machine: the servers elsewhere are there", Exit.USAGE)
        if folder is not None and folder.is_held():
            raise CommandError(f"a stack is up in {folder.shown}; stop it with `slipway down`")
        _restore(folder, chosen, nats)
    facts = {"backup": manifest.name(), "digest": chosen.digest, "objects": manifest.object_count, "bytes": size}
    done = "is whole" if check else "was restored; start the services now, for the stack here with `slipway up`"
    line = f"backup {manifest.name()} of {source} with {size_text(size)} {done}"
    show_result({**facts, "restored": not check}, line, as_json=as_json)


def note_shape(folder: StateFolder, chosen: Chosen, nats: int | None = None) -> int:
    """Write the ports, Tritons and NATS servers of the old stack into the description of the new stack.

    Returns:
        The number of NATS servers: `nats`, by default the old stack's.
    """
    folder.create()
    description, manifest = folder.read_description(), chosen.manifest
    if description is not None:
        return parse_nats(nats, description, stored=bus.has_stored(folder.path))
    size = nats or len(bus.servers_in(manifest.ports)) or bus.SIZES[0]
    ports = bus.resized(manifest.ports, parse_nats(size, None, stored=False))
    folder.write_description(replace(new_description(), ports=ports, tritons=manifest.tritons))
    return size


def _restore(folder: StateFolder | None, chosen: Chosen, nats: int | None) -> None:
    clock = SystemClock()

    async def work() -> None:
        await put_back(find_stack(None if folder is None else folder.path), chosen, clock)

    if folder is None:
        asyncio.run(work())
        return
    size = note_shape(folder, chosen, nats)
    options = Options(
        StackConfig(default_tritons=chosen.manifest.tritons, nats=size),
        programs_of(Path(sys.executable)),
        default_engine_root(),
        inherited_variables(os.environ),
    )
    servers = ServersOnly(folder, options, View(quiet=True), clock, work)
    try:
        asyncio.run(servers.run())
    except AlreadyUp:
        raise CommandError(f"a stack is up in {folder.shown}; stop it with `slipway down`") from None
    except CannotStart as error:
        raise CommandError(str(error)) from error
    if not servers.completed:
        raise CommandError("the restore was interrupted")
