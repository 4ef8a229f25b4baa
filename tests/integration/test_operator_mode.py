"""Identities on a NATS in operator mode: exported credentials are permitted and refused as with our own configuration."""

import asyncio
import json
import os
from datetime import UTC, datetime
from functools import partial

import nats.errors
import nkeys
import pytest

from contracts.identities import PROVISIONER
from deploy.identity.key_folder import KeyFolder
from deploy.identity.operator_mode import export, sign_token
from shared.messaging import credentials
from shared.messaging.provision import provision
from shared.runtime.settings import Connection
from testbed.servers import NatsServer, running
from tests.kit import bus_matrix
from tests.kit.bus_matrix import IDENTITIES, MEMBERS

NOW = datetime.now(UTC)


def new_key(prefix):
    seed = nkeys.encode_seed(os.urandom(32), prefix)
    return nkeys.from_seed(bytearray(seed)), seed.decode()


class OperatorServer(NatsServer):
    """JetStream with an operator, an account, and no users of its own: their tokens say what they may do."""

    name = "operator"

    def __init__(self, folder, keys):
        super().__init__(folder, keys)
        operator, _ = new_key(nkeys.PREFIX_BYTE_OPERATOR)
        account, _ = new_key(nkeys.PREFIX_BYTE_ACCOUNT)
        signing, self.signing_seed = new_key(nkeys.PREFIX_BYTE_ACCOUNT)
        self.account = account.public_key.decode()
        limits = {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": True}
        limits |= {"conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
        body = {"limits": limits, "signing_keys": [signing.public_key.decode()], "type": "account", "version": 2}
        account_token = sign_token({"sub": self.account, "name": "slipway", "nats": body}, operator, NOW)
        system, _ = new_key(nkeys.PREFIX_BYTE_ACCOUNT)
        system_name = system.public_key.decode()
        plain = {name: value for name, value in limits.items() if "storage" not in name and name != "streams"}
        system_body = {"limits": plain | {"consumer": 0}, "type": "account", "version": 2}
        system_token = sign_token({"sub": system_name, "name": "SYS", "nats": system_body}, operator, NOW)
        top = {"sub": operator.public_key.decode(), "name": "acme", "nats": {"type": "operator", "version": 2}}
        text = (self.folder / "nats.conf").read_text().replace('include "identities.conf"\n', "")
        preload = json.dumps({self.account: account_token, system_name: system_token})
        (self.folder / "nats.conf").write_text(
            f"{text}operator: {sign_token(top, operator, NOW)}\nsystem_account: {system_name}\n"
            "max_control_line: 64KB\n"  # a token has all permissions of an identity, up to 40 kB
            f"resolver: MEMORY\nresolver_preload: {preload}\n"
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    keys = KeyFolder(tmp_path_factory.mktemp("keys"))
    keys.prepare(["127.0.0.1"], NOW)
    bus_matrix.add_users(keys)
    with running(OperatorServer(tmp_path_factory.mktemp("nats"), keys)) as server:
        yield server


@pytest.fixture(scope="module")
def exported(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    (folder / "account.nk").write_text(server.signing_seed + "\n")
    made = server.keys.export(folder / "account.nk", folder / "creds", now=NOW, account=server.account)
    return {file.stem: file for file in made}


async def connect(server, exported, name, **options):
    settings = Connection(nats_url=server.url, nats_ca=server.keys.authority, nats_credentials=exported[name])
    return await credentials.connect(settings, name, allow_reconnect=False, **options)


@pytest.fixture(scope="module")
def provisioned(server, exported):
    async def prepare():
        provisioner = await connect(server, exported, PROVISIONER)
        await provision(provisioner.jetstream(timeout=30))
        await provisioner.close()

    asyncio.run(prepare())


@pytest.mark.usefixtures("provisioned")
@pytest.mark.parametrize("name", [*IDENTITIES, *MEMBERS])
async def test_exported_identities_do_what_they_need_and_are_refused_the_rest(server, exported, name):
    """The whole matrix of test_bus_permissions.py, for each identity."""
    connecting = partial(connect, server, exported, name)
    tried = bus_matrix.expected_of_member(name)[1] if name in MEMBERS else bus_matrix.expected(name)
    refused = await bus_matrix.refused_of(connecting, tried)
    assert refused == {subject.lower() for subject, allowed in tried.items() if not allowed}
    if name in IDENTITIES:
        tried = bus_matrix.expected_reads(name)
        refused = await bus_matrix.refused_reads_of(connecting, tried)
        assert refused == {subject.lower() for subject, allowed in tried.items() if not allowed}


async def test_a_token_that_another_account_signed_is_not_accepted(server, exported, tmp_path):
    _, seed = new_key(nkeys.PREFIX_BYTE_ACCOUNT)
    (tmp_path / "other.nk").write_text(seed)
    made = export(
        server.keys.identities(),
        server.keys.credential("x").parent,
        tmp_path / "other.nk",
        tmp_path / "creds",
        now=NOW,
        account=server.account,
    )
    with pytest.raises((nats.errors.Error, OSError)):
        await connect(server, {file.stem: file for file in made}, "merger", max_reconnect_attempts=1)


def test_what_is_no_accounts_key_is_refused(server, tmp_path):
    (tmp_path / "user.nk").write_text("SUABC")
    with pytest.raises(ValueError, match="no seed of an account"):
        export([], tmp_path, tmp_path / "user.nk", tmp_path / "creds", now=NOW)
