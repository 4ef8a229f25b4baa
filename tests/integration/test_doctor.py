"""`slipway doctor` as a command: what it says of this machine, and of what was broken on purpose."""

import asyncio
import importlib.metadata
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from deploy.local.processes import STACK_VARIABLE
from deploy.local.state import ADMIN, StateFolder, new_description
from shared.messaging.provision import provision
from testbed.ports import free_port
from testbed.servers import bus_variables, store_variables
from tests.integration.doctoring import doctor, slipway
from tests.kit.s3_proxy import standing_before


def elsewhere(nats_server, s3_endpoint: str, s3_server) -> dict[str, str]:
    return {
        **bus_variables(nats_server.settings(), ADMIN),
        **store_variables(s3_server.settings(), ADMIN),
        "SLIPWAY_S3_ENDPOINT": s3_endpoint,
    }


def test_this_machine_can_run_a_stack(tmp_path):
    code, findings = doctor("--state", str(tmp_path / "state"))
    assert code == 0, findings
    assert next(iter(findings)) == "programs"
    assert "nats" not in findings, "nothing is started"
    assert not (tmp_path / "state").exists(), "looking changes nothing"


def test_the_version_and_a_variable_that_is_not_valid():
    assert slipway("--version").stdout.startswith(f"slipway {importlib.metadata.version('slipway')}, ")
    refused = slipway("status", SLIPWAY_NATS_URL="nats://127.0.0.1:1", SLIPWAY_S3_REGION="no region")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("slipway: the environment is not valid: SLIPWAY_S3_REGION=no region: ")


def test_programs_read_one_line_a_check(tmp_path):
    done = slipway("doctor", "--state", str(tmp_path / "state"))
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert {row[1] for row in rows} <= {"ok", "warning"}
    assert "programs" in [row[0] for row in rows]


def test_without_an_engine_environment_it_says_what_to_do_and_nothing_is_started(tmp_path):
    missing = str(tmp_path / "none")
    code, findings = doctor("--state", str(tmp_path / "state"), "--engine-env", missing)
    assert code == 1
    assert findings["programs"]["detail"] == f"an engine environment in {missing} not installed"
    assert findings["programs"]["advice"] == "run `make setup`; without a checkout see docs/get-started.md"
    started = slipway("up", "--state", str(tmp_path / "state"), "--engine-env", missing)
    assert started.returncode == 1
    assert f"programs\tfailure\tan engine environment in {missing} not installed\trun `make setup`" in started.stdout
    assert not (tmp_path / "state" / "stack.json").exists()


def test_a_damaged_state_folder_is_one_failure_and_no_traceback(tmp_path):
    folder = StateFolder(tmp_path / "state")
    folder.create()
    (folder.path / "stack.json").write_text('{"stack_id": ')
    code, findings = doctor("--state", str(folder.path))
    assert (code, [name for name, finding in findings.items() if finding["state"] == "failure"]) == (
        1,
        ["state folder"],
    )
    assert f"{folder.path} cannot be read (JSONDecodeError" in findings["state folder"]["detail"]


@pytest.fixture
def earlier_run(tmp_path):
    """A folder whose supervisor was killed, with its description and a process of its stack that still listens."""
    folder, port = StateFolder(tmp_path / "state"), free_port()
    folder.create()
    description = replace(new_description(), ports={"gateway": port})
    folder.write_description(description)
    listen = f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); print(flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", listen],
        stdout=subprocess.PIPE,
        env={**os.environ, STACK_VARIABLE: description.stack_id},
    )
    process.stdout.readline()
    yield folder, process
    process.kill()
    process.communicate()


def test_what_an_earlier_run_uses_is_no_reason_to_refuse_its_folder(earlier_run):
    folder, process = earlier_run
    code, findings = doctor("--state", str(folder.path))
    assert (code, "memory" in findings) == (0, False), "they take memory until `slipway up` ends them"
    process.kill()
    process.wait()
    assert "memory" in doctor("--state", str(folder.path))[1]


def test_data_of_another_version_is_refused_before_anything_starts(tmp_path):
    folder = StateFolder(tmp_path / "state")
    folder.create()
    folder.write_description(replace(new_description(), data_format=99))
    code, findings = doctor("--state", str(folder.path))
    assert (code, findings["state folder"]["state"]) == (1, "failure")
    assert "a newer Slipway" in findings["state folder"]["detail"]


async def test_a_deployment_elsewhere_is_asked_where_it_is(nats_server, s3_server):
    variables = elsewhere(nats_server, f"127.0.0.1:{s3_server.port}", s3_server)
    client = await nats_server.connect()
    await provision(client.jetstream(timeout=10))
    await client.close()
    code, findings = doctor(**variables)
    assert code == 0, findings
    assert [findings[name]["state"] for name in ("nats", "s3")] == ["ok", "ok"]


async def lose_a_bucket(server):
    """Provision the bus, then delete a bucket."""
    provisioner, client = await server.connect("provisioner"), await server.connect()
    await provision(provisioner.jetstream(timeout=30))
    await client.jetstream(timeout=10).delete_key_value("rollbacks")
    await provisioner.close()
    await client.close()


def test_a_bus_without_streams_and_one_that_does_not_answer(nats_server_of_its_own, s3_server):
    endpoint = f"127.0.0.1:{s3_server.port}"
    code, findings = doctor(**elsewhere(nats_server_of_its_own, endpoint, s3_server))
    assert (code, findings["nats"]["state"]) == (1, "failure")
    assert "SLIPWAY_EVENTS" in findings["nats"]["detail"]
    asyncio.run(lose_a_bucket(nats_server_of_its_own))
    code, findings = doctor(**elsewhere(nats_server_of_its_own, endpoint, s3_server))
    assert (code, findings["nats"]["state"]) == (1, "failure")
    assert "KV_rollbacks" in findings["nats"]["detail"]
    assert "SLIPWAY_EVENTS" not in findings["nats"]["detail"]
    nats_server_of_its_own.stop()
    code, findings = doctor(**elsewhere(nats_server_of_its_own, endpoint, s3_server))
    assert (code, findings["nats"]["state"]) == (1, "failure")
    assert "does not answer" in findings["nats"]["detail"]
    assert findings["s3"]["state"] == "ok", "one failure hides no other check"


def test_a_store_that_ignores_conditions_is_refused(nats_server, s3_server):
    def drop_condition(request) -> bool:
        del request.headers["If-None-Match"]
        return False

    with standing_before(s3_server) as proxy:
        proxy.instead = drop_condition
        code, findings = doctor(**elsewhere(nats_server, proxy.endpoint, s3_server))
    assert (code, findings["s3"]["state"]) == (1, "failure")
    assert "ignores If-None-Match" in findings["s3"]["advice"]


@pytest.fixture
def nats_server_of_its_own(tmp_path):
    from testbed.servers import NatsServer, running

    with running(NatsServer(tmp_path)) as server:
        yield server
