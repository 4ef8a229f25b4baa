"""Policies, teams, key scopes, mirrors and attachments as YAML or JSON files declare them, with their lines."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from clients.cli.declared_state import Key, Kind
from clients.cli.errors import CommandError, Exit
from clients.cli.releases.names import nearest
from clients.cli.yaml_source import Document, InvalidError, Problem, read_documents
from contracts.api_keys import ApiKey, KeyLimits
from contracts.attachments import Attachment
from contracts.mirrors import Mirror
from contracts.policy import ReleasePolicy
from contracts.teams import TeamQuota
from contracts.vocabulary import Environment, IdentityName, Instant, ModelName
from decisions.policies.problems import list_problems

SUFFIXES = (".yaml", ".yml", ".json")
MOST_FILES = 1000
COMPARED: Final[Mapping[Kind, Callable[[Any], dict[str, Any]]]] = {
    "Policy": lambda policy: policy.model_dump(mode="json"),
    "Team": lambda team: {
        "models": sorted(team.models),
        "quota": team.quota.model_dump(mode="json", exclude_none=True),
    },
    "ApiKey": lambda key: {
        "models": sorted(key.models),
        "team": key.team,
        "environments": sorted(key.environments),
        "limits": key.limits.model_dump(mode="json", exclude_none=True),
        "expires_at": None if key.expires_at is None else key.expires_at.isoformat(),
    },
    "Mirror": lambda mirror: {
        "models": sorted(mirror.models),
        "without": sorted(mirror.without),
        "paused": mirror.paused,
    },
    "Attachment": lambda attachment: attachment.model_dump(mode="json", include={"groups", "adapters"}),
}
"""The data by which a declaration and the installation's record are compared, by kind."""


class Declared(BaseModel):
    """A declaration: a record of the installation with its kind, and no field that the contract does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    NAMED_BY: ClassVar[str] = "name"

    kind: Kind

    @property
    def key(self) -> Key:
        """Kind and name."""
        return (self.kind, getattr(self, self.NAMED_BY))

    def record(self) -> Any:
        """Return the record to compare, and to store unless it is a team or the scope of keys."""
        return self


class _Limits(KeyLimits):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Quota(TeamQuota):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DeclaredPolicy(Declared):
    """The stored policy of a model."""

    NAMED_BY = "model"

    kind: Literal["Policy"]
    model: ModelName
    policy: ReleasePolicy

    def record(self) -> ReleasePolicy:
        """Return the policy."""
        return self.policy


class DeclaredTeam(Declared):
    """A team, its models and its quota; members are made with `slipway keys add`."""

    kind: Literal["Team"]
    name: IdentityName
    models: Annotated[tuple[ModelName, ...], Field(min_length=1)]
    quota: _Quota = _Quota()


class DeclaredApiKey(Declared):
    """The scope of the valid API keys of a name; no file holds a key."""

    kind: Literal["ApiKey"]
    name: IdentityName
    models: tuple[ModelName, ...] = ()
    team: IdentityName | None = None
    environments: Annotated[tuple[Environment, ...], Field(min_length=1)] = ("production",)
    limits: _Limits = _Limits()
    expires_at: Instant | None = None

    @model_validator(mode="after")
    def _opens_something(self) -> "DeclaredApiKey":
        if not self.models and self.team is None:
            raise ValueError(
                "a key that opens all models of the installation is not declared in files: name models or a team"
            )
        return self


class DeclaredMirror(Mirror, Declared):
    """Which models a registry outside shows; its address and secrets are settings of the mirror."""

    model_config = ConfigDict(extra="forbid")
    NAMED_BY = "registry"

    kind: Literal["Mirror"]

    def record(self) -> Mirror:
        """Return the mirror without its kind."""
        return Mirror.model_validate(self.model_dump(exclude={"kind"}))


class DeclaredAttachment(Attachment, Declared):
    """The servers that a model is released into."""

    model_config = ConfigDict(extra="forbid")
    NAMED_BY = "model"

    kind: Literal["Attachment"]

    def record(self) -> Attachment:
        """Return the attachment without its kind."""
        return Attachment.model_validate(self.model_dump(exclude={"kind"}))


TYPES: Final[Mapping[str, type[Declared]]] = {
    "Policy": DeclaredPolicy,
    "Team": DeclaredTeam,
    "ApiKey": DeclaredApiKey,
    "Mirror": DeclaredMirror,
    "Attachment": DeclaredAttachment,
}


@dataclass(frozen=True)
class Declarations:
    """The declarations of files, with their positions."""

    values: Mapping[Key, Declared] = field(default_factory=dict)
    places: Mapping[Key, Problem] = field(default_factory=dict)

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of the declarations."""
        return frozenset(kind for kind, _ in self.values)

    def as_data(self) -> dict[Key, dict[str, Any]]:
        """Return the data for comparison."""
        return {key: COMPARED[value.kind](value.record()) for key, value in self.values.items()}


def is_declarable(record: ApiKey) -> bool:
    """Return whether a file can declare an API key's scope; not if the key opens all models of the installation."""
    return bool(record.models) or record.team is not None


def scopes_of(records: Iterable[ApiKey], declared: Mapping[Key, Mapping[str, Any]]) -> dict[Key, dict[str, Any]]:
    """Return the scopes of keys by name, without keys that files cannot declare, unless they are declared.

    Several keys may have a name: then a scope that differs from the declaration counts.
    """
    scopes: dict[Key, dict[str, Any]] = {}
    for record in records:
        key: Key = ("ApiKey", record.name)
        if (key in declared or is_declarable(record)) and (key not in scopes or scopes[key] == declared.get(key)):
            scopes[key] = COMPARED["ApiKey"](record)
    return scopes


def read_declarations(paths: Sequence[Path]) -> Declarations:
    """Return the declarations of files, and of the YAML and JSON files below folders.

    Raises:
        InvalidError: A declaration is not valid, or is given twice.
        CommandError: There is no file, or a file cannot be read.
    """
    values: dict[Key, Declared] = {}
    places: dict[Key, Problem] = {}
    problems: list[Problem] = []
    documents = [(file, read_documents(file)) for file in _files(paths)]
    for document in (each for _, listed in documents for each in listed):
        declared = _parse(document, problems)
        if declared is None:
            continue
        if declared.key in values:
            first = places[declared.key]
            problems.append(document.problem(f"it is declared in {first.file}:{first.line}, too: declare it once"))
        values.setdefault(declared.key, declared)
        places.setdefault(declared.key, document.problem(""))
    if problems:
        raise InvalidError(problems)
    return Declarations(values, places)


def _files(paths: Iterable[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            below = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
            files += [file for file in below if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        else:
            files.append(path)
    if not files:
        raise CommandError(f"{', '.join(map(str, paths))} has no file of {', '.join(SUFFIXES)}: name one", Exit.USAGE)
    if len(files) > MOST_FILES:
        raise CommandError(
            f"there are {len(files)} files, more than {MOST_FILES}: name a folder with fewer", Exit.USAGE
        )
    return files


def _parse(document: Document, problems: list[Problem]) -> Declared | None:
    kind: Any = document.data.get("kind") if isinstance(document.data, dict) else None
    if kind not in TYPES:
        near = nearest(str(kind), TYPES)
        message = f"the kind {kind!r} is unknown: {f'{near} Use' if near else 'use'} {', '.join(TYPES)}"
        problems.append(document.problem(message, "kind"))
        return None
    try:
        declared = TYPES[kind].model_validate(document.data)
    except ValidationError as error:
        problems += document.problems(error, TYPES[kind])
        return None
    if isinstance(declared, DeclaredPolicy):
        invalid = list_problems(declared.policy)
        problems += [document.problem(each.reason, "policy", *each.field) for each in invalid]
    return declared
