"""Values that people would install the chart with, and values that it must refuse, each with the reason that it names."""

from typing import Any, Final

import yaml

from tests.kit.wiring import ROOT

MEMORY: Final = {"memoryBudgetBytes": 80_000_000_000, "hardwareName": "1 x NVIDIA H100"}
COLLECTOR: Final = [{"namespaceSelector": {"matchLabels": {"name": "telemetry"}}}]
GATEWAY: Final = [{"name": "public", "namespace": "ingress"}]


def example(name: str) -> Any:
    """Return the values of a file that people begin with."""
    return yaml.safe_load((ROOT / f"deploy/helm/{name}.yaml").read_text())


ZONES: Final = {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["a", "b", "c"]}
PLACED: Final = {
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [ZONES]}]}
        }
    }
}


CASES: Final[dict[str, dict[str, Any]]] = {
    "external": {"triton": MEMORY},
    "trial": example("trial"),
    "production": example("production"),
    "everything": {
        "image": {
            "registry": "registry.example.org/slipway",
            "tag": "0.1.0",
            "digests": {"gateway": "sha256:" + "a" * 64},
            "pullSecrets": ["pull"],
        },
        "nats": {"url": "tls://n0:4222,tls://n1:4222", "monitoring": "nats-headless.nats.svc:8222"},
        "store": {"endpoint": "s3.example.org:443", "egress": {"port": 9443}},
        "env": {"SLIPWAY_OTLP_ENDPOINT": "http://collector:4318", "SLIPWAY_LOG_LEVEL": "WARNING"},
        "network": {"collector": COLLECTOR},
        "otlp": {"secret": "collector", "headers": "api-key", "ca": "ca.crt"},
        "secrets": {"source": "external", "external": {"name": "vault"}, "consoleOrders": True},
        "services": {
            "mirror": {"enabled": True, "env": {"MIRROR_MLFLOW_URL": "https://mlflow.example.org"}},
            "notifier": {"enabled": True},
            "gateway": {
                "ingressFrom": [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}],
                "placement": PLACED,
            },
            "console": {"secretEnv": {"CONSOLE_OIDC_CLIENT_SECRET": {"secret": "sign-in", "key": "client-secret"}}},
        },
        "gatewayTls": {"enabled": True, "secretName": "gateway-tls", "issuer": {"name": "internal"}},
        "consoleRoute": {"enabled": True, "hostnames": ["console.example.org"], "parentRefs": GATEWAY},
        "triton": {
            **MEMORY,
            "accessMode": "ReadWriteMany",
            "gpus": 2,
            "hardware": "cuda:9.0",
            "placement": PLACED,
            "agent": {"placement": PLACED},
        },
        "prepare": {"placement": PLACED},
        "provisioner": {"placement": PLACED},
        "monitoring": {"podMonitor": True, "prometheusRule": True, "dashboards": True, "labels": {"release": "kps"}},
        "keda": {"enabled": True, "prometheus": "http://prometheus.monitoring:9090"},
        "backup": {"enabled": True},
        "priorityClasses": {"create": True},
        "spread": "DoNotSchedule",
    },
    "three-servers": {
        "nats": {"deploy": True, "servers": 3, "replicas": 3},
        "triton": MEMORY,
        "keda": {"enabled": True},
        "spread": "DoNotSchedule",
    },
    "own-triton": {
        "nats": {"url": "tls://n0:4223,tls://n1"},
        "store": {"endpoint": "s3.example.org:443"},
        "triton": {
            "deploy": False,
            "grpc": "triton.serving.svc:8001",
            "claim": "models",
            "hardwareName": "2 x NVIDIA L40S",
        },
        "keda": {"enabled": True, "prometheus": "http://prometheus:9090"},
        "services": {name: {"minReplicas": 1} for name in ("merger", "quantiser", "benchmarker")},
    },
    "small": {
        "nameOverride": "sl",
        "triton": MEMORY,
        "network": {"enabled": False},
        "tests": {"enabled": False},
        "spread": "none",
        "preStopS": 0,
        "backup": {"enabled": True, "destination": "/backup/slipway"},
        "services": {"console": {"enabled": False}, "gateway": {"state": {"kind": "emptyDir"}}},
    },
}

SECRET: Final = {"secret": "sign-in", "key": "client-secret"}
_KEDA: Final = {"enabled": True}
REFUSED: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "no memory": ({}, "triton.memoryBudgetBytes is 0: say how many bytes"),
    "no name of the hardware": (
        {"triton": {"memoryBudgetBytes": 1}},
        "triton.hardwareName is empty: name the hardware",
    ),
    "a route to a gateway that speaks TLS": (
        {
            "gatewayTls": {"enabled": True, "secretName": "gateway-tls"},
            "gatewayRoute": {"enabled": True, "parentRefs": GATEWAY},
            "triton": MEMORY,
        },
        "gatewayRoute and gatewayTls are both enabled: choose one",
    ),
    "a kind of a volume that is always a claim": ({"triton": {"volume": {"kind": "emptyDir"}}}, "'kind' not allowed"),
    "replicas by KEDA of what it does not scale": (
        {"services": {"registry": {"maxReplicas": 3}}},
        "'maxReplicas' not allowed",
    ),
    "callers of what nothing outside calls": (
        {"services": {"merger": {"ingressFrom": []}}},
        "'ingressFrom' not allowed",
    ),
    "a secret setting that the chart makes": (
        {"services": {"gateway": {"secretEnv": {"GATEWAY_API_KEYS": SECRET}}}, "triton": MEMORY},
        "services.gateway.secretEnv.GATEWAY_API_KEYS is set by the chart itself",
    ),
    "a secret setting that is given as text, too": (
        {"services": {"console": {"secretEnv": {"HF_TOKEN": SECRET}, "env": {"HF_TOKEN": "x"}}}, "triton": MEMORY},
        "services.console.secretEnv.HF_TOKEN is in env, too: remove it from one of them",
    ),
    "such a setting of all as text, too": (
        {"services": {"console": {"secretEnv": {"HF_TOKEN": SECRET}}}, "env": {"HF_TOKEN": "x"}, "triton": MEMORY},
        "services.console.secretEnv.HF_TOKEN is in env, too: remove it from one of them",
    ),
    "a setting of Triton that the chart makes": (
        {"triton": {**MEMORY, "env": {"SLIPWAY_TRITON_ADMIN_KEY": "x"}}},
        "triton.env.SLIPWAY_TRITON_ADMIN_KEY is set by the chart itself",
    ),
    "a secret setting without a key": ({"services": {"console": {"secretEnv": {"A": {"secret": "s"}}}}}, "'key'"),
    "unknown key": ({"tritn": {}}, "additional properties 'tritn' not allowed"),
    "unknown service": ({"services": {"merge": {}}}, "additional properties 'merge' not allowed"),
    "plain NATS": ({"nats": {"url": "nats://nats:4222"}}, "'/nats/url'"),
    "even replicas": ({"nats": {"replicas": 2}}, "'/nats/replicas'"),
    "more copies than own servers": (
        {"nats": {"deploy": True}, "triton": MEMORY},
        "nats.replicas is 3 with nats.deploy, and nats.servers is 1: set both to 3",
    ),
    "one copy on three own servers": (
        {"nats": {"deploy": True, "servers": 3, "replicas": 1}, "triton": MEMORY},
        "nats.replicas is 1 with nats.servers 3: the loss of one server would lose data, so set it to 3",
    ),
    "a log that own servers do not take": (
        {"nats": {"deploy": True, "replicas": 1, "eventsMaxBytes": 9 * 1024**3}, "triton": MEMORY},
        "nats.eventsMaxBytes is 9663676416 with nats.deploy: beside the other streams",
    ),
    "two own servers": ({"nats": {"deploy": True, "servers": 2, "replicas": 1}, "triton": MEMORY}, "'/nats/servers'"),
    "store with a scheme": ({"store": {"endpoint": "https://s3:9000"}}, "'/store/endpoint'"),
    "setting in lower case": ({"env": {"slipway_log_level": "INFO"}}, "slipway_log_level"),
    "setting that is a number": ({"env": {"GATEWAY_WORKERS": 2}}, "'/env/GATEWAY_WORKERS'"),
    "negative replicas": ({"services": {"registry": {"replicas": -1}}}, "'/services/registry/replicas'"),
    "a mutable digest": ({"image": {"digests": {"gateway": "latest"}}}, "'/image/digests/gateway'"),
    "two consoles": ({"services": {"console": {"replicas": 2}}, "triton": MEMORY}, "it keeps state of its own"),
    "external secrets without a store": (
        {"secrets": {"source": "external"}, "triton": MEMORY},
        "secrets.external.name is empty",
    ),
    "own Triton without an address": ({"triton": {"deploy": False}}, "name your own Triton in triton.grpc"),
    "a route to nowhere": ({"gatewayRoute": {"enabled": True}, "triton": MEMORY}, "gatewayRoute.parentRefs is empty"),
    "TLS without a secret": ({"gatewayTls": {"enabled": True}, "triton": MEMORY}, "gatewayTls.secretName is empty"),
    "a backup into the root": ({"backup": {"destination": "/etc"}}, "'/backup/destination'"),
    "a setting that the chart makes": (
        {"services": {"gateway": {"env": {"GATEWAY_API_KEYS": "/run/other"}}}, "triton": MEMORY},
        "services.gateway.env.GATEWAY_API_KEYS is set by the chart itself",
    ),
    "such a setting for all": ({"env": {"SLIPWAY_NATS_URL": "tls://x:4222"}, "triton": MEMORY}, "env.SLIPWAY_NATS_URL"),
    "files of a collector from nowhere": (
        {"otlp": {"headers": "h"}, "env": {"SLIPWAY_OTLP_ENDPOINT": "http://c:4318"}, "triton": MEMORY},
        "otlp.secret is empty with otlp.headers or otlp.ca",
    ),
    "a secret of a collector of which nothing is used": (
        {"otlp": {"secret": "collector"}, "env": {"SLIPWAY_OTLP_ENDPOINT": "http://c:4318"}, "triton": MEMORY},
        "otlp.secret is collector, and otlp.headers and otlp.ca are empty",
    ),
    "headers for no collector": (
        {"otlp": {"secret": "collector", "headers": "h"}, "triton": MEMORY},
        "env.SLIPWAY_OTLP_ENDPOINT is not set with otlp.secret",
    ),
    "headers twice": (
        {
            "otlp": {"secret": "collector", "headers": "h"},
            "env": {"SLIPWAY_OTLP_ENDPOINT": "http://c:4318", "SLIPWAY_OTLP_HEADERS": "/run/headers"},
            "triton": MEMORY,
        },
        "env.SLIPWAY_OTLP_HEADERS is set by the chart itself with otlp.secret",
    ),
    "no network": ({"network": {"outsideCidr": "everywhere"}}, "'/network/outsideCidr'"),
    "scaled by nothing": ({"keda": _KEDA, "triton": MEMORY}, "keda.enabled needs what to scale by"),
    "to zero and never again": (
        {"keda": {**_KEDA, "prometheus": "http://prometheus:9090"}, "triton": MEMORY},
        "a service that is away reports no lag",
    ),
    "fewest above most": (
        {
            "keda": _KEDA,
            "nats": {"monitoring": "nats:8222"},
            "services": {"monitor": {"minReplicas": 9}},
            "triton": MEMORY,
        },
        "services.monitor.minReplicas is 9, above maxReplicas 4",
    ),
    "no gateway, and never one again": (
        {
            "keda": {**_KEDA, "prometheus": "http://prometheus:9090"},
            "nats": {"monitoring": "nats:8222"},
            "services": {"gateway": {"minReplicas": 0}},
            "triton": MEMORY,
        },
        "services.gateway.minReplicas is 0: it is scaled by its own metric",
    ),
    "more memory than its limit": (
        {"services": {"registry": {"resources": {"requests": {"memory": "1025Mi"}}}}, "triton": MEMORY},
        "services.registry.resources.requests.memory is 1025Mi, above its limit 1Gi: raise resources.limits.memory, too.",
    ),
    "more processors than its limit": (
        {"triton": {**MEMORY, "agent": {"resources": {"requests": {"cpu": 1}, "limits": {"cpu": "900m"}}}}},
        "triton.agent.resources.requests.cpu is 1, above its limit 900m",
    ),
    "an annotation that orders objects": (
        {"podAnnotations": {"helm.sh/hook": "pre-install"}, "triton": MEMORY},
        "podAnnotations.helm.sh/hook is set by the chart itself",
    ),
    "a label that the chart selects pods by": (
        {"podLabels": {"app.kubernetes.io/component": "gateway"}, "triton": MEMORY},
        "podLabels.app.kubernetes.io/component is set by the chart itself",
    ),
    "a port that is none": (
        {"store": {"endpoint": "s3:65536"}, "triton": MEMORY},
        "store.endpoint names the port 65536: ports are 1 to 65535",
    ),
    "such a port of one of several servers": (
        {"nats": {"url": "tls://n0:4222,tls://n1:42222222"}, "triton": MEMORY},
        "nats.url names the port 42222222",
    ),
    "a threshold of zero": ({"keda": {"lag": {"merger": 0}}}, "'/keda/lag/merger'"),
}

_META: Final = {"name": "x", "namespace": "slipway", "labels": {}}
UNSET: Final[dict[str, dict[str, Any]]] = {
    name: {"triton": MEMORY} | values
    for name, values in {
        "limits of a service": {"services": {"merger": {"resources": {"limits": None}}}},
        "limits of a part": {"store": {"resources": {"limits": None}}},
        "labels": {"podLabels": None},
        "annotations": {"podAnnotations": None},
    }.items()
}
"""Values by which people remove a default of the chart, as `null` does in Helm: they are taken."""


BROKEN: Final[dict[str, dict[str, Any]]] = {
    "unknown field": {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "x"}, "automount": False},
    "wrong type": {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "x"},
        "spec": {"selector": "x"},
    },
    "unknown kind": {"apiVersion": "batch/v2", "kind": "Job", "metadata": {"name": "x"}},
    "KEDA": {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": _META, "spec": {"triggers": []}},
    "Prometheus": {"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": _META, "spec": {"x": 1}},
    "cert-manager": {"apiVersion": "cert-manager.io/v1", "kind": "Certificate", "metadata": _META, "spec": {"dns": []}},
    "External Secrets": {
        "apiVersion": "external-secrets.io/v1",
        "kind": "ExternalSecret",
        "metadata": _META,
        "spec": {"data": []},
    },
    "Gateway API": {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": _META,
        "spec": {"parentRefs": []},
    },
    "KServe": {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "x", "annotations": {}},
        "spec": {
            "predictor": {
                "minReplicas": 1,
                "maxReplicas": 1,
                "deploymentStrategy": {"type": "Recreate"},
                "containers": [{"name": "x", "port": 1}],
            }
        },
    },
}
"""Objects that a validator must refuse."""
