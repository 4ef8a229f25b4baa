"""`slipway keys issue|revoke`, and a part of `keys list`: API keys of callers of the gateway."""

import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from nats.js import JetStreamContext
from pydantic import ValidationError

from clients.cli.commands.orders import UnansweredError
from clients.cli.connection import StackAddress, ask_bus, find_stack, sender_of
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import CommandError, Exit, show_json, show_line, show_table
from clients.cli.parsing import check_model, describe_problems, parse_duration
from clients.cli.record_orders import bucket_of, order_record, revoked
from contracts.api_keys import KEY_ID_PATTERN, ApiKey
from contracts.api_usage import TEAM_PREFIX, MonthlyUsage
from contracts.vocabulary import Environment
from decisions.access.api_keys import DEFAULT_LIMITS, ID_BYTES, SECRET_BYTES, digest_of_secret, format_key, pseudonym
from decisions.access.token_budgets import month_of
from decisions.rollback.orders import LONGEST_ORDER
from shared.errors import Transient
from shared.runtime.clock import SystemClock
from shared.storage.kv import Bucket
from shared.storage.record_format import dump

USAGE = "api-usage"
ISSUED_WITHIN = timedelta(minutes=1)
"""Validity of the order for a key: without an answer the command discards the key."""


def issue(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for, or whose it is.")],
    *,
    model: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="Model that the key opens; repeatable (default: all).")
    ] = None,
    team: Annotated[
        str | None,
        typer.Option(
            metavar="TEAM",
            help="Team whose models the key opens at most (slipway keys team; default: none, and all keys of this NAME "
            "count as one caller).",
        ),
    ] = None,
    staging: Annotated[bool, typer.Option("--staging", help="The key opens staging instead of production.")] = False,
    both: Annotated[bool, typer.Option("--both", help="The key opens production and staging.")] = False,
    requests_per_minute: Annotated[
        int | None,
        typer.Option(metavar="N", help=f"Most requests in a minute (default: {DEFAULT_LIMITS.requests_per_minute})."),
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(metavar="N", help="Most tokens of prompts and answers in a minute.")
    ] = None,
    tokens_per_month: Annotated[
        int | None, typer.Option(metavar="N", help="Budget of tokens in each calendar month (UTC).")
    ] = None,
    unlimited: Annotated[bool, typer.Option("--unlimited", help="Only the limits that are named, no default.")] = False,
    evidence: Annotated[
        bool, typer.Option(help="Whether its requests are evidence about the versions that answer them.")
    ] = True,
    expires: Annotated[str | None, typer.Option(metavar="90d", help="When the key ends (default: never).")] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the key to a new file that only you can read.")
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Issue a key for the API of the gateway. The key is shown once: only its digest is stored."""
    environments, models = _environments(staging=staging, both=both), tuple(model or ())
    for name_of_model in models:
        check_model(name_of_model)
    stack, secret = find_stack(state), secrets.token_hex(SECRET_BYTES)
    named = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "tokens_per_month": tokens_per_month,
    }
    limits = {} if unlimited else DEFAULT_LIMITS.model_dump()
    limits.update({limit: most for limit, most in named.items() if most is not None})
    fields = {"name": name, "models": models, "team": team, "environments": environments, "limits": limits}
    record = _make_record({**fields, "evidence": evidence, "issued_by": sender_of(stack)}, secret, expires)
    key = format_key(record.key_id, secret)
    if output is not None:
        _write_new(output, key)
    try:
        ask_bus(stack, lambda js: _store(js, stack, record))
    except Exception:
        if output is not None:
            output.unlink()
        raise
    _show_key(record, key, output, as_json=as_json)


def _environments(*, staging: bool, both: bool) -> tuple[Environment, ...]:
    if staging and both:
        raise CommandError("--staging and --both exclude each other", Exit.USAGE)
    return ("production", "staging") if both else ("staging",) if staging else ("production",)


def _make_record(fields: Mapping[str, Any], secret: str, expires: str | None) -> ApiKey:
    """Return the record of a new key; raise CommandError if a field is not valid."""
    now = SystemClock().now()
    given = {
        **fields,
        "key_id": secrets.token_hex(ID_BYTES),
        "secret_digest": digest_of_secret(secret),
        "issued_at": now,
        "expires_at": now + parse_duration(expires) if expires else None,
    }
    try:
        return ApiKey.model_validate(given)
    except ValidationError as error:
        raise CommandError(f"the key is not valid: {describe_problems(error, 'key')}", Exit.USAGE) from error


def _show_key(record: ApiKey, key: str, output: Path | None, *, as_json: bool) -> None:
    """Print an issued API key, or the path of the file that holds it."""
    if as_json:
        show_json({"key": key if output is None else str(output), **as_plain(record)})
        return
    if output is not None:
        show_line(f"the key is in {output}; revoke it with `slipway keys revoke {record.key_id}`")
        return
    show_line(key)
    show_line(f"This is the only time that it is shown. Revoke it with `slipway keys revoke {record.key_id}`.")


@dataclass(frozen=True)
class Listing:
    """API keys, oldest first, with their use this month, and the reasons why the list is incomplete."""

    keys: Sequence[ApiKey]
    usage: Mapping[str, MonthlyUsage]
    problems: Sequence[str]


def read_issued(state: Path | None, installed: Mapping[str, ApiKey]) -> Listing:
    """Return the API keys in the bucket and the initial API keys of an installation.

    Args:
        state: The state folder of the stack; None for the default.
        installed: The initial API keys by id; the bucket has the revoked ones.
    """
    try:
        listing = ask_bus(find_stack(state), _all)
    except CommandError as error:
        listing = Listing([], {}, [str(error)])
    records = {**installed, **{record.key_id: record for record in listing.keys}}
    return replace(listing, keys=sorted(records.values(), key=lambda record: record.issued_at))


def show_issued(listing: Listing) -> None:
    """Print a table of API keys without secrets, then the tokens of each team this month."""
    now = SystemClock().now()
    columns = ["id", "name", "models", "environments", "limits", "tokens this month", "issued", "by", "state"]
    show_table(columns, [_row(record, listing.usage.get(record.key_id), now) for record in listing.keys])
    for team, tokens in team_usage(listing).items():
        show_line(f"all keys of the team {team} used {tokens:,} tokens this month")


def team_usage(listing: Listing) -> dict[str, int]:
    """Return the tokens of each team this month."""
    teams = {name: used for name, used in listing.usage.items() if name.startswith(TEAM_PREFIX)}
    return {name.removeprefix(TEAM_PREFIX): used.tokens for name, used in sorted(teams.items())}


def as_plain(record: ApiKey, usage: MonthlyUsage | None = None) -> dict[str, Any]:
    """Return a key as JSON data with its pseudonym and its use this month, without the digest of its secret."""
    used = {"month": usage.month, "tokens": usage.tokens, "requests": usage.requests} if usage is not None else None
    caller = pseudonym(record.key_id)
    return {**record.model_dump(mode="json", exclude={"secret_digest"}), "caller": caller, "used": used}


def revoke_key(key_id: str, state: Path | None, installed: Mapping[str, ApiKey]) -> None:
    """Revoke an API key in the bucket, or an initial API key."""
    if re.fullmatch(KEY_ID_PATTERN, key_id) is None:
        raise CommandError(
            f"the id {key_id!r} is not valid: it has 12 hexadecimal digits; see `slipway keys list`", Exit.USAGE
        )
    stack = find_stack(state)
    record = ask_bus(stack, lambda js: _revoke(js, stack, key_id, installed))
    show_line(f"revoked {key_id} ({record.name}); requests in progress end normally")


async def _store(js: JetStreamContext, stack: StackAddress, record: ApiKey) -> None:
    try:
        await order_record(js, stack, "api-key", record.key_id, record=record, before=None, valid=ISSUED_WITHIN)
    except UnansweredError as error:
        raise CommandError(f"{error}; if the key {record.key_id} is listed then, revoke it") from error


async def _all(js: JetStreamContext) -> Listing:
    """Return the API keys in the bucket with their use, and the reasons for unreadable keys."""
    records, problems = [], []
    month = month_of(SystemClock().now())
    bucket = bucket_of(js, "api-key")
    for key_id in await bucket.keys():
        try:
            entry = await bucket.get(key_id)
        except Transient as error:
            problems.append(error.reason)
            continue
        records += [entry.value] if entry is not None else []
    entries = await Bucket(js, USAGE, MonthlyUsage).all()
    usage = {account: entry.value for account, entry in entries.items() if entry.value.month == month}
    return Listing(records, usage, problems)


async def _revoke(js: JetStreamContext, stack: StackAddress, key_id: str, installed: Mapping[str, ApiKey]) -> ApiKey:
    entry = await bucket_of(js, "api-key").get(key_id)
    known = entry.value if entry is not None else installed.get(key_id)
    if known is None:
        raise CommandError(f"there is no key {key_id}; see `slipway keys list`")
    if known.revoked_at is None:
        stored = dump(entry.value) if entry is not None else None
        await order_record(js, stack, "api-key", key_id, record=revoked(known), before=stored, valid=LONGEST_ORDER)
    return known


def _write_new(path: Path, key: str) -> None:
    """Write a key to a new file that only its owner may read."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise CommandError(f"the key cannot be written to {path}: {error}; name a new file") from error
    with os.fdopen(handle, "w") as file:
        file.write(f"{key}\n")


def _row(record: ApiKey, usage: MonthlyUsage | None, now: datetime) -> list[str]:
    limits = [
        f"{limit:,} {unit}"
        for limit, unit in (
            (record.limits.requests_per_minute, "requests/min"),
            (record.limits.tokens_per_minute, "tokens/min"),
            (record.limits.tokens_per_month, "tokens/month"),
        )
        if limit is not None
    ]
    return [
        record.key_id,
        record.name,
        ", ".join(record.models) or (f"all of {record.team}" if record.team is not None else "all"),
        ", ".join(record.environments),
        ", ".join(limits) or "none",
        f"{usage.tokens:,}" if usage is not None else "0",
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
