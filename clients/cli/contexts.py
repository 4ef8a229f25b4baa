"""Contexts: named installations, in a file of the user that holds addresses and names of files, and no secret."""

import os
import re
import stat
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Self

import typer
import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from clients.cli.errors import CommandError, Exit
from contracts.vocabulary import MODEL_NAME_PATTERN, MODEL_NAME_RULE, Environment
from shared.runtime.files import replacing

FILE = "contexts.yaml"
ContextName = Annotated[str, StringConstraints(pattern=MODEL_NAME_PATTERN)]
Address = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^\S+$")]
_SECRET = re.compile(
    r"(?:^|[^A-Z0-9])S[UAOCNX][A-Z2-7]{56}(?:$|[^A-Z0-9])|-----BEGIN|^sk-[A-Za-z0-9_-]{20,}|^eyJ[\w-]{20,}"
)
"""Seeds of NATS keys, PEM blocks, keys of the API, tokens of an identity provider."""
_requested: ContextVar[str | None] = ContextVar("requested", default=None)


class Context(BaseModel):
    """An installation: addresses, and the files that hold its secrets and authorities."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nats_url: Address | None = None
    nats_credentials: Path | None = None
    nats_ca: Path | None = None
    s3_endpoint: Address | None = None
    s3_credentials: Path | None = None
    s3_ca: Path | None = None
    s3_bucket: Address | None = None
    s3_region: Address | None = None
    attesters: Path | None = None
    teams: Path | None = None
    gateway_url: Address | None = None
    gateway_key: Path | None = None
    gateway_ca: Path | None = None
    console_url: Address | None = None
    state: Path | None = None
    environment: Environment = "production"

    @model_validator(mode="before")
    @classmethod
    def _holds_no_secret(cls, given: Any) -> Any:
        for name, value in given.items() if isinstance(given, Mapping) else ():
            if isinstance(value, str | Path) and holds_secret(str(value)):
                msg = f"{name} holds a secret; write it to a file that only you can read, and name the file"
                raise ValueError(msg)
        return given

    @field_validator("nats_url", "gateway_url", "console_url", "s3_endpoint")
    @classmethod
    def _has_no_password(cls, address: str | None) -> str | None:
        if address is not None and ("@" in address or "?" in address):
            msg = "the address has a user, a password or a query; name the file of a credential instead"
            raise ValueError(msg)
        return address

    @model_validator(mode="after")
    def _leads_to_a_bus(self) -> Self:
        if (self.nats_url is None) == (self.state is None):
            msg = "name the address of a bus (--nats-url), or the state folder of an embedded stack (--state)"
            raise ValueError(msg)
        return self

    @property
    def address(self) -> str:
        """Return what it leads to, for people."""
        return self.nats_url if self.nats_url is not None else str(self.state)


class Contexts(BaseModel):
    """The file of contexts, and the name of the one that commands use without being told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    current: ContextName | None = None
    contexts: Annotated[dict[ContextName, Context], Field(max_length=500)] = {}


def holds_secret(text: str) -> bool:
    """Return whether a text looks like a seed of NATS, a private key, a key of the API, or a token."""
    return _SECRET.search(text) is not None


def contexts_file() -> Path:
    """Return the path of the file, in the user's folder of configuration."""
    return Path(typer.get_app_dir("slipway")) / FILE


def read_contexts(path: Path | None = None) -> Contexts:
    """Return the contexts; none if there is no file.

    Raises:
        CommandError: the file cannot be read, another user may write it, or it is not valid.
    """
    path = path or contexts_file()
    try:
        with path.open() as file:
            about = os.fstat(file.fileno())
            text = file.read()
    except FileNotFoundError:
        return Contexts()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"the contexts in {path} cannot be read: {error}") from error
    if about.st_uid not in (os.getuid(), 0) or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CommandError(
            f"{path} may be written by other users, who could send your orders elsewhere: run chmod 600 {path}"
        )
    try:
        return Contexts.model_validate(yaml.safe_load(text) or {})
    except (yaml.YAMLError, ValidationError) as error:
        raise CommandError(f"the contexts in {path} are not valid: {_problem(error)}", Exit.USAGE) from error


def write_contexts(contexts: Contexts, path: Path | None = None) -> None:
    """Replace the file of contexts at once; only its owner may read it.

    Raises:
        CommandError: it cannot be written.
    """
    path = path or contexts_file()
    text = yaml.safe_dump(contexts.model_dump(mode="json", exclude_none=True), sort_keys=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise CommandError(f"the contexts cannot be written to {path}: {error}") from error


def make_context(name: str, values: Mapping[str, Any]) -> Context:
    """Return a context of these values; relative files are taken from the current folder.

    Raises:
        CommandError: the name or a value is not valid.
    """
    if re.match(MODEL_NAME_PATTERN, name) is None:
        raise CommandError(f"the context name {name!r} is not valid: {MODEL_NAME_RULE}", Exit.USAGE)
    given = {key: value.absolute() if isinstance(value, Path) else value for key, value in values.items()}
    try:
        return Context.model_validate({key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        raise CommandError(f"the context {name} is not valid: {_problem(error)}", Exit.USAGE) from error


def request_context(name: str | None) -> None:
    """Note the context that --context names; it comes before all others."""
    _requested.set(name)


def requested_context() -> str | None:
    """Return the context that --context named."""
    return _requested.get()


def named_context(name: str, contexts: Contexts | None = None) -> Context:
    """Return a context by its name.

    Raises:
        CommandError: there is none of that name.
    """
    from clients.cli.releases.names import nearest

    known = (contexts or read_contexts()).contexts
    if name not in known:
        hint = f"{nearest(name, known)} See".strip() if nearest(name, known) else "see"
        raise CommandError(f"there is no context {name!r}; {hint} `slipway context list`", Exit.USAGE)
    return known[name]


def _problem(error: Exception) -> str:
    from clients.cli.parsing import describe_problems

    return describe_problems(error, "context") if isinstance(error, ValidationError) else " ".join(str(error).split())
