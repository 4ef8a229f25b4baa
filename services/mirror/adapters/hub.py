"""Mirrors versions into private repositories of a Hugging Face Hub: weights and model card, tagged `v<n>`."""

import asyncio
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from contracts.vocabulary import ModelName
from decisions.releases.model_cards import render_card
from decisions.releases.version_history import VersionHistory
from services.mirror.domain.plan import ALIASES, Alias, Mirrored
from services.mirror.ports import Refused, Unavailable, Weights
from shared.errors import SlipwayError
from shared.storage.hub import hub_api

INDEX: Final = "slipway.json"
"""File on `main` with the model's name, and each version's state, commit and weights."""
_MAIN = "main"
_OF_THE_HUB = frozenset({".gitattributes"})
"""Files that a hub puts into a new repository."""
T = TypeVar("T")


@dataclass(frozen=True)
class HubAccess:
    """A hub and the repositories on it.

    Attributes:
        endpoint: URL of the hub.
        repositories: Prefix of repository names, such as `acme/slipway-`; the model's name follows.
        token_file: File with a write token; read before each use.
        merged: Whether to push merged models instead of the published weights.
    """

    endpoint: str
    repositories: str
    token_file: Path | None = None
    merged: bool = False


@dataclass
class _Repository:
    """A repository's index, and commits by tag."""

    name: str
    index: dict[str, Any]
    tags: dict[str, str] = field(default_factory=dict)


class HubRegistry:
    """One private repository per model (implements `ports.Registry`).

    Each version has a branch, on which its card is updated, and the tag `v<n>` at the branch's head. The index on
    `main` is written last, so that an interrupted push is repeated; the hub keeps uploaded bytes.
    """

    name = "hub"

    def __init__(self, access: HubAccess, weights: Weights, scratch: Path) -> None:
        self._access, self._weights, self._scratch = access, weights, scratch
        self._busy: set[str] = set()

    async def mirrored(self, model: ModelName) -> list[Mirrored]:
        """Return the versions in the repository's index, except those with a missing or moved tag."""
        repository = await self._in_thread(model, lambda api: self._open(api, model))
        return [
            Mirrored(int(number), str(entry.get("state", "")), f"v{number}")
            for number, entry in repository.index["versions"].items()
            if repository.tags.get(f"v{number}") == entry.get("commit")
        ]

    async def put(self, history: VersionHistory, fingerprint: str, present: Mirrored | None) -> Mirrored:
        """Push a version's card, its weights if missing, and its tag."""
        model = history.manifest.model
        await self._in_thread(model, lambda api: self._push(api, history, fingerprint))
        if present is None:
            structlog.get_logger().info("mirrored", registry=self.name, version=history.name)
        return Mirrored(history.manifest.version, fingerprint, f"v{history.manifest.version}")

    async def point(self, model: ModelName, aliases: Mapping[Alias, Mirrored]) -> None:
        """Move Slipway's three tags; other tags stay unchanged."""
        await self._in_thread(model, lambda api: self._point(api, model, aliases))

    # -- in a thread --------------------------------------------------------------------------------------------------

    async def _in_thread(self, model: ModelName, work: Callable[[Any], T]) -> T:
        """Do work on a repository in a thread, one at a time; it continues if the caller is cancelled."""
        if model in self._busy:
            raise Refused(f"{self._name_of(model)} is still being written by an earlier try.")
        self._busy.add(model)

        def do() -> T:
            try:
                with self._explained(model):
                    return work(hub_api(self._access.endpoint, self._token()))
            finally:
                self._busy.discard(model)

        return await asyncio.to_thread(do)

    def _open(self, api: Any, model: ModelName) -> _Repository:
        """Return a model's repository; create it as private if it does not exist."""
        name = self._name_of(model)
        if not api.repo_exists(name):
            api.create_repo(name, private=True, exist_ok=True)
        info = api.model_info(name)
        if not info.private:
            raise Refused(f"{name} is public; make it private on the hub, or set another MIRROR_HF_REPOSITORIES.")
        files = {sibling.rfilename for sibling in info.siblings or ()}
        if INDEX not in files:
            if files - _OF_THE_HUB:
                raise Refused(f"{name} was not made by Slipway: it has no {INDEX}; set another MIRROR_HF_REPOSITORIES.")
            return _Repository(name, {"model": model, "versions": {}})
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            index = json.loads(Path(api.hf_hub_download(name, INDEX, revision=_MAIN, local_dir=folder)).read_bytes())
        if index.get("model") != model or not isinstance(index.get("versions"), dict):
            raise Refused(f"{INDEX} of {name} is not that of {model}; restore it on the hub, or remove the repository.")
        refs = api.list_repo_refs(name)
        return _Repository(name, index, {tag.name: tag.target_commit for tag in refs.tags})

    def _push(self, api: Any, history: VersionHistory, fingerprint: str) -> None:
        repository, number = self._open(api, history.manifest.model), history.manifest.version
        files = self._weights.files(history, merged=self._access.merged)
        card = render_card(history, merged=self._access.merged)
        known = repository.index["versions"].get(str(number), {})
        if not repository.index["versions"]:
            self._commit_index(api, repository, card, f"Begin the mirror of {history.manifest.model}")
        branch = f"version-{number}"
        api.create_branch(repository.name, branch=branch, revision=_MAIN, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            if known.get("weights") != files.digest or repository.tags.get(f"v{number}") != known.get("commit"):
                self._weights.fetch(files, Path(folder))
            (Path(folder) / "README.md").write_text(card)
            message = f"{history.name}: {fingerprint}"
            commit = api.upload_folder(
                repo_id=repository.name,
                folder_path=folder,
                revision=branch,
                commit_message=message,
                delete_patterns=[INDEX],
            ).oid
        self._tag(api, repository, f"v{number}", commit)
        repository.index["versions"][str(number)] = {"state": fingerprint, "commit": commit, "weights": files.digest}
        newest = max(map(int, repository.index["versions"])) == number
        self._commit_index(api, repository, card if newest else None, message)

    def _commit_index(self, api: Any, repository: _Repository, card: str | None, message: str) -> None:
        from huggingface_hub import CommitOperationAdd

        texts = {INDEX: json.dumps(repository.index, indent=2, sort_keys=True)}
        texts |= {} if card is None else {"README.md": card}
        operations = [CommitOperationAdd(name, text.encode()) for name, text in texts.items()]
        api.create_commit(repository.name, operations, commit_message=message, revision=_MAIN)

    def _point(self, api: Any, model: ModelName, aliases: Mapping[Alias, Mirrored]) -> None:
        repository = self._open(api, model)
        for alias in ALIASES:
            commit = repository.tags.get(aliases[alias].name_there) if alias in aliases else None
            self._tag(api, repository, alias, commit)

    @staticmethod
    def _tag(api: Any, repository: _Repository, tag: str, commit: str | None) -> None:
        """Move a tag to a commit; None removes it."""
        present = repository.tags.get(tag)
        if present == commit:
            return
        if present is not None:
            api.delete_tag(repository.name, tag=tag)
        if commit is not None:
            api.create_tag(repository.name, tag=tag, revision=commit, exist_ok=True)
            repository.tags[tag] = commit

    def _name_of(self, model: ModelName) -> str:
        return self._access.repositories + model

    def _token(self) -> str | None:
        if self._access.token_file is None:
            return None
        try:
            return self._access.token_file.read_text().strip()
        except (OSError, ValueError) as error:
            raise Unavailable(f"The token file of the hub cannot be read: {type(error).__name__}.") from None

    @contextmanager
    def _explained(self, model: ModelName) -> Iterator[None]:
        """Convert the hub library's errors to `Unavailable` or `Refused`, dropping messages with URLs."""
        import httpx
        from huggingface_hub import errors as theirs

        where = f"{self._access.endpoint} for {self._name_of(model)}"
        try:
            yield
        except SlipwayError:
            raise
        except theirs.HfHubHTTPError as error:
            status = error.response.status_code
            if status in (401, 403):
                raise Unavailable(f"{where} answers {status}: check the token file and what it may do.") from None
            if status in (408, 429) or status >= 500:
                raise Unavailable(f"{where} answers {status}.") from None
            raise Refused(f"{where} answers {status} ({type(error).__name__}).") from None
        except (httpx.HTTPError, theirs.OfflineModeIsEnabled, TimeoutError, ConnectionError) as error:
            raise Unavailable(f"{where} does not answer ({type(error).__name__}).") from None
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise Unavailable(f"{where} does not answer as a hub does ({type(error).__name__}).") from None
