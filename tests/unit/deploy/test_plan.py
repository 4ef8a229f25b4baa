import json
import re
from pathlib import Path

from deploy.local import plan
from deploy.local.plan import SERVICES, Keys, Programs, StackConfig
from services.server_manager.settings import AgentSettings, ServerManagerSettings

FOLDER = Path("/state")
PROGRAMS = Programs(Path("/bin/nats-server"), Path("/bin/weed"), Path("/bin/python"), Path("/source"))
KEYS = Keys(FOLDER / "keys")


def ports(config=None):
    return {name: 10_000 + number for number, name in enumerate(plan.port_names(config or StackConfig()))}


def test_every_part_has_its_own_port():
    names = plan.port_names(StackConfig(replicas={"quantiser": 3}))
    assert len(names) == len(set(names))
    assert {"quantiser", "quantiser-2", "quantiser-3"} <= set(names)


def test_services_get_their_own_port_and_the_stacks_addresses():
    config = StackConfig(engine="toy", replicas={"quantiser": 2})
    parts = {part.name: part for part in plan.plan_services(FOLDER, config, ports(config), PROGRAMS, KEYS)}
    assert len(parts) == len(SERVICES) + 1
    first, two = parts["quantiser"], parts["quantiser-2"]
    assert first.argv == two.argv == ("/bin/python", "-m", "services.quantiser.main")
    assert first.environment["SLIPWAY_HTTP_PORT"] != two.environment["SLIPWAY_HTTP_PORT"]
    manager = parts["server-manager"]
    assert manager.argv[-1] == "services.server_manager.main"
    assert manager.environment["SERVER_MANAGER_ENGINE"] == "toy"
    for service in SERVICES:
        assert parts[service].environment["SLIPWAY_NATS_CREDENTIALS"] == f"/state/keys/credentials/{service}.nk"
        assert parts[service].environment["SLIPWAY_NATS_URL"].startswith("tls://")
    assert two.environment["SLIPWAY_NATS_CREDENTIALS"] == first.environment["SLIPWAY_NATS_CREDENTIALS"]


def test_processes_of_gateway_and_console_have_addresses_and_files_of_their_own():
    config = StackConfig(replicas={"gateway": 2, "console": 2, "notifier": 2}, optional=("notifier",))
    given = ports(config)
    parts = {part.name: part for part in plan.plan_services(FOLDER, config, given, PROGRAMS, KEYS)}
    assert len(given.values()) == len(set(given.values()))
    for name in ("gateway", "gateway-2"):
        assert parts[name].admin_port == given[f"{name}-admin"]
        assert parts[name].environment["GATEWAY_ADMIN_PORT"] == str(given[f"{name}-admin"])
        assert parts[name].works_in_children
    assert parts["console-2"].environment["CONSOLE_URL"].endswith(f":{given['console-2']}")
    folders = {name: part.environment["SLIPWAY_STATE_DIR"] for name, part in parts.items()}
    assert {name for name, folder in folders.items() if folder != str(FOLDER)} == {"gateway-2", "console-2"}
    assert folders["gateway-2"] != folders["console-2"]


def own_variables(agent):
    prefix = "TRITON_AGENT_"
    return {name.removeprefix(prefix): text for name, text in agent.environment.items() if name.startswith(prefix)}


def test_only_the_agent_gets_the_key_of_model_control():
    agent = plan.plan_agent(FOLDER, ports(), PROGRAMS, KEYS, "triton", admin_key="secret")
    services = plan.plan_services(FOLDER, StackConfig(), ports(), PROGRAMS, KEYS)
    assert own_variables(agent)["ADMIN_KEY"] == "secret"
    assert own_variables(agent)["MANAGERS"] == "/state/keys/trust/managers.json"
    assert [part.name for part in services if own_variables(part)] == []


def test_each_runtime_has_a_triton_a_folder_and_ports_of_its_own():
    config = StackConfig(runtimes=("vllm-0.12-next",))
    chosen = ports(config)
    assert config.tritons == ["triton", "triton-vllm-0.12-next"]
    assert len(chosen) == len(ports()) + 5
    variables = plan.server_manager_variables(FOLDER, config, chosen)
    settings = ServerManagerSettings(
        triton_grpc=variables["SERVER_MANAGER_TRITON_GRPC"],
        agent_grpc=variables["SERVER_MANAGER_AGENT_GRPC"],
        repository=variables["SERVER_MANAGER_REPOSITORY"],
        runtimes=json.loads(variables["SERVER_MANAGER_RUNTIMES"]),
    )
    default, following = settings.all_endpoints["default"], settings.all_endpoints["vllm-0.12-next"]
    assert default.triton_grpc == f"127.0.0.1:{chosen['triton-grpc']}"
    assert following.triton_grpc == f"127.0.0.1:{chosen['triton-vllm-0.12-next-grpc']}"
    assert following.repository == FOLDER / "triton-vllm-0.12-next" / "models"
    for endpoint, triton in ((default, "triton"), (following, "triton-vllm-0.12-next")):
        agent = plan.plan_agent(FOLDER, chosen, PROGRAMS, KEYS, triton, admin_key="secret")
        settings_of_agent = AgentSettings(**{name.lower(): value for name, value in own_variables(agent).items()})
        assert settings_of_agent.listen == endpoint.agent_grpc
        assert settings_of_agent.triton_grpc == endpoint.triton_grpc
        assert settings_of_agent.term_file.parent == FOLDER / agent.name
    part = plan.plan_triton([], {}, chosen, "triton-vllm-0.12-next")
    assert (part.probe, f"127.0.0.1:{part.port}") == ("triton", following.triton_grpc)


def test_more_tritons_of_the_default_runtime_are_endpoints_with_folders_ports_and_agents_of_their_own():
    config = StackConfig(default_tritons=2, runtimes=("next",))
    chosen = ports(config)
    assert config.tritons == ["triton", "triton-2", "triton-next"]
    assert len(set(chosen.values())) == len(ports()) + 10
    variables = plan.server_manager_variables(FOLDER, config, chosen)
    settings = ServerManagerSettings(
        runtimes=json.loads(variables["SERVER_MANAGER_RUNTIMES"]),
        endpoints=json.loads(variables["SERVER_MANAGER_ENDPOINTS"]),
    )
    second = settings.all_endpoints["triton-2"]
    assert (second.runtime, second.triton_grpc) == ("default", f"127.0.0.1:{chosen['triton-2-grpc']}")
    assert second.repository == FOLDER / "triton-2" / "models"
    agent = plan.plan_agent(FOLDER, chosen, PROGRAMS, KEYS, "triton-2", admin_key="secret")
    assert agent.name == "agent-2"
    assert own_variables(agent)["LISTEN"] == second.agent_grpc


def test_three_servers_of_the_bus_are_a_cluster_that_every_part_knows():
    config = StackConfig(nats=3)
    chosen = ports(config)
    assert len(set(chosen.values())) == len(ports()) + 7
    planned = {name: plan.plan_nats(FOLDER, chosen, PROGRAMS, name) for name in ("nats", "nats-2", "nats-3")}
    for name, (part, text) in planned.items():
        assert (part.name, part.port, part.probe) == (name, chosen[name], "nats")
        assert part.argv[-1] == f"/state/{name}.conf"
        assert f"server_name: {name}\n" in text
        assert f'store_dir: "/state/{name}"' in text
        assert "sync_interval: always" in text
        assert "0.0.0.0" not in text
        _, _, cluster = text.partition("cluster {")
        assert f'listen: "127.0.0.1:{chosen[f"{name}-routes"]}"' in cluster
        assert 'ca_file: "/state/keys/ca.pem"' in cluster, "a server proves to be of this installation"
        (routes,) = re.findall(r"routes: (.*)", cluster)
        others = [each for each in planned if each != name]
        assert json.loads(routes) == [f"nats://127.0.0.1:{chosen[f'{each}-routes']}" for each in others]
    everywhere = ",".join(f"tls://127.0.0.1:{chosen[name]}" for name in planned)
    for part in plan.plan_services(FOLDER, config, chosen, PROGRAMS, KEYS):
        assert part.environment["SLIPWAY_NATS_URL"] == everywhere
        assert part.environment["SLIPWAY_REPLICAS"] == "3"
    assert plan.nats_variables(chosen, KEYS, "admin")["NATS_URL"] == everywhere


def test_the_pace_of_rehearsals_can_be_set_and_the_address_of_the_gateway_cannot():
    (part, *_) = plan.plan_services(FOLDER, StackConfig(), ports(), PROGRAMS, KEYS)
    address = "ROLLBACK_CONTROLLER_GATEWAY_URL"
    given = {"ROLLBACK_CONTROLLER_REHEARSAL_RPS": "7", address: "http://elsewhere"}
    variables = plan.environment_of(part, "abc", given)
    assert variables["ROLLBACK_CONTROLLER_REHEARSAL_RPS"] == "7"
    assert variables[address] == part.environment[address] != given[address]
    unset = plan.environment_of(part, "abc", {})
    assert unset["ROLLBACK_CONTROLLER_REHEARSAL_RPS"] == part.environment["ROLLBACK_CONTROLLER_REHEARSAL_RPS"]
