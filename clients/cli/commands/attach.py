"""`slipway attach` and `detach`: release a model into servers of the OpenAI API that exist."""

import asyncio
from typing import Annotated

import typer
from pydantic import ValidationError

from clients.cli.connection import StackAddress, find_stack, on_bus
from clients.cli.errors import CommandError, Exit
from clients.cli.options import JsonOption, ModelArgument, StateOption
from clients.cli.output import show_result
from clients.cli.record_orders import bucket_of, order_record
from contracts.attachments import Attachment
from shared.storage.record_format import parse

GroupOption = Annotated[str, typer.Option("--group", metavar="NAME", help="Name of the group.")]


def attach(
    model: ModelArgument,
    *,
    url: Annotated[
        list[str],
        typer.Option("--url", metavar="URL", help="Address of a replica, such as http://gpu-1:8000; repeatable."),
    ],
    group: GroupOption = "default",
    key: Annotated[
        str,
        typer.Option("--key", metavar="NAME", help="Name of their key in the file SLIPWAY_SERVER_KEYS."),
    ] = "",
    adapters: Annotated[
        str | None,
        typer.Option(
            "--adapters", metavar="FOLDER", help="Folder of LoRAs, by the path that these vLLM see; empty: none."
        ),
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Release a model into servers that you run: vLLM's own, or any other server of the OpenAI API.

    Slipway neither starts nor stops them. A staged release waits until all replicas of a group answer by the version's
    name, such as support-bot.v7.bf16 (vLLM: --served-model-name). With two groups, one serves while the other gets the
    next version. The addresses of the group are replaced. With --adapters, vLLM servers of the base model load each
    version as a LoRA from that folder (`serve: adapter`).
    """
    urls = tuple(_address(each, key) for each in url)
    asyncio.run(_change(find_stack(state), model, group, urls, adapters))
    replicas = f"{len(urls)} replica{'s' if len(urls) > 1 else ''}"
    line = f"{model} is released into {replicas} of the group {group}: {', '.join(urls)}"
    show_result({"model": model, "group": group, "urls": urls}, line, as_json=as_json)


def detach(
    model: ModelArgument, *, group: GroupOption = "default", state: StateOption = None, as_json: JsonOption = False
) -> None:
    """Detach a group of servers. It is refused while the group serves a version in traffic, or its fallback."""
    asyncio.run(_change(find_stack(state), model, group, ()))
    line = f"the group {group} of {model} is detached; its servers run on"
    show_result({"model": model, "group": group, "urls": ()}, line, as_json=as_json)


def _address(url: str, key: str) -> str:
    """Return an address as it is stored: without the `/v1` of its paths, and with the name of its key."""
    scheme, _, host = url.rstrip("/").removesuffix("/v1").rpartition("://")
    return f"{scheme}://{key}@{host}" if key else f"{scheme}://{host}"


async def _change(
    stack: StackAddress, model: str, group: str, urls: tuple[str, ...], adapters: str | None = None
) -> None:
    """Order a new attachment of a model: the addresses of a group, and the folder of adapters unless it is None."""
    async with on_bus(stack) as js:
        entry = await bucket_of(js, "attachment").raw(model)
        before = entry[1] if entry is not None else None
        stored = parse(Attachment, before, f"attachments/{model}") if before is not None else None
        groups = dict(stored.groups) if stored is not None else {}
        folder = (stored.adapters if stored is not None else None) if adapters is None else adapters or None
        if not urls and group not in groups:
            known = ", ".join(sorted(groups)) or "none"
            raise CommandError(f"{model} has no attached group {group}; it has {known}", Exit.USAGE)
        groups.pop(group, None)
        if urls:
            groups[group] = urls
        try:
            record = Attachment(model=model, groups=groups, adapters=folder) if groups else None
        except ValidationError as error:
            problems = "; ".join(f"{each['input']}: {each['msg']}" for each in error.errors())
            raise CommandError(f"the attachment is not valid: {problems}", Exit.USAGE) from error
        await order_record(js, stack, "attachment", model, record=record, before=before)
