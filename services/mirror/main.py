"""Entry point of the mirror: `python -m services.mirror.main`."""

import asyncio
from functools import partial
from pathlib import Path

from services.mirror.adapters.bus import BusChanges
from services.mirror.adapters.hub import HubAccess, HubRegistry
from services.mirror.adapters.mlflow import MlflowRegistry
from services.mirror.adapters.mlflow_api import MlflowAccess, MlflowApi
from services.mirror.adapters.store import StoredVersions, StoredWeights
from services.mirror.adapters.wandb import WandbAccess, WandbRegistry
from services.mirror.app import SERVICE, build, build_sweeper
from services.mirror.ports import Registry
from services.mirror.settings import MirrorSettings
from shared.messaging.bus import Bus
from shared.provenance.envelopes import Trust
from shared.runtime.clock import SystemClock
from shared.runtime.service import run_service, serve
from shared.runtime.settings import Connection
from shared.storage.blobs import Store


async def run(connection: Connection, settings: MirrorSettings) -> None:
    """Connect, build the mirror and serve until SIGTERM."""
    settings.require_registry()
    clock, store = SystemClock(), Store(connection)
    bus = Bus(connection, SERVICE, clock)
    api = _mlflow(settings)
    registries: list[Registry] = [] if api is None else [MlflowRegistry(api, prefix=settings.mlflow_prefix)]
    registries += _others(store, connection.work_dir(SERVICE), settings)
    mirror = build(
        bus,
        registries=registries,
        versions=StoredVersions(store, Trust.from_settings(connection)),
        changes=BusChanges(bus),
        settings=settings,
        clock=clock,
    )
    sweeper = build_sweeper(mirror, settings)
    try:
        ready = {"store": partial(asyncio.to_thread, store.reachable)}  # external registries do not affect readiness
        await serve(bus, connection, ready=ready, background=[sweeper.run])
    finally:
        if api is not None:
            await api.close()


def _mlflow(settings: MirrorSettings) -> MlflowApi | None:
    if settings.mlflow_url is None:
        return None
    access = MlflowAccess(settings.mlflow_url, settings.mlflow_token_file, settings.mlflow_ca)
    return MlflowApi(access)


def _others(store: Store, folder: Path, settings: MirrorSettings) -> list[Registry]:
    """Return the registries configured besides MLflow."""
    registries: list[Registry] = []
    if settings.hf_endpoint is not None and settings.hf_repositories is not None:
        merged = settings.hf_weights == "merged"
        hub = HubAccess(settings.hf_endpoint, settings.hf_repositories, settings.hf_token_file, merged)
        registries.append(HubRegistry(hub, StoredWeights(store), folder))
    if settings.wandb_project is not None:
        wandb = WandbAccess(
            settings.wandb_python,
            settings.wandb_project,
            offline=settings.wandb_mode == "offline",
            url=settings.wandb_url,
            key_file=settings.wandb_key_file,
        )
        registries.append(WandbRegistry(wandb, folder / "wandb"))
    return registries


def main() -> None:
    """Read the settings from the environment and run the mirror."""
    run_service(SERVICE, MirrorSettings, run)


if __name__ == "__main__":
    main()
