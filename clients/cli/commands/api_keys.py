"""`slipway keys issue|issued|revoke`: keys that callers of the gateway present."""

import asyncio
import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import typer
from pydantic import ValidationError

from clients.cli.commands.orders import current_user
from clients.cli.connection import JsonOption, StackAddress, StateOption, connected, find_stack
from clients.cli.output import CommandError, Exit, show_json, show_line, show_table
from clients.cli.parsing import check_model, describe_problems, parse_duration
from contracts.api_keys import KEY_ID_PATTERN, ApiKey
from contracts.vocabulary import Environment
from decisions.api_keys import SECRET_BYTES, digest_of_secret, format_key
from shared.errors import Transient
from shared.runtime.clock import SystemClock
from shared.storage.kv import Bucket, Conflict

BUCKET = "api-keys"
ID_BYTES = 6
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="What the key is for, or whose it is.")]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="Id of the key: see `slipway keys issued`.")]


def issue(
    name: NameArgument,
    *,
    model: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="Model that the key opens; repeatable (default: all).")
    ] = None,
    staging: Annotated[bool, typer.Option("--staging", help="The key opens staging instead of production.")] = False,
    both: Annotated[bool, typer.Option("--both", help="The key opens production and staging.")] = False,
    requests_per_minute: Annotated[int | None, typer.Option(metavar="N", help="Most requests in a minute.")] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(metavar="N", help="Most tokens of prompts and answers in a minute.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(metavar="N", help="Most requests at the same time.")] = None,
    expires: Annotated[str | None, typer.Option(metavar="90d", help="When the key ends (default: never).")] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Issue a key for the API of the gateway. It is shown once: only its digest is stored."""
    if staging and both:
        raise CommandError("--staging and --both exclude each other", Exit.USAGE)
    for name_of_model in model or []:
        check_model(name_of_model)
    now = SystemClock().now()
    secret = secrets.token_hex(SECRET_BYTES)
    environments: tuple[Environment, ...] = (
        ("production", "staging") if both else ("staging",) if staging else ("production",)
    )
    try:
        record = ApiKey.model_validate(
            {
                "key_id": secrets.token_hex(ID_BYTES),
                "name": name,
                "secret_digest": digest_of_secret(secret),
                "models": tuple(model or ()),
                "environments": environments,
                "limits": {
                    "requests_per_minute": requests_per_minute,
                    "tokens_per_minute": tokens_per_minute,
                    "concurrency": concurrency,
                },
                "issued_at": now,
                "issued_by": current_user(),
                "expires_at": now + parse_duration(expires) if expires else None,
            }
        )
    except ValidationError as error:
        raise CommandError(f"the key is not valid: {describe_problems(error, 'key')}", Exit.USAGE) from error
    asyncio.run(_store(find_stack(state), record))
    key = format_key(record.key_id, secret)
    if as_json:
        show_json({"key": key, **record.model_dump(mode="json", exclude={"secret_digest"})})
        return
    show_line(key)
    show_line(f"This is the only time that it is shown. Revoke it with `slipway keys revoke {record.key_id}`.")


def issued(state: StateOption = None, as_json: JsonOption = False) -> None:
    """List the keys of the API that were issued, the newest last; no secret is stored."""
    records, problems = asyncio.run(_all(find_stack(state)))
    if as_json:
        show_json([record.model_dump(mode="json", exclude={"secret_digest"}) for record in records])
    else:
        now = SystemClock().now()
        columns = ["id", "name", "models", "environments", "limits", "issued", "by", "state"]
        show_table(columns, [_row(record, now) for record in records])
    if problems:
        raise CommandError(f"the list is not complete: {' '.join(problems)}")


def revoke(key_id: IdArgument, state: StateOption = None) -> None:
    """Revoke a key of the API: every gateway refuses it within a second."""
    if re.fullmatch(KEY_ID_PATTERN, key_id) is None:
        raise CommandError(
            f"the id {key_id!r} is not valid: it has 12 hexadecimal digits; see `slipway keys issued`", Exit.USAGE
        )
    record = asyncio.run(_revoke(find_stack(state), key_id))
    show_line(f"revoked {key_id} ({record.name}); requests in progress end normally")


async def _store(stack: StackAddress, record: ApiKey) -> None:
    async with connected(stack) as client:
        await Bucket(client.jetstream(timeout=10), BUCKET, ApiKey).create(record.key_id, record)


async def _all(stack: StackAddress) -> tuple[Sequence[ApiKey], Sequence[str]]:
    """Return the keys, the oldest first, and why others cannot be read."""
    records, problems = [], []
    async with connected(stack) as client:
        bucket = Bucket(client.jetstream(timeout=10), BUCKET, ApiKey)
        for key_id in await bucket.keys():
            try:
                entry = await bucket.get(key_id)
            except Transient as error:
                problems.append(error.reason)
                continue
            records += [entry.value] if entry is not None else []
    return sorted(records, key=lambda record: record.issued_at), problems


async def _revoke(stack: StackAddress, key_id: str) -> ApiKey:
    async with connected(stack) as client:
        bucket = Bucket(client.jetstream(timeout=10), BUCKET, ApiKey)
        entry = await bucket.get(key_id)
        if entry is None:
            raise CommandError(f"there is no key {key_id}; see `slipway keys issued`")
        if entry.value.revoked_at is not None:
            return entry.value
        record = entry.value.model_copy(update={"revoked_at": SystemClock().now()})
        try:
            await bucket.update(key_id, record, entry.revision)
        except Conflict:
            raise CommandError(
                f"{key_id} was changed at the same time; see `slipway keys issued`, then try again"
            ) from None
    return record


def _row(record: ApiKey, now: datetime) -> list[str]:
    limits = [
        f"{limit:,} {unit}"
        for limit, unit in (
            (record.limits.requests_per_minute, "requests/min"),
            (record.limits.tokens_per_minute, "tokens/min"),
            (record.limits.concurrency, "at once"),
        )
        if limit is not None
    ]
    return [
        record.key_id,
        record.name,
        ", ".join(record.models) or "all",
        ", ".join(record.environments),
        ", ".join(limits) or "none",
        f"{record.issued_at:%Y-%m-%d %H:%M}",
        record.issued_by,
        _state(record, now),
    ]


def _state(record: ApiKey, now: datetime) -> str:
    if record.revoked_at is not None:
        return f"revoked {record.revoked_at:%Y-%m-%d %H:%M}"
    if record.expires_at is None:
        return "valid"
    return f"{'expired' if now >= record.expires_at else 'until'} {record.expires_at:%Y-%m-%d %H:%M}"
