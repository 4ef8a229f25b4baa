"""Mirrors versions as Weights & Biases artifacts, logged by W&B's client in another environment's child process."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from contracts.vocabulary import ModelName
from decisions.releases.model_cards import render_card
from decisions.releases.version_history import VersionHistory
from services.mirror.domain.plan import Alias, Mirrored
from services.mirror.domain.summary import summarise
from services.mirror.domain.tags import version_tags
from services.mirror.ports import Unavailable
from shared.runtime.process import child_command, terminate_tree

WORKER = Path(__file__).with_name("wandb_worker.py")
_NOTES = "mirrored.json"


@dataclass(frozen=True)
class WandbAccess:
    """Settings for logging artifacts.

    Attributes:
        python: Interpreter of an environment with `wandb`.
        project: `PROJECT` or `ENTITY/PROJECT`.
        offline: Whether runs are only written to disk, for `wandb sync`.
        url: URL of a W&B server; None for W&B's own.
        key_file: File with the API key; read for each artifact.
        call_s: Timeout in seconds of W&B's initialisation and upload.
    """

    python: Path
    project: str
    offline: bool = False
    url: str | None = None
    key_file: Path | None = None
    call_s: float = 30.0


class WandbRegistry:
    """Logs each version as a W&B artifact with the alias `slipway-v<n>` (implements `ports.Registry`).

    A local file lists logged versions, because offline runs cannot query the server. Losing it costs little: W&B
    creates no new version for equal content.
    """

    name = "wandb"

    def __init__(self, access: WandbAccess, folder: Path) -> None:
        self._access, self._folder = access, folder
        self._lock = asyncio.Lock()

    async def mirrored(self, model: ModelName) -> list[Mirrored]:
        """Return a model's versions in the local list."""
        noted = self._read().get(model, {})
        return [Mirrored(int(number), state, _alias(number)) for number, state in noted.items()]

    async def put(self, history: VersionHistory, fingerprint: str, present: Mirrored | None) -> Mirrored:
        """Log an artifact with a version's metadata, model card and manifest."""
        manifest = history.manifest
        async with self._lock:  # one child at a time, because each takes a hundred megabytes
            await self._run(self._order(history))
            notes = self._read()
            notes.setdefault(manifest.model, {})[str(manifest.version)] = fingerprint
            self._write(notes)
        if present is None:
            structlog.get_logger().info("mirrored", registry=self.name, version=history.name)
        return Mirrored(manifest.version, fingerprint, _alias(manifest.version))

    async def point(self, model: ModelName, aliases: Mapping[Alias, Mirrored]) -> None:
        """Do nothing, because offline runs cannot move aliases."""

    def _order(self, history: VersionHistory) -> dict[str, Any]:
        entity, _, project = self._access.project.rpartition("/")
        return {
            "entity": entity or None,
            "project": project,
            "mode": "offline" if self._access.offline else "online",
            "folder": str(self._folder),
            "call_s": self._access.call_s,
            "name": history.manifest.model,
            "description": summarise(history),
            "metadata": version_tags(history),
            "aliases": [_alias(history.manifest.version)],
            "files": {"README.md": render_card(history), "version.json": history.manifest.model_dump_json(indent=2)},
        }

    async def _run(self, order: Mapping[str, Any]) -> None:
        """Run the child with output to a log file; raise Unavailable if it fails or exceeds its time limit."""
        self._folder.mkdir(parents=True, exist_ok=True)
        command = child_command([str(self._access.python), "-I", str(WORKER)])
        with (self._folder / "worker.log").open("wb") as log:
            child = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log, env=self._environment()
            )
        limit_s = 2 * self._access.call_s
        try:
            async with asyncio.timeout(limit_s):
                await child.communicate(json.dumps(order).encode())
        except TimeoutError:
            raise Unavailable(f"W&B did not take {order['name']} within {limit_s:g} s.") from None
        finally:
            if child.returncode is None:
                await asyncio.to_thread(terminate_tree, child.pid, grace_s=1.0)
                await child.wait()
        if child.returncode != 0:
            where = self._folder / "worker.log"
            raise Unavailable(f"W&B's client ended with status {child.returncode}; {where} has its last lines.")

    def _environment(self) -> dict[str, str]:
        """Return the child's complete environment, with the API key and without the mirror's variables."""
        folders = dict.fromkeys(("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "HOME"), str(self._folder))
        url = {"WANDB_BASE_URL": self._access.url} if self._access.url else {}
        return {**folders, **url, **self._key(), "WANDB_ERROR_REPORTING": "false"}

    def _key(self) -> dict[str, str]:
        if self._access.key_file is None:
            return {}
        try:
            return {"WANDB_API_KEY": self._access.key_file.read_text().strip()}
        except (OSError, ValueError) as error:
            raise Unavailable(f"The key file of W&B cannot be read: {type(error).__name__}.") from None

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            notes: dict[str, dict[str, str]] = json.loads((self._folder / _NOTES).read_bytes())
        except (OSError, ValueError):
            return {}
        return notes

    def _write(self, notes: Mapping[str, Mapping[str, str]]) -> None:
        unfinished = self._folder / f"{_NOTES}.new"
        unfinished.write_text(json.dumps(notes))
        unfinished.replace(self._folder / _NOTES)


def _alias(version: int | str) -> str:
    return f"slipway-v{version}"
