"""Mirrors versions into MLflow's model registry, over its REST API."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import structlog

from contracts.vocabulary import ModelName, digest_of_json
from decisions.releases.version_history import VersionHistory
from services.mirror.adapters.mlflow_api import ABSENT, PRESENT, MlflowApi, MlflowError, MlflowRefusalError, tags_of
from services.mirror.domain.plan import ALIASES, Alias, Mirrored
from services.mirror.domain.summary import summarise
from services.mirror.domain.tags import PREFIX, version_tags
from services.mirror.ports import Refused, Unavailable

OWNED: Final = f"{PREFIX}mirror"
"""Tag of registered models that Slipway writes; always `true`, and no secret."""
STATE: Final = f"{PREFIX}state"
"""Tag with the fingerprint of the version's state when written."""
SEAL: Final = f"{PREFIX}seal"
"""Tag with the digest of Slipway's other tags, so that edited tags are detected and rewritten."""


class MlflowRegistry:
    """The registered models of an MLflow server (implements `ports.Registry`).

    MLflow assigns version numbers, so versions are found by the tag `slipway.version`. A deleted version is written
    again under a new number, and aliases follow.
    """

    name = "mlflow"

    def __init__(self, api: MlflowApi, *, prefix: str = "") -> None:
        self._api = api
        self._prefix = prefix

    async def mirrored(self, model: ModelName) -> list[Mirrored]:
        """Return the MLflow versions tagged as mirrors of this model's versions, oldest first."""
        with _explained():
            await self._own(model)
            query = {"filter": f"name='{self._prefix}{model}'"}
            listed = [item async for item in self._api.pages("model-versions/search", "model_versions", **query)]
        known = [mirrored for mirrored in (_mirrored(item, model) for item in listed) if mirrored is not None]
        return sorted(known, key=lambda mirrored: int(mirrored.name_there))

    async def put(self, history: VersionHistory, fingerprint: str, present: Mirrored | None) -> Mirrored:
        """Create an MLflow version with all tags in one call, or update an existing one's tags."""
        tags = _sealed({**version_tags(history), STATE: fingerprint})
        with _explained():
            if present is None:
                number = await self._create(history, tags)
            else:
                number = present.name_there
                await self._change(history, number, tags)
        return Mirrored(history.manifest.version, fingerprint, number, _source(history))

    async def point(self, model: ModelName, aliases: Mapping[Alias, Mirrored]) -> None:
        """Set or remove Slipway's three aliases; others stay unchanged."""
        name = self._prefix + model
        with _explained():
            answer = await self._api.get("registered-models/get", name=name)
            listed = answer.get("registered_model", {}).get("aliases", [])
            present = {
                str(entry.get("alias")): str(entry.get("version")) for entry in listed if isinstance(entry, dict)
            }
            for alias in ALIASES:
                expected = aliases[alias].name_there if alias in aliases else None
                if expected == present.get(alias):
                    continue
                if expected is None:
                    await self._api.send("DELETE", "registered-models/alias", name=name, alias=alias)
                else:
                    await self._api.send("POST", "registered-models/alias", name=name, alias=alias, version=expected)

    async def _own(self, model: ModelName) -> None:
        """Create the registered model; refuse one that Slipway did not create."""
        name = self._prefix + model
        model_there = await self._api.find("registered-models/get", name=name)
        if model_there is None:
            tags = [{"key": OWNED, "value": "true"}]
            description = f"Versions of {model} that Slipway registered; each is written once and follows its releases."
            try:
                await self._api.send("POST", "registered-models/create", name=name, tags=tags, description=description)
            except MlflowRefusalError as refusal:
                if refusal.kind != PRESENT:
                    raise
        elif tags_of(model_there.get("registered_model", {})).get(OWNED) != "true":
            raise Refused(
                f"MLflow has a registered model {name!r} that Slipway did not make; set MIRROR_MLFLOW_PREFIX, or "
                f"give it the tag {OWNED}=true to let Slipway add versions and set its aliases."
            )

    async def _create(self, history: VersionHistory, tags: Mapping[str, str]) -> str:
        manifest = history.manifest
        run = await self._api.find("runs/get", run_id=manifest.training.run_id)
        answer = await self._api.send(
            "POST",
            "model-versions/create",
            name=self._prefix + manifest.model,
            source=_source(history),
            description=summarise(history),
            tags=[{"key": key, "value": value} for key, value in tags.items()],
            **({"run_id": manifest.training.run_id} if run is not None else {}),
        )
        number = str(answer.get("model_version", {}).get("version", ""))
        if not number.isdecimal():
            raise Unavailable(f"MLflow created {history.name} without a version number.")
        structlog.get_logger().info("mirrored", registry=self.name, version=history.name, number=number)
        return number

    async def _change(self, history: VersionHistory, number: str, tags: Mapping[str, str]) -> None:
        """Write changed tags, the seal last, so that an interrupted update is detected."""
        which = {"name": self._prefix + history.manifest.model, "version": number}
        answer = await self._api.get("model-versions/get", **which)
        present = {key: value for key, value in tags_of(answer.get("model_version", {})).items() if _ours(key)}
        for key in present.keys() - tags.keys():
            await self._forget(which, key)
        for key in sorted(tags, key=lambda name: (name == SEAL, name)):
            if present.get(key) != tags[key]:
                await self._api.send("POST", "model-versions/set-tag", **which, key=key, value=tags[key])
        await self._api.send("PATCH", "model-versions/update", **which, description=summarise(history))

    async def _forget(self, which: Mapping[str, str], key: str) -> None:
        try:
            await self._api.send("DELETE", "model-versions/delete-tag", **which, key=key)
        except MlflowRefusalError as refusal:
            if refusal.kind != ABSENT:
                raise


def _source(history: VersionHistory) -> str:
    """Return the URI of a version's merged model."""
    return history.manifest.merged.uri


def _ours(key: str) -> bool:
    return key.startswith(PREFIX)


def _sealed(tags: Mapping[str, str]) -> dict[str, str]:
    return {**tags, SEAL: digest_of_json(dict(tags))}


def _mirrored(item: Mapping[str, Any], model: str) -> Mirrored | None:
    """Return the mirrored version of an MLflow version; None if it mirrors none."""
    tags, number = tags_of(item), str(item.get("version", ""))
    version = tags.get(f"{PREFIX}version", "")
    if tags.get(f"{PREFIX}model") != model or not version.isdecimal() or not number.isdecimal():
        return None
    own = {key: value for key, value in tags.items() if _ours(key) and key != SEAL}
    intact = tags.get(SEAL) == digest_of_json(own)
    return Mirrored(int(version), tags.get(STATE, "") if intact else "", number, str(item.get("source", "")))


@contextmanager
def _explained() -> Iterator[None]:
    """Convert MLflow errors to `Unavailable` or `Refused`."""
    try:
        yield
    except MlflowRefusalError as refusal:
        raise Refused(refusal.reason) from refusal
    except MlflowError as error:
        raise Unavailable(error.reason) from error
