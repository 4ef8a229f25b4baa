"""A segment that a running registry wrote under lock: who can delete it, and what `slipway audit` says once one is gone."""

import asyncio

import pytest
from minio.error import S3Error

import contracts.facts as cf
from contracts.identities import PROVISIONER
from contracts.storage.access import SERVICE_ACCESS
from decisions.sealed_log.audit import SEGMENT_ENTRIES
from deploy.local.state import ADMIN
from shared.messaging.bus import publish_event
from shared.provenance.audit_log import segment_key
from shared.runtime.clock import SystemClock
from shared.storage.blobs import Store
from shared.storage.object_lock import LockingStore
from testbed import factories as f
from testbed.attesters import attester_keys
from testbed.servers import connection
from testbed.services import environment, running_service
from tests.kit.command import run_command
from tests.kit.locking import mask, remove_version

KEY = segment_key(1)
STORED = (*SERVICE_ACCESS, PROVISIONER, ADMIN)
"""Every identity that has a key of the store here, and is not its root."""


async def test_no_identity_deletes_a_segment_and_the_command_names_one_that_a_key_of_the_store_hides(
    js, nats_server, locking_server, tmp_path
):
    settings = connection(nats_server, locking_server, tmp_path)
    store = LockingStore(locking_server.settings("registry"))
    with running_service("services.registry.main", settings, REGISTRY_AUDIT_S="0.1"):
        await publish_event(js, f.event(cf.AlertRaised))
        for number in range(SEGMENT_ENTRIES):
            await publish_event(js, f.event(cf.SuspensionDecided, id=f"o-{number}", time=SystemClock().now()))
        async with asyncio.timeout(60):
            while await asyncio.to_thread(store.latest_version, KEY) is None:
                await asyncio.sleep(0.1)
        version = store.latest_version(KEY)
        assert store.retention_of(KEY, version).mode == "governance"
        for name in STORED:
            identity = Store(locking_server.settings(name))
            for bypass in (False, True):
                with pytest.raises(S3Error, match="AccessDenied"):
                    remove_version(identity, KEY, version, bypass=bypass)

    async def audit():
        variables = {**environment(settings), "SLIPWAY_ATTESTERS": str(attester_keys(tmp_path).listing)}
        status, _, complaint = await asyncio.to_thread(run_command, variables, "audit")
        return status, complaint

    assert (await audit())[0] == 0
    root = Store(locking_server.settings("root"))
    mask(root, KEY)
    status, complaint = await audit()
    assert (status, f"{KEY}: a delete marker hides it; the version before the marker was read" in complaint) == (
        1,
        True,
    )
    remove_version(root, KEY, version, bypass=True)
    status, complaint = await audit()
    assert (status, "segments were removed or added" in complaint) == (1, True)
