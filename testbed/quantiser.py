"""The quantiser as a process of its own, and requests to it."""

import contextlib
import os
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil

from contracts.envelope import Event
from contracts.facts import MergeMethod, QuantiseSettings, VariantRequested
from contracts.manifests import MergedManifest
from contracts.vocabulary import ArtifactRef, digest_of
from shared.storage.blobs import Store, manifest_key
from testbed import factories
from testbed.attesters import attester_variables
from testbed.servers import Server, bus_variables, store_variables

SETTINGS = QuantiseSettings(calibration_samples=4, calibration_tokens=128)
ROOT = Path(__file__).resolve().parents[1]


class QuantiserService(Server):
    """`python -m services.quantiser.main` with its environment; `module`: another program in its place."""

    name = "quantiser"

    def __init__(self, folder: Path, connection, *, module: str = "services.quantiser.main", **variables) -> None:
        super().__init__(folder)
        self.module = module
        self.port = connection.http_port
        self.variables = {
            **bus_variables(connection, self.name),
            **store_variables(connection, self.name),
            "SLIPWAY_HTTP_PORT": str(self.port),
            "SLIPWAY_STATE_DIR": str(self.folder),
            "QUANTISER_HELD_OUT_WINDOWS": "5",
            "QUANTISER_HELD_OUT_TOKENS": "256",
            "QUANTISER_MIN_CALIBRATION_TOKENS": "256",
            "QUANTISER_PROGRESS_INTERVAL_S": "0",
            **attester_variables(self.folder, "services.quantiser.main"),
        } | variables

    def command(self) -> list[str]:
        return [sys.executable, "-m", self.module]

    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.variables, "PYTHONPATH": str(ROOT)}

    def ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz").status_code == 200
        return False

    def workers(self) -> list[psutil.Process]:
        """Return the child processes that quantise, without those still being launched, whose limits are not set."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children()
            lines = [(child, " ".join(child.cmdline())) for child in children]
            return [child for child, line in lines if "quantise_worker" in line and "launch.py" not in line]
        return []


def stored_merged(store: Store, model: Path) -> ArtifactRef:
    """Put a model's folder into the store as the merger does, and return its reference."""
    folder = store.put_folder(model)
    weights = sum(file.size_bytes for file in folder.files if file.path.endswith(".safetensors"))
    manifest = MergedManifest(
        model=factories.MODEL,
        output_key=digest_of(uuid.uuid4().bytes),
        base=factories.base(),
        weights=factories.weights(),
        files=folder.files,
        method=MergeMethod(dtype="bfloat16", library_versions={}),
        parity=None,
        tokenizer_digest=digest_of(b"t"),
        rendered_prompt_digest=None,
        weights_bytes=weights,
        duration_s=1.0,
        peak_rss_bytes=1,
        created_at=datetime(2026, 11, 24, tzinfo=UTC),
    )
    ref, written = store.put_manifest(manifest_key("merged", manifest.output_key), manifest)
    assert written
    return ref


def request(merged_ref, **changes) -> Event[VariantRequested]:
    about = {"release_id": "r-1", "version": 1, "variant": "int8", "merged": merged_ref, "settings": SETTINGS}
    return Event[VariantRequested](
        id=str(uuid.uuid4()),
        source="/slipway/registry",
        type=VariantRequested.TYPE,
        subject=factories.MODEL,
        time=datetime(2026, 11, 24, tzinfo=UTC),
        correlationid="r-1",
        data=VariantRequested(**(about | changes)),
    )
