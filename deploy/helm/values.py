"""The values of the chart: the source of its values.yaml and values.schema.json."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.alias_generators import to_camel

from contracts.services import SERVICES
from deploy.helm.scaling import SCALED

Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")] | int
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
OptionalName = Annotated[str, Field(pattern=r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?$")]
Cidr = Annotated[str, Field(pattern=r"^[0-9a-fA-F.:]+/[0-9]{1,3}$")]
HostName = Annotated[str, Field(pattern=r"^(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
HostPort = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+:[0-9]{1,5}$")]
OptionalHostPort = Annotated[str, Field(pattern=r"^([A-Za-z0-9.-]+:[0-9]{1,5})?$")]
SettingName = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[int, Field(ge=1, le=7200)]
KubernetesObject = dict[str, Any]


class Strict(BaseModel):
    """A part of the values; an unknown key is refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True, use_attribute_docstrings=True
    )


class Image(Strict):
    """Where images come from: `REGISTRY/PREFIXSERVICE:TAG`."""

    registry: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.:/-]*$")] = "localhost"
    prefix: Annotated[str, Field(pattern=r"^[a-z0-9-]*$")] = "slipway-"
    tag: Annotated[str, Field(pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$")] = ""
    """Empty: the version of the chart's application."""
    digests: dict[Name, Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]] = {}
    """By image (`gateway`, `triton`, `cli` …): its digest, which is taken in place of the tag."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    pull_secrets: list[Name] = []


class Volume(Strict):
    """A volume of one pod."""

    kind: Literal["emptyDir", "ephemeral", "persistent"] = "emptyDir"
    """`ephemeral`: a claim that lives as long as its pod, for a class of node-local disks. `persistent`: it stays."""
    size: Quantity = "2Gi"
    storage_class: OptionalName = ""
    """Empty: the cluster's default."""


class Claim(Strict):
    """A volume claim, which stays."""

    size: Quantity
    storage_class: OptionalName = ""
    """Empty: the cluster's default."""


class SecretKey(Strict):
    """A key of a secret in the release's namespace."""

    secret: Name
    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]


class Resources(Strict):
    """Requests and limits of a container."""

    requests: dict[str, Quantity] = {"cpu": "100m", "memory": "256Mi"}
    limits: dict[str, Quantity] = {"memory": "1Gi"}


class Placement(Strict):
    """Which nodes a pod may run on."""

    node_selector: dict[str, str] = {}
    tolerations: list[KubernetesObject] = []
    affinity: KubernetesObject = {}


class Peers(Strict):
    """What a network policy lets through, in the form of Kubernetes (NetworkPolicyPeer); empty: every address."""

    peers: list[KubernetesObject] = []
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """0: the port of the address. Name the port of the pods where a service in the cluster translates it."""


class Nats(Strict):
    """The bus: a NATS with JetStream of your own, or servers of this chart."""

    deploy: bool = False
    """Run NATS in this release, with the secret `SECRETS.PREFIX-bus`."""
    servers: Literal[1, 3] = 1
    """Servers with `deploy`: one, to try it, which takes `replicas` 1; or a cluster of three. An installation keeps its
    number: the streams of a single server are none of a cluster's."""
    url: Annotated[str, Field(pattern=r"^tls://[A-Za-z0-9.:,/-]+$")] = "tls://nats:4222"
    """Address of an external NATS; several, separated by commas, for a cluster."""
    replicas: Literal[1, 3, 5] = 3
    """Copies of each stream and bucket: 3 with three servers of this chart."""
    monitoring: OptionalHostPort = ""
    """Monitoring endpoint of an external NATS (`host:8222`), for KEDA; by a headless service it finds the leader."""
    account: str = "$G"
    """Account of Slipway in NATS, for KEDA."""
    events_max_bytes: Annotated[int, Field(ge=1024 * 1024)] = 8 * 1024**3
    """Limit of the event log."""
    events_max_days: Annotated[int, Field(ge=1)] = 90
    """Days that announcements, orders and events are kept."""
    egress: Peers = Peers()
    volume: Claim = Claim(size="20Gi")
    resources: Resources = Resources(requests={"cpu": "500m", "memory": "512Mi"}, limits={"memory": "2Gi"})
    placement: Placement = Placement()


class Store(Strict):
    """The object store: an S3 of your own with conditional puts, or one server of this chart."""

    deploy: bool = False
    """Run one SeaweedFS in this release, with the keys in the secret `SECRETS.PREFIX-store`: to try it."""
    endpoint: HostPort = "store:9000"
    """Host and port; TLS is the only scheme."""
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")] = "slipway"
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")] = "us-east-1"
    system_authorities: bool = False
    """The store's certificate is from a public authority, not from the one in the secret `SECRETS.PREFIX-trust`."""
    egress: Peers = Peers()
    volume: Claim = Claim(size="100Gi")
    resources: Resources = Resources(requests={"cpu": "500m", "memory": "1Gi"}, limits={"memory": "4Gi"})
    placement: Placement = Placement()


class SecretStore(Strict):
    """The store of the External Secrets Operator that secrets come from."""

    name: OptionalName = ""
    kind: Literal["SecretStore", "ClusterSecretStore"] = "ClusterSecretStore"
    path: Annotated[str, Field(pattern=r"^[A-Za-z0-9/_.-]*$")] = "slipway/"
    """Beginning of the remote keys; the name of a secret without its prefix follows, such as `slipway/registry`."""
    refresh_interval: Annotated[str, Field(pattern=r"^[0-9]+(s|m|h)$")] = "1h"


class Secrets(Strict):
    """Secrets, one for each service: `PREFIX-registry` …; `python -m deploy.helm.secrets` makes them."""

    source: Literal["existing", "external"] = "existing"
    """`existing`: they are in the namespace before the chart. `external`: the chart has an ExternalSecret for each."""
    prefix: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$")] = "slipway"
    external: SecretStore = SecretStore()
    console_orders: bool = False
    """People order at the console: the secret `PREFIX-console-orders` with their credentials must be there."""


class CertificateIssuer(Strict):
    """The issuer of cert-manager."""

    name: OptionalName = ""
    kind: Literal["Issuer", "ClusterIssuer"] = "ClusterIssuer"


class Route(Strict):
    """An HTTPRoute of the Gateway API."""

    enabled: bool = False
    hostnames: list[HostName] = []
    parent_refs: list[KubernetesObject] = []
    """The Gateways that the route is attached to; required with `enabled`."""


class Otlp(Strict):
    """What the collector of `env.SLIPWAY_OTLP_ENDPOINT` asks for, as files that all pods and jobs get."""

    secret: OptionalName = ""
    """A secret of yours with these files."""
    headers: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]*$")] = ""
    """Its key with headers, such as one with an API key (`SLIPWAY_OTLP_HEADERS`); empty: none."""
    ca: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]*$")] = ""
    """Its key with the authority of the collector's certificate (`SLIPWAY_OTLP_CA`); empty: a public one."""


class Service(Strict):
    """A service of Slipway."""

    enabled: bool = True
    replicas: Annotated[int, Field(ge=0, le=100)] = 2
    """Replicas where KEDA does not scale it; 0 stops it."""
    env: dict[SettingName, str] = {}
    """Settings by their names (docs/reference/settings.md)."""
    secret_env: dict[SettingName, SecretKey] = {}
    """Settings that are secret, such as CONSOLE_OIDC_CLIENT_SECRET: by name, the secret and its key that have them."""
    resources: Resources = Resources()
    state: Volume = Volume()
    """Scratch files and caches, on the node."""
    stop_s: Seconds = 30
    """Seconds that it has to stop, after the pre-stop pause."""
    priority_class_name: OptionalName = ""
    """Empty: the class that the chart makes for its kind, with `priorityClasses.create`."""
    placement: Placement = Placement()
    extra_egress: list[KubernetesObject] = []
    """Further rules of its network policy, such as an identity provider of the gateway."""
    extra_volumes: list[KubernetesObject] = []
    extra_volume_mounts: list[KubernetesObject] = []


class ScaledService(Service):
    """A service that KEDA scales."""

    max_replicas: Annotated[int, Field(ge=1, le=500)] = 4
    """Most replicas with KEDA."""
    min_replicas: Annotated[int, Field(ge=0, le=100)] = 1
    """Fewest replicas with KEDA. 0 needs the monitoring endpoint of NATS: a service that is away reports no lag. The
    gateway needs at least 1."""


class ConsoleService(Service):
    """The console."""

    ingress_from: list[KubernetesObject] = []
    """Who may reach its port from outside this release (NetworkPolicyPeer)."""


class GatewayService(ScaledService, ConsoleService):
    """The gateway."""


class GatewayTls(Strict):
    """TLS of the gateway itself; without it a proxy before the gateway ends TLS."""

    enabled: bool = False
    secret_name: OptionalName = ""
    """A secret with tls.crt and tls.key; with `issuer` cert-manager writes it."""
    issuer: CertificateIssuer = CertificateIssuer()
    dns_names: list[HostName] = []


class Agent(Strict):
    """The agent beside Triton, which alone has the key of its model control."""

    volume: Claim = Claim(size="1Gi")
    """Where it stores the highest term: a few bytes, which must outlive its pod."""
    resources: Resources = Resources(requests={"cpu": "50m", "memory": "96Mi"}, limits={"memory": "256Mi"})
    placement: Placement = Placement()


class Triton(Strict):
    """The serving engine, Triton."""

    deploy: bool = True
    """False: `grpc` names a Triton of your own, which shares the claim `claim` with server-manager. Give it the key of
    model control of the secret `triton`, which only its agent uses."""
    engine: Literal["slipway", "toy"] = "slipway"
    """`slipway`: vLLM on a GPU. `toy`: answers are made up, on the CPU, to try out an installation."""
    grpc: OptionalHostPort = ""
    agent: Agent = Agent()
    gpus: Annotated[int, Field(ge=0, le=16)] = 1
    gpu_resource: Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$")] = "nvidia.com/gpu"
    hardware: Annotated[str, Field(pattern=r"^(cpu|cuda:[0-9]+\.[0-9]+)?$")] = ""
    """Compute capability of its GPU (`cuda:9.0`), which decides the precisions that it can serve."""
    hardware_name: Annotated[str, Field(pattern=r"^[ -~]*$", max_length=200)] = ""
    """Name of its hardware, such as `1 x NVIDIA H100 80GB HBM3`, that benchmarks are filed under; required with the
    engine `slipway`. Give another name when the hardware changes: figures of other hardware are not compared."""
    memory_budget_bytes: Annotated[int, Field(ge=0)] = 0
    """Memory that all models together may reserve; required with `deploy` and the engine `slipway`."""
    engine_args: dict[str, Any] = {"gpu_memory_utilization": 0.18}
    runtime_class_name: OptionalName = ""
    resources: Resources = Resources(requests={"cpu": "4", "memory": "16Gi"}, limits={"memory": "64Gi"})
    shared_memory: Quantity = "2Gi"
    volume: Claim = Claim(size="200Gi")
    """Model repository and local copies of models, shared with server-manager; node-local disks are fastest."""
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] = "ReadWriteOnce"
    """ReadWriteOnce: server-manager runs on Triton's node, with Triton's tolerations."""
    claim: OptionalName = ""
    """An existing claim in place of one that the chart makes."""
    env: dict[SettingName, str] = {}
    """Settings of the engine. SLIPWAY_OTLP_ENDPOINT, _HEADERS and _CA come from `env` and `otlp`."""
    extra_egress: list[KubernetesObject] = []
    """Rules of its network policy; without them, and without a collector, it connects to nothing."""
    extra_volumes: list[KubernetesObject] = []
    extra_volume_mounts: list[KubernetesObject] = []
    stop_s: Seconds = 75
    placement: Placement = Placement(
        tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    )


class Network(Strict):
    """Network policies, generated from the contracts."""

    enabled: bool = True
    outside_cidr: Cidr = "0.0.0.0/0"
    """Where model hubs, registries and receivers are."""
    outside_except: list[Cidr] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"]
    outside_ports: list[Port] = [443]
    dns: list[KubernetesObject] = [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
    ]
    """Where names are resolved, at port 53."""
    collector: list[KubernetesObject] = []
    """Where the collector of SLIPWAY_OTLP_ENDPOINT is (NetworkPolicyPeer), at the port of that address; empty: every
    address. Without that setting the policies let nothing through to it."""
    monitoring: list[KubernetesObject] = [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    ]
    """Who scrapes metrics."""
    keda: list[KubernetesObject] = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}]
    """Who reads the monitoring endpoint of a NATS of this chart."""


class Monitoring(Strict):
    """Objects for the Prometheus operator and Grafana."""

    pod_monitor: bool = False
    prometheus_rule: bool = False
    dashboards: bool = False
    """Dashboards in config maps with the label `grafana_dashboard`."""
    labels: dict[str, str] = {}
    """Labels that your Prometheus selects by, such as `release: prometheus`."""
    interval: Annotated[str, Field(pattern=r"^[0-9]+s$")] = "15s"


class Keda(Strict):
    """Autoscaling by KEDA."""

    enabled: bool = False
    prometheus: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""
    """Address of Prometheus: the trigger on our own lag metric, and the one of the gateway. Empty: none of them."""
    polling_s: Seconds = 15
    cooldown_s: Seconds = 600
    """Seconds without work until a service is scaled to 0, and until fewer replicas run."""
    lag: dict[Literal["merger", "quantiser", "benchmarker", "monitor"], Count] = Field(
        {name: work.lag for name, work in SCALED.items()}, validate_default=True
    )
    """Messages, waiting and in work, for each replica (docs/kubernetes.md has the derivation)."""
    in_flight: Count = 256
    """Requests that a replica of the gateway answers at the same time."""


class Prepare(Strict):
    """The job that creates streams, consumers and buckets before an installation or upgrade."""

    resources: Resources = Resources()
    deadline_s: Seconds = 600
    retries: Annotated[int, Field(ge=0, le=20)] = 6
    placement: Placement = Placement()


class Provisioner(Strict):
    """Makes telemetry, a stream in memory, again after a restart of the bus; without it nothing is watched then."""

    resources: Resources = Resources(requests={"cpu": "20m", "memory": "96Mi"}, limits={"memory": "256Mi"})
    placement: Placement = Placement()


class Backup(Strict):
    """Scheduled backups as an administrator, whose credential is in the secret `SECRETS.PREFIX-backup`."""

    enabled: bool = False
    schedule: Annotated[str, Field(pattern=r"^\S+( \S+){4}$")] = "17 2 * * *"
    destination: Annotated[str, Field(pattern=r"^(s3://\S+|/backup(/\S*)?)?$")] = ""
    """`s3://BUCKET/PREFIX`, or a folder below /backup, which is the volume."""
    endpoint: OptionalHostPort = ""
    """Host and port of the S3 server of an s3:// destination; its key is `backup-store` in the same secret."""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")] = "us-east-1"
    private_authority: bool = False
    """The server's certificate is from the authority in `backup-ca.pem` of the same secret, not from a public one."""
    egress: Peers = Peers()
    """Where that server is."""
    volume: Claim = Claim(size="200Gi")
    """Used if the destination is a folder."""
    deadline_s: Annotated[int, Field(ge=60)] = 21600
    resources: Resources = Resources(limits={"memory": "4Gi"})
    extra_args: list[str] = []


class Tests(Strict):
    """`helm test`: publishes a canned checkpoint, waits until it is proven in staging, and cancels it there."""

    enabled: bool = True
    model: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")] = "slipway-smoke"
    deadline_s: Annotated[int, Field(ge=120, le=7200)] = 1800


class PriorityClasses(Strict):
    """Classes of priority: serving before control before batch."""

    create: bool = False
    """They are objects of the cluster: creating them needs a right beyond the namespace."""
    serving: int = 1_000_000
    control: int = 500_000
    batch: int = 1_000


_GIB4 = Resources(requests={"cpu": "2", "memory": "4Gi"}, limits={"memory": "16Gi"})
_DEFAULTS: Final[dict[str, Service]] = {
    "merger": ScaledService(
        replicas=1, min_replicas=0, resources=_GIB4, state=Volume(kind="ephemeral", size="100Gi"), stop_s=60
    ),
    "quantiser": ScaledService(
        replicas=1,
        min_replicas=0,
        max_replicas=8,
        resources=Resources(requests={"cpu": "2", "memory": "6Gi"}, limits={"memory": "24Gi"}),
        state=Volume(kind="ephemeral", size="200Gi"),
        stop_s=60,
    ),
    "benchmarker": ScaledService(replicas=1, min_replicas=0, max_replicas=1),
    "monitor": ScaledService(
        min_replicas=2, resources=Resources(requests={"cpu": "500m", "memory": "768Mi"}, limits={"memory": "2Gi"})
    ),
    "gateway": GatewayService(
        min_replicas=2,
        max_replicas=10,
        resources=Resources(requests={"cpu": "1", "memory": "512Mi"}, limits={"memory": "2Gi"}),
        state=Volume(kind="persistent", size="1Gi"),
        stop_s=45,
        env={"GATEWAY_BEHIND_PROXY": "true"},
    ),
    "console": ConsoleService(replicas=1, state=Volume(kind="persistent", size="10Gi")),
    "mirror": Service(enabled=False, replicas=1, state=Volume(size="50Gi")),
    "notifier": Service(enabled=False),
    "server-manager": Service(resources=Resources(limits={"memory": "2Gi"})),
}
Services: Final = create_model(  # type: ignore[call-overload]
    "Services",
    __base__=Strict,
    __doc__="The services of Slipway, each a workload of its own.",
    **{
        name.replace("-", "_"): (type(default), Field(default, alias=name))
        for name in SERVICES
        for default in (_DEFAULTS.get(name, Service()),)
    },
)


class Values(Strict):
    """Values of the chart."""

    name_override: OptionalName = ""
    """Beginning of the names of all objects, in place of the release's name."""
    image: Image = Image()
    nats: Nats = Nats()
    store: Store = Store()
    secrets: Secrets = Secrets()
    env: dict[SettingName, str] = {}
    """Settings of all services, such as SLIPWAY_OTLP_ENDPOINT."""
    otlp: Otlp = Otlp()
    services: Services = Services()
    gateway_tls: GatewayTls = GatewayTls()
    gateway_route: Route = Route()
    console_route: Route = Route()
    triton: Triton = Triton()
    prepare: Prepare = Prepare()
    provisioner: Provisioner = Provisioner()
    network: Network = Network()
    monitoring: Monitoring = Monitoring()
    keda: Keda = Keda()
    backup: Backup = Backup()
    tests: Tests = Tests()
    priority_classes: PriorityClasses = PriorityClasses()
    pre_stop_s: Annotated[int, Field(ge=0, le=120)] = 10
    """Pause before a pod is told to stop, in which load balancers learn that it goes."""
    spread: Literal["ScheduleAnyway", "DoNotSchedule", "none"] = "ScheduleAnyway"
    """Whether replicas of a service must be on different hosts and zones."""
    pod_labels: dict[str, str] = {}
    """Further labels of all pods; the names of the chart's own are refused (`app.kubernetes.io/`, `helm.sh/`)."""
    pod_annotations: dict[str, str] = {}
    globals: Annotated[KubernetesObject, Field(alias="global")] = {}
    """What a parent chart gives to all charts; not used."""
