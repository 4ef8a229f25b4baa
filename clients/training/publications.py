"""What a training run has published, in a file beside its checkpoints, so that a resumed run does not do it again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from clients.training.errors import PublishError
from clients.training.run import Published, Run
from contracts.vocabulary import ArtifactRef, canonical_json, digest_of_json


@dataclass(frozen=True)
class Publication:
    """A checkpoint that is to be published, or was.

    Attributes:
        run: The run as it is announced: with the time and results of the first try, so that the event stays the same.
        published: What was published; None before.
    """

    key: str
    run: Run
    published: Published | None = None


class Publications:
    """The publications of one run; without a file, nothing is remembered."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def begin(self, weights_digest: str, run: Run, options: Mapping[str, Any]) -> Publication:
        """Return the publication of these weights, as it was begun before; else one that begins now, and is noted.

        Raises:
            PublishError: The file cannot be read or written.
        """
        described = {**asdict(replace(run, finished_at=None, evals=())), "weights": weights_digest, **options}
        key = digest_of_json(json.loads(json.dumps(described, default=_plain, sort_keys=True)))
        run = replace(run, finished_at=run.finished_at or datetime.now(timezone.utc))  # noqa: TID251 - no shared clock here
        entry = self._read().get(key)
        if entry is None:
            publication = Publication(key, run)
            self._write(publication)
            return publication
        known = replace(run, finished_at=datetime.fromisoformat(entry["finished_at"]), evals=tuple(entry["evals"]))
        return Publication(key, known, _published(entry["published"]) if entry["published"] else None)

    def end(self, publication: Publication, published: Published) -> None:
        """Note that a publication was made."""
        self._write(replace(publication, published=published))

    def _read(self) -> dict[str, Any]:
        if self._path is None or not self._path.exists():
            return {}
        try:
            entries: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))["publications"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PublishError(
                f"The file {self._path} does not tell what this run published ({error!r}): remove it to publish the "
                "checkpoint, again if it was."
            ) from error
        return entries

    def _write(self, publication: Publication) -> None:
        """Replace the file at once, so that a crash leaves the old one or the new one."""
        if self._path is None:
            return
        run, published = publication.run, publication.published
        entry = {
            "finished_at": run.finished_at.isoformat() if run.finished_at else None,
            "evals": json.loads(json.dumps(list(run.evals), default=_plain)),
            "published": None if published is None else {**asdict(published), "weights": _plain(published.weights)},
        }
        data = canonical_json({"publications": {**self._read(), publication.key: entry}})
        new = self._path.with_name(self._path.name + ".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with new.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError as error:
            raise PublishError(f"The file {self._path} cannot be written: {error}.") from error


def _published(entry: Mapping[str, Any]) -> Published:
    fields = {**entry, "weights": ArtifactRef.model_validate(entry["weights"]), "duplicate": True}
    return Published(**fields)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)
