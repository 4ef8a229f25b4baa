"""Renders drift reports with Evidently in a child process, and stores them."""

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contracts.vocabulary import ArtifactRef, Target, digest_of
from services.monitor.domain.drift import DriftVerdict
from shared.runtime.jobs import run_job
from shared.storage.blobs import Store, manifest_key

Columns = Mapping[str, Sequence[float]]
KIND = "drift"
_MEMORY_BYTES = 2 * 1024**3


class EvidentlyReports:
    """Makes drift reports, one at a time: Evidently's HTML and JSON, the rows, and the monitor's verdict."""

    def __init__(self, store: Store, folder: Path, *, timeout_s: float) -> None:
        self._store = store
        self._folder = folder
        self._timeout_s = timeout_s
        self._one_at_a_time = asyncio.Lock()

    async def make(self, target: Target, reference: Columns, current: Columns, verdict: DriftVerdict) -> ArtifactRef:
        """Render and store a report; return a reference to its manifest."""
        self._folder.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix="drift-", dir=self._folder))
        try:
            async with self._one_at_a_time:  # each child may take `_MEMORY_BYTES`
                await self.render(work, target, reference, current, verdict)
            return await asyncio.to_thread(self._store_folder, work)
        finally:
            await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)

    async def render(
        self, work: Path, target: Target, reference: Columns, current: Columns, verdict: DriftVerdict
    ) -> dict[str, Any]:
        """Render a report into `work`; return Evidently's p-value per column."""
        rows = {
            "target": str(target),
            "alpha": verdict.alpha,
            "reference": {name: list(values) for name, values in reference.items()},
            "current": {name: list(current[name]) for name in reference if name in current},
        }
        await asyncio.to_thread((work / "rows.json").write_text, json.dumps(rows))
        await asyncio.to_thread((work / "verdict.json").write_text, verdict.model_dump_json(indent=1))
        return await run_job(
            [sys.executable, "-m", "services.monitor.adapters.report_worker", str(work)],
            on_progress=_ignore,
            log_path=self._folder / "reports.log",
            memory_limit_bytes=_MEMORY_BYTES,
            timeout_s=self._timeout_s,
            at_timeout="Raise MONITOR_REPORT_TIMEOUT_S.",
            env={"DO_NOT_TRACK": "1"},
            scratch=work,
        )

    def _store_folder(self, work: Path) -> ArtifactRef:
        manifest = self._store.put_folder(work)
        ref, _ = self._store.put_manifest(manifest_key(KIND, digest_of(manifest.to_bytes())), manifest)
        return ref


async def _ignore(_progress: dict[str, Any]) -> None:
    """Ignore progress: a report takes seconds."""
