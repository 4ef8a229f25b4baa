"""The parts of the embedded stack as data: command line, environment, ports and probes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from contracts.identities import PROVISIONER
from contracts.provenance.attestations import ATTESTERS
from contracts.services import OPTIONAL
from contracts.storage.access import BUCKET
from deploy.identity.api_key_files import REHEARSALS, ApiKeyFiles
from deploy.identity.attesters import AttesterKeys
from deploy.identity.key_folder import KeyFolder
from deploy.local import bus, triton
from deploy.local.bus import NATS, bus_url
from deploy.local.ports import LOOPBACK, SHADOW_OFFSET
from deploy.local.processes import PART_VARIABLE, STACK_VARIABLE
from deploy.local.weed import NO_OTHER_KEYS, weed_arguments
from shared.runtime.settings import Connection

Probe = Literal["nats", "s3", "triton", "service"]
Engine = Literal["slipway", "toy"]

SERVICES = (
    "registry",
    "merger",
    "quantiser",
    "server-manager",
    "benchmarker",
    "evaluator",
    "monitor",
    "rollback-controller",
    "gateway",
    "console",
)
S3_PORTS = ("s3", "s3-master", "s3-volume", "s3-filer", "s3-admin")
AGENT = "agent"
"""The agent of the default runtime's first Triton; the runtime `next` has `agent-next`."""
TRITON = "triton"
"""The default runtime's first Triton; its second one is `triton-2`, the runtime `next` has `triton-next`."""
MOST_TRITONS = 4
"""Maximum number of Tritons of the default runtime."""
SINGLE = frozenset({"mirror"})
"""Services with one process in the embedded stack."""
OWN_STATE = frozenset({"gateway", "console"})
"""Services with files in the state folder, and an address, of each process."""
REPLICAS = "replicas"
"""The folder with the state folders of further processes of `OWN_STATE`."""
PATIENT_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Makes waiting torch threads sleep instead of spin: several processes share the cores here."""
LONGEST_START_S = 600.0
START_LIMIT_S: dict[Probe, float] = {"nats": LONGEST_START_S, "s3": LONGEST_START_S, "triton": 120.0, "service": 180.0}
"""Time limits of starts; Triton starts without models."""
RECOVERING: frozenset[Probe] = frozenset({"nats", "s3"})
"""Parts that recover their stores at start."""
STOP_GRACE_S = {"gateway": 40.0}
"""Seconds. The gateway finishes the streams in flight first."""


KEPT = ("ROLLBACK_CONTROLLER_REHEARSAL_RPS", "SERVER_MANAGER_PROBE_INTERVAL_S")
"""Inherited variables that override the plan, because they depend on the machine's speed."""


@dataclass(frozen=True)
class Part:
    """One process of the stack.

    Attributes:
        name: `nats`, `quantiser`, `quantiser-2` …
        argv: command line.
        environment: variables over the inherited ones.
        port: the probed and displayed port.
        probe: kind of readiness probe.
        stop_rank: parts of a lower rank are stopped first.
        stop_grace_s: time for a graceful stop.
        works_in_children: whether activity of child processes counts as its own.
        http_port: port of the liveness probe, if not `port`.
        admin_port: port of the readiness probe, if not `port`.
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    port: int
    probe: Probe
    stop_rank: int
    stop_grace_s: float = 10.0
    works_in_children: bool = False
    http_port: int | None = None
    admin_port: int | None = None

    @property
    def liveness_port(self) -> int:
        """Return the port where liveness is probed."""
        return self.http_port or self.port

    @property
    def recovers(self) -> bool:
        """Return whether it recovers a store at start, which may take long."""
        return self.probe in RECOVERING

    @property
    def start_limit_s(self) -> float:
        """Return the time limit of its start once its dependencies are ready."""
        return START_LIMIT_S[self.probe]


@dataclass(frozen=True)
class Keys:
    """The credentials of a stack: the folder of its keys."""

    folder: Path

    def bus(self, *ports: int, identity: str = PROVISIONER) -> Connection:
        """Return the settings for the bus at loopback ports, as an identity."""
        keys = KeyFolder(self.folder)
        return Connection(
            nats_url=bus_url(*ports),
            nats_credentials=keys.credential(identity),
            nats_ca=keys.authority,
            replicas=len(ports),
        )

    def store(self, port: int, identity: str = PROVISIONER) -> Connection:
        """Return the settings for the store at a loopback port, as an identity; without a key if it has none."""
        keys = KeyFolder(self.folder)
        key = keys.store.credential(identity)
        return Connection(
            s3_endpoint=f"{LOOPBACK}:{port}",
            s3_credentials=key if key.is_file() else None,
            s3_ca=keys.authority,
            s3_bucket=BUCKET,
        )


@dataclass(frozen=True)
class StackConfig:
    """The shape of a stack.

    Attributes:
        engine: kind of engine.
        replicas: number of processes by service; 1 by default.
        runtimes: names of further runtimes, with one Triton each.
        optional: configured optional services.
        default_tritons: number of Tritons of the default runtime.
        nats: number of servers of the message bus.
    """

    engine: Engine = "slipway"
    replicas: Mapping[str, int] | None = None
    runtimes: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    default_tritons: int = 1
    nats: int = 1

    @property
    def services(self) -> tuple[str, ...]:
        """The names of the started services."""
        return (*SERVICES, *(name for name in OPTIONAL if name in self.optional))

    @property
    def tritons(self) -> list[str]:
        """The names of all Tritons, the default runtime's first."""
        return [*replica_names(TRITON, self.default_tritons), *(triton_part(name) for name in self.runtimes)]

    @property
    def endpoints(self) -> list[str]:
        """The names of the default runtime's further Tritons, which are also their endpoints'."""
        return replica_names(TRITON, self.default_tritons)[1:]

    def count(self, service: str) -> int:
        """Return the number of processes of a service."""
        return (self.replicas or {}).get(service, 1)


@dataclass(frozen=True)
class Programs:
    """Paths of the programs, and of the folder with Slipway's packages."""

    nats_server: Path
    weed: Path
    python: Path
    source: Path


def triton_part(runtime: str) -> str:
    """Return the name of a further runtime's Triton, and of its folder."""
    return f"{TRITON}-{runtime}"


def agent_part(triton_name: str) -> str:
    """Return the name of a Triton's agent, and of its folder."""
    return f"{AGENT}{triton_name.removeprefix(TRITON)}"


def agent_grpc(triton_name: str) -> str:
    """Return the name of the gRPC port of a Triton's agent."""
    return f"{agent_part(triton_name)}-grpc"


def triton_ports(part: str) -> tuple[str, str, str]:
    """Return the names of a Triton's ports: HTTP, gRPC, metrics."""
    return part, f"{part}-grpc", f"{part}-metrics"


def replica_names(service: str, count: int) -> list[str]:
    """Return the names of the parts of a service, or of Triton; the first has its own name."""
    return [service, *(f"{service}-{number}" for number in range(2, count + 1))]


def port_names(config: StackConfig) -> list[str]:
    """Return the names of all ports."""
    tritons = [port for part in config.tritons for port in (*triton_ports(part), agent_part(part), agent_grpc(part))]
    services = [name for service in config.services for name in replica_names(service, config.count(service))]
    gateways = [admin_port(name) for name in replica_names("gateway", config.count("gateway"))]
    return [*bus.port_names(config.nats), *S3_PORTS, *tritons, *services, *gateways]


def admin_port(gateway: str) -> str:
    """Return the name of a gateway's port for probes and metrics."""
    return f"{gateway}-admin"


def plan_nats(folder: Path, ports: Mapping[str, int], programs: Programs, name: str = NATS) -> tuple[Part, str]:
    """Plan a server of the message bus: the part, and the text of its configuration file."""
    config = bus.server_config(folder, ports, KeyFolder(keys_folder(folder)), name)
    argv = (str(programs.nats_server), "-c", str(nats_config_file(folder, name)))
    http = ports[bus.monitor_port(name)]
    return Part(name, argv, {}, ports[name], "nats", stop_rank=3, http_port=http), config


def keys_folder(folder: Path) -> Path:
    """Return the folder with the keys of the bus of the stack in a state folder."""
    return folder / "keys"


def nats_config_file(folder: Path, name: str = NATS) -> Path:
    """Return the path of the configuration file of a server of the message bus."""
    return folder / f"{name}.conf"


def plan_s3(folder: Path, ports: Mapping[str, int], programs: Programs, keys: Keys) -> Part:
    """Plan the object store, with every port explicit, because defaults of two stacks collide."""
    argv = weed_arguments(programs.weed, folder / "s3", KeyFolder(keys.folder).store.folder)
    for name in S3_PORTS:
        flag = name.removeprefix("s3-")
        argv += [f"-{flag}.port={ports[name]}", f"-{flag}.port.grpc={ports[name] + SHADOW_OFFSET}"]
    return Part("s3", tuple(argv), NO_OTHER_KEYS, ports["s3"], "s3", stop_rank=2)


def plan_triton(argv: list[str], environment: Mapping[str, str], ports: Mapping[str, int], name: str = TRITON) -> Part:
    """Plan a Triton with a given command line."""
    return Part(name, tuple(argv), environment, ports[f"{name}-grpc"], "triton", stop_rank=1, stop_grace_s=15.0)


def plan_agent(
    folder: Path, ports: Mapping[str, int], programs: Programs, keys: Keys, triton_name: str, *, admin_key: str
) -> Part:
    """Plan the agent of a Triton, the only other part with the key of its model control."""
    name = agent_part(triton_name)
    environment = {
        "TRITON_AGENT_TRITON_GRPC": f"{LOOPBACK}:{ports[f'{triton_name}-grpc']}",
        "TRITON_AGENT_ADMIN_KEY": admin_key,
        "TRITON_AGENT_MANAGERS": str(KeyFolder(keys.folder).managers),
        "TRITON_AGENT_TERM_FILE": str(folder / name / "term.json"),
        "TRITON_AGENT_LISTEN": f"{LOOPBACK}:{ports[agent_grpc(triton_name)]}",
        "SLIPWAY_HTTP_HOST": LOOPBACK,
        "SLIPWAY_HTTP_PORT": str(ports[name]),
        "PYTHONPATH": str(programs.source),
        "PYTHONUNBUFFERED": "1",
    }
    argv = (str(programs.python), "-m", "services.server_manager.agent")
    return Part(name, argv, environment, ports[name], "service", stop_rank=1)


def connection_variables(folder: Path, ports: Mapping[str, int], keys: Keys, identity: str) -> dict[str, str]:
    """Return the environment variables for bus and store of a stack, as an identity."""
    servers, store = keys.bus(*bus.addresses(ports), identity=identity), keys.store(ports["s3"], identity)
    key = {"SLIPWAY_S3_CREDENTIALS": str(store.s3_credentials)} if store.s3_credentials is not None else {}
    return {
        "SLIPWAY_NATS_URL": servers.nats_url,
        "SLIPWAY_NATS_CREDENTIALS": str(servers.nats_credentials),
        "SLIPWAY_NATS_CA": str(servers.nats_ca),
        "SLIPWAY_REPLICAS": str(servers.replicas),
        "SLIPWAY_S3_ENDPOINT": store.s3_endpoint,
        **key,
        "SLIPWAY_S3_CA": str(store.s3_ca),
        "SLIPWAY_S3_BUCKET": BUCKET,
        "SLIPWAY_STATE_DIR": str(folder),
        "SLIPWAY_ATTESTERS": str(attester_keys(folder).listing),
        "SLIPWAY_TEAMS": str(KeyFolder(keys.folder).team_list),
    }


def attester_keys(folder: Path) -> AttesterKeys:
    """Return the attestation keys of the stack in a state folder."""
    return AttesterKeys(keys_folder(folder))


def api_keys(folder: Path) -> ApiKeyFiles:
    """Return the initial API keys of the stack in a state folder."""
    return ApiKeyFiles(keys_folder(folder))


def attestation_variables(folder: Path, service: str) -> dict[str, str]:
    """Return the variable with the path of a service's attestation key; empty for a service without one."""
    if service not in ATTESTERS:
        return {}
    return {"SLIPWAY_ATTESTATION_KEY": str(attester_keys(folder).private_key(service))}


def nats_variables(ports: Mapping[str, int], keys: Keys, identity: str) -> dict[str, str]:
    """Return the environment variables of the `nats` command line, for an identity."""
    servers = keys.bus(*bus.addresses(ports), identity=identity)
    return {
        "NATS_URL": servers.nats_url,
        "NATS_NKEY": str(servers.nats_credentials),
        "NATS_CA": str(servers.nats_ca),
    }


def plan_services(
    folder: Path, config: StackConfig, ports: Mapping[str, int], programs: Programs, keys: Keys
) -> list[Part]:
    """Plan one process per replica of each service."""
    common = {
        **server_manager_variables(folder, config, ports),
        "ROLLBACK_CONTROLLER_GATEWAY_URL": f"http://{LOOPBACK}:{ports['gateway']}",
        "ROLLBACK_CONTROLLER_GATEWAY_KEY": str(api_keys(folder).key_file(REHEARSALS)),
        "ROLLBACK_CONTROLLER_REHEARSAL_RPS": "2" if config.engine == "slipway" else "10",  # what a CPU can answer
        "GATEWAY_ADMIN_HOST": LOOPBACK,
        "GATEWAY_ADMIN_PORT": str(ports[admin_port("gateway")]),
        "GATEWAY_API_KEYS": str(api_keys(folder).listing),
        "SLIPWAY_HTTP_HOST": LOOPBACK,
        "SLIPWAY_TRACE_FILE": str(folder / "logs" / "spans.jsonl"),
        "PYTHONPATH": str(programs.source),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        **PATIENT_THREADS,
    }
    return [
        Part(
            name=name,
            argv=(str(programs.python), "-m", f"services.{service.replace('-', '_')}.main"),
            environment={
                **connection_variables(folder, ports, keys, service),
                **common,
                **attestation_variables(folder, service),
                **(console_variables(ports, keys, name) if service == "console" else {}),
                **({"NOTIFIER_CONSOLE_URL": console_url(ports)} if service == "notifier" else {}),
                **({"GATEWAY_ADMIN_PORT": str(ports[admin_port(name)])} if service == "gateway" else {}),
                **(
                    {"SLIPWAY_STATE_DIR": str(folder / REPLICAS / name)}
                    if service in OWN_STATE and name != service
                    else {}
                ),
                "SLIPWAY_HTTP_PORT": str(ports[name]),
            },
            port=ports[name],
            probe="service",
            stop_rank=0,
            stop_grace_s=STOP_GRACE_S.get(service, 15.0),
            works_in_children=service == "gateway",
            admin_port=ports[admin_port(name)] if service == "gateway" else None,
        )
        for service in config.services
        for name in replica_names(service, config.count(service))
    ]


def console_url(ports: Mapping[str, int], name: str = "console") -> str:
    """Return the address of a console."""
    return f"http://{LOOPBACK}:{ports[name]}"


def console_variables(ports: Mapping[str, int], keys: Keys, name: str = "console") -> dict[str, str]:
    """Return the variables with a console's address, the people, and credentials of non-administrators."""
    return {
        "CONSOLE_URL": console_url(ports, name),
        "CONSOLE_IDENTITIES": str(KeyFolder(keys.folder).people),
        "CONSOLE_CREDENTIALS": str(KeyFolder(keys.folder).console),
        "CONSOLE_GATEWAY_URL": f"http://{LOOPBACK}:{ports['gateway']}",
    }


def server_manager_variables(folder: Path, config: StackConfig, ports: Mapping[str, int]) -> dict[str, str]:
    """Return the server-manager's variables: each Triton, its model repository, the engine."""
    # An idle vLLM on a CPU spins for a second after every request, so probes at the usual pace would cost two cores a
    # quarter of one for each loaded target.
    return {
        "SERVER_MANAGER_TRITON_GRPC": f"{LOOPBACK}:{ports['triton-grpc']}",
        "SERVER_MANAGER_AGENT_GRPC": f"{LOOPBACK}:{ports[agent_grpc(TRITON)]}",
        "SERVER_MANAGER_REPOSITORY": str(folder / "triton" / "models"),
        "SERVER_MANAGER_RUNTIME_FILE": str(folder / "triton" / triton.RUNTIME_FILE),
        "SERVER_MANAGER_RUNTIMES": json.dumps(
            {name: _endpoint(folder, ports, triton_part(name)) for name in config.runtimes}
        ),
        "SERVER_MANAGER_ENDPOINTS": json.dumps({part: _endpoint(folder, ports, part) for part in config.endpoints}),
        "SERVER_MANAGER_ENGINE": config.engine,
        "SERVER_MANAGER_PROBE_INTERVAL_S": "15" if config.engine == "slipway" else "5",
    }


def _endpoint(folder: Path, ports: Mapping[str, int], part: str) -> dict[str, str]:
    """Return the server-manager's `RuntimeEndpoint` of a further Triton."""
    return {
        "triton_grpc": f"{LOOPBACK}:{ports[f'{part}-grpc']}",
        "agent_grpc": f"{LOOPBACK}:{ports[agent_grpc(part)]}",
        "repository": str(folder / part / "models"),
        "runtime_file": str(folder / part / triton.RUNTIME_FILE),
    }


def environment_of(part: Part, stack_id: str, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return all variables of a part, with the marks of its stack and name."""
    kept = {name: inherited[name] for name in KEPT if name in inherited}
    return {**inherited, **part.environment, **kept, STACK_VARIABLE: stack_id, PART_VARIABLE: part.name}
