"""Declarations in files: policies, teams, key scopes, mirrors, attachments. Read with lines, compared as JSON."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from clients.cli.declared_state import Key, Kind
from clients.cli.errors import CommandError, Exit
from clients.cli.releases.names import nearest
from clients.cli.yaml_source import Document, InvalidError, Problem, read_documents
from contracts.api_keys import ApiKey, KeyLimits, KeyName
from contracts.attachments import Attachment
from contracts.mirrors import Mirror
from contracts.policy import ReleasePolicy
from contracts.teams import Team, TeamName, TeamQuota
from contracts.vocabulary import Environment, Instant, ModelName
from decisions.policies.problems import list_problems

KINDS = ("Policy", "Team", "ApiKey", "Mirror", "Attachment")
SUFFIXES = (".yaml", ".yml", ".json")
MOST_FILES = 1000


class _Declared(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Limits(KeyLimits):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Quota(TeamQuota):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DeclaredPolicy(_Declared):
    """The stored policy of a model."""

    kind: Literal["Policy"]
    model: ModelName
    policy: ReleasePolicy

    @property
    def key(self) -> Key:
        """Kind and name."""
        return ("Policy", self.model)

    def as_data(self) -> dict[str, Any]:
        """Return it as it is compared."""
        return policy_data(self.policy)

    def record(self) -> ReleasePolicy:
        """Return it as it is stored."""
        return self.policy


class DeclaredTeam(_Declared):
    """A team, its models and its quota; members are made with `slipway keys add`."""

    kind: Literal["Team"]
    name: TeamName
    models: Annotated[tuple[ModelName, ...], Field(min_length=1)]
    quota: _Quota = _Quota()

    @property
    def key(self) -> Key:
        """Kind and name."""
        return ("Team", self.name)

    def as_data(self) -> dict[str, Any]:
        """Return it as it is compared."""
        return team_data(self)


class DeclaredApiKey(_Declared):
    """The scope of the valid API keys of a name; no file holds a key."""

    kind: Literal["ApiKey"]
    name: KeyName
    models: tuple[ModelName, ...] = ()
    team: TeamName | None = None
    environments: Annotated[tuple[Environment, ...], Field(min_length=1)] = ("production",)
    limits: _Limits = _Limits()
    expires_at: Instant | None = None

    @model_validator(mode="after")
    def _opens_something(self) -> "DeclaredApiKey":
        if not self.models and self.team is None:
            msg = "a key that opens all models of the installation is not declared in files: name models or a team"
            raise ValueError(msg)
        return self

    @property
    def key(self) -> Key:
        """Kind and name."""
        return ("ApiKey", self.name)

    def as_data(self) -> dict[str, Any]:
        """Return it as it is compared."""
        return scope_data(self)


class DeclaredMirror(Mirror):
    """Which models a registry outside shows; its address and secrets are settings of the mirror."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["Mirror"]

    @property
    def key(self) -> Key:
        """Kind and name."""
        return ("Mirror", self.registry)

    def record(self) -> Mirror:
        """Return it as it is stored."""
        return Mirror.model_validate(self.model_dump(exclude={"kind"}))

    def as_data(self) -> dict[str, Any]:
        """Return it as it is compared."""
        return mirror_data(self)


class DeclaredAttachment(Attachment):
    """The servers that a model is released into."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["Attachment"]

    @property
    def key(self) -> Key:
        """Kind and name."""
        return ("Attachment", self.model)

    def record(self) -> Attachment:
        """Return it as it is stored."""
        return Attachment.model_validate(self.model_dump(exclude={"kind"}))

    def as_data(self) -> dict[str, Any]:
        """Return it as it is compared."""
        return attachment_data(self)


AnyDeclared = DeclaredPolicy | DeclaredTeam | DeclaredApiKey | DeclaredMirror | DeclaredAttachment
_ANY: TypeAdapter[AnyDeclared] = TypeAdapter(Annotated[AnyDeclared, Field(discriminator="kind")])


@dataclass(frozen=True)
class Declarations:
    """The declarations of files, with their positions."""

    values: Mapping[Key, AnyDeclared] = field(default_factory=dict)
    places: Mapping[Key, Problem] = field(default_factory=dict)

    @property
    def kinds(self) -> frozenset[Kind]:
        """Return the kinds that they declare something of."""
        return frozenset(kind for kind, _ in self.values)

    def as_data(self) -> dict[Key, dict[str, Any]]:
        """Return their data for comparison."""
        return {key: value.as_data() for key, value in self.values.items()}


def policy_data(policy: ReleasePolicy) -> dict[str, Any]:
    """Return a policy's data for comparison."""
    return policy.model_dump(mode="json")


def mirror_data(mirror: Mirror) -> dict[str, Any]:
    """Return a mirror's data for comparison."""
    return {"models": sorted(mirror.models), "without": sorted(mirror.without), "paused": mirror.paused}


def attachment_data(attachment: Attachment) -> dict[str, Any]:
    """Return an attachment's data for comparison."""
    return attachment.model_dump(mode="json", include={"groups", "adapters"})


def team_data(team: Team | DeclaredTeam) -> dict[str, Any]:
    """Return a team's data for comparison."""
    return {"models": sorted(team.models), "quota": team.quota.model_dump(mode="json", exclude_none=True)}


def is_declarable(record: ApiKey) -> bool:
    """Return whether a file can declare an API key's scope; not if the key opens all models of the installation."""
    return bool(record.models) or record.team is not None


def scopes_of(records: Iterable[ApiKey], declared: Mapping[Key, Mapping[str, Any]]) -> dict[Key, dict[str, Any]]:
    """Return the scopes of keys by name, without keys that neither are declared nor can be.

    Of several keys of one name, it is the scope of one that differs from what is declared, if any does.
    """
    scopes: dict[Key, dict[str, Any]] = {}
    for record in records:
        key: Key = ("ApiKey", record.name)
        if (key in declared or is_declarable(record)) and (key not in scopes or scopes[key] == declared.get(key)):
            scopes[key] = scope_data(record)
    return scopes


def read_declarations(paths: Sequence[Path]) -> Declarations:
    """Return the declarations in the files of these paths; of a folder, in every YAML and JSON file below it.

    Raises:
        InvalidError: something in them is not valid, holds a secret, or is declared twice.
        CommandError: there is no file, or one cannot be read.
    """
    values: dict[Key, AnyDeclared] = {}
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


def _parse(document: Document, problems: list[Problem]) -> AnyDeclared | None:
    kind = document.data.get("kind") if isinstance(document.data, dict) else None
    if kind not in KINDS:
        near = nearest(str(kind), KINDS)
        message = f"the kind {kind!r} is unknown: {f'{near} Use' if near else 'use'} {', '.join(KINDS)}"
        problems.append(document.problem(message, "kind"))
        return None
    try:
        declared = _ANY.validate_python(document.data)
    except ValidationError as error:
        listed = document.problems(error, dict(zip(KINDS, get_args(AnyDeclared), strict=True))[kind], tags=1)
        problems += [_without_kind(document, each, kind) for each in listed]
        return None
    if isinstance(declared, DeclaredPolicy):
        invalid = list_problems(declared.policy)
        problems += [document.problem(each.reason, "policy", *each.field) for each in invalid]
    return declared


def _without_kind(document: Document, problem: Problem, kind: str) -> Problem:
    """Return a problem without the kind that pydantic puts before its location, with the line of the rest."""
    location = [
        int(part) if part.isdigit() else part for part in problem.field.removeprefix(kind).strip(".").split(".")
    ]
    return document.problem(problem.message, *(part for part in location if part != ""))


def scope_data(scope: ApiKey | DeclaredApiKey) -> dict[str, Any]:
    """Return a key's scope for comparison."""
    return {
        "models": sorted(scope.models),
        "team": scope.team,
        "environments": sorted(scope.environments),
        "limits": scope.limits.model_dump(mode="json", exclude_none=True),
        "expires_at": None if scope.expires_at is None else scope.expires_at.isoformat(),
    }
