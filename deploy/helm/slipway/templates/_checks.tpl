{{/* Settings that the chart makes of other values; twice in one container they would be refused, or one of them lost. */}}
{{- define "slipway.ownSettings" -}}
- SLIPWAY_NATS_URL
- SLIPWAY_NATS_CREDENTIALS
- SLIPWAY_NATS_CA
- SLIPWAY_ATTESTERS
- SLIPWAY_ATTESTATION_KEY
- SLIPWAY_TEAMS
- SLIPWAY_STATE_DIR
- SLIPWAY_HTTP_HOST
- SLIPWAY_HTTP_PORT
- SLIPWAY_S3_ENDPOINT
- SLIPWAY_S3_CREDENTIALS
- SLIPWAY_S3_CA
- SLIPWAY_S3_BUCKET
- SLIPWAY_S3_REGION
- SLIPWAY_REPLICAS
- SLIPWAY_EVENTS_MAX_BYTES
- SLIPWAY_EVENTS_MAX_DAYS
- SLIPWAY_TRITON_ADMIN_KEY
- GATEWAY_ADMIN_HOST
- GATEWAY_ADMIN_PORT
- GATEWAY_API_KEYS
- GATEWAY_TLS_CERTIFICATE
- GATEWAY_TLS_KEY
- ROLLBACK_CONTROLLER_GATEWAY_URL
- ROLLBACK_CONTROLLER_GATEWAY_KEY
- ROLLBACK_CONTROLLER_GATEWAY_CA
- CONSOLE_IDENTITIES
- CONSOLE_CREDENTIALS
- CONSOLE_GATEWAY_URL
- CONSOLE_GATEWAY_CA
- BENCHMARKER_SERVING_HARDWARE
- SERVER_MANAGER_TRITON_GRPC
- SERVER_MANAGER_ENGINE
- SERVER_MANAGER_DEVICE
- SERVER_MANAGER_HARDWARE
- SERVER_MANAGER_MEMORY_BUDGET_BYTES
- SERVER_MANAGER_ENGINE_ARGS
- SERVER_MANAGER_REPOSITORY
- SERVER_MANAGER_ARTIFACTS
- SERVER_MANAGER_AGENT_GRPC
- TRITON_AGENT_TRITON_GRPC
- TRITON_AGENT_ADMIN_KEY
- TRITON_AGENT_MANAGERS
- TRITON_AGENT_TERM_FILE
- TRITON_AGENT_LISTEN
{{- end }}

{{/* The values of all services by their paths. */}}
{{- define "slipway.servicesByPath" -}}
{{- $services := dict -}}
{{- range $name, $service := .Values.services -}}
{{- $_ := set $services (printf "services.%s" $name) (dict "resources" $service.resources) -}}
{{- end -}}
{{- toYaml $services -}}
{{- end }}

{{/* A quantity of Kubernetes as a number. */}}
{{- define "slipway.amount" -}}
{{- $units := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 -}}
{{- $text := toString . -}}
{{- $unit := regexFind "[A-Za-z]+$" $text -}}
{{- mulf (trimSuffix $unit $text | float64) (index $units $unit) -}}
{{- end }}

{{/* What the schema cannot say: each refusal names the value and what to do. */}}
{{- define "slipway.checks" -}}
{{- $values := .Values -}}
{{- $facts := include "slipway.facts" . | fromYaml -}}
{{- if and $values.nats.deploy (gt (int $values.nats.replicas) (int $values.nats.servers)) -}}
{{- fail (printf "nats.replicas is %d with nats.deploy, and nats.servers is %d: set both to 3, nats.replicas to 1, or name a cluster of your own in nats.url." (int $values.nats.replicas) (int $values.nats.servers)) -}}
{{- end -}}
{{- if and $values.nats.deploy (eq (int $values.nats.servers) 3) (lt (int $values.nats.replicas) 3) -}}
{{- fail (printf "nats.replicas is %d with nats.servers 3: the loss of one server would lose data, so set it to 3." (int $values.nats.replicas)) -}}
{{- end -}}
{{- $left := sub (int64 $facts.bus.takes) (int64 $facts.bus.others) -}}
{{- if and $values.nats.deploy (gt (int64 $values.nats.eventsMaxBytes) $left) -}}
{{- fail (printf "nats.eventsMaxBytes is %d with nats.deploy: beside the other streams and buckets a server of this chart has %d bytes for the event log; lower it, or name servers of your own in nats.url." (int64 $values.nats.eventsMaxBytes) $left) -}}
{{- end -}}
{{- $addresses := dict "nats.url" $values.nats.url "nats.monitoring" $values.nats.monitoring "store.endpoint" $values.store.endpoint "triton.grpc" $values.triton.grpc -}}
{{- range $name, $addresses := $addresses -}}
{{- range include "slipway.portsOf" (dict "addresses" $addresses "egress" dict "default" 1) | fromYamlArray -}}
{{- if or (lt (int .) 1) (gt (int .) 65535) -}}
{{- fail (printf "%s names the port %d: ports are 1 to 65535." $name (int .)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $part := merge (dict "nats" $values.nats "store" $values.store "triton" $values.triton "triton.agent" $values.triton.agent "prepare" $values.prepare "provisioner" $values.provisioner "backup" $values.backup) (include "slipway.servicesByPath" . | fromYaml) -}}
{{- range $kind, $asked := $part.resources.requests -}}
{{- $limit := index ($part.resources.limits | default dict) $kind -}}
{{- if and $limit (gt (include "slipway.amount" $asked | float64) (include "slipway.amount" $limit | float64)) -}}
{{- fail (printf "%s.resources.requests.%s is %v, above its limit %v: raise resources.limits.%s, too." $name $kind $asked $limit $kind) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name := keys ($values.podAnnotations | default dict) -}}
{{- if hasPrefix "helm.sh/" $name -}}
{{- fail (printf "podAnnotations.%s is set by the chart itself: use another name." $name) -}}
{{- end -}}
{{- end -}}
{{- range $name := keys ($values.podLabels | default dict) -}}
{{- if or (hasPrefix "app.kubernetes.io/" $name) (hasPrefix "helm.sh/" $name) -}}
{{- fail (printf "podLabels.%s is set by the chart itself, which selects pods by it: use another name." $name) -}}
{{- end -}}
{{- end -}}
{{- if and (eq $values.secrets.source "external") (not $values.secrets.external.name) -}}
{{- fail "secrets.external.name is empty with secrets.source external: name the SecretStore that holds the secrets." -}}
{{- end -}}
{{- if and $values.triton.deploy (eq $values.triton.engine "slipway") (not $values.triton.memoryBudgetBytes) -}}
{{- fail "triton.memoryBudgetBytes is 0: say how many bytes of the GPU all models together may reserve (docs/gpu.md); server-manager sees no GPU and would take the memory of its own node." -}}
{{- end -}}
{{- if and (not $values.triton.deploy) (or (not $values.triton.grpc) (not $values.triton.claim)) -}}
{{- fail "triton.deploy is false: name your own Triton in triton.grpc, and in triton.claim the volume claim that it shares with server-manager." -}}
{{- end -}}
{{- if and (eq $values.triton.engine "slipway") (not $values.triton.hardwareName) -}}
{{- fail "triton.hardwareName is empty: name the hardware that Triton runs on, such as \"1 x NVIDIA H100 80GB HBM3\"; benchmarks are filed under it, and the benchmarker sees its own node only." -}}
{{- end -}}
{{- if and $values.gatewayTls.enabled $values.gatewayRoute.enabled -}}
{{- fail "gatewayRoute and gatewayTls are both enabled: choose one; the route speaks plain HTTP to the gateway, which then speaks TLS only." -}}
{{- end -}}
{{- if and $values.gatewayTls.enabled (not $values.gatewayTls.secretName) -}}
{{- fail "gatewayTls.secretName is empty with gatewayTls.enabled: name the secret with tls.crt and tls.key." -}}
{{- end -}}
{{- range $name, $route := dict "gatewayRoute" $values.gatewayRoute "consoleRoute" $values.consoleRoute -}}
{{- if and $route.enabled (not $route.parentRefs) -}}
{{- fail (printf "%s.parentRefs is empty with %s.enabled: name the Gateway that the route is attached to." $name $name) -}}
{{- end -}}
{{- end -}}
{{- range $name := list "console" "mirror" -}}
{{- $most := int (index $values.services $name "replicas") -}}
{{- if gt $most 1 -}}
{{- fail (printf "services.%s is to have %d replicas: it keeps state of its own, so at most 1; another one needs a release of its own." $name $most) -}}
{{- end -}}
{{- end -}}
{{- if and (or $values.otlp.headers $values.otlp.ca) (not $values.otlp.secret) -}}
{{- fail "otlp.secret is empty with otlp.headers or otlp.ca: name the secret that has them." -}}
{{- end -}}
{{- if and $values.otlp.secret (not (or $values.otlp.headers $values.otlp.ca)) -}}
{{- fail (printf "otlp.secret is %s, and otlp.headers and otlp.ca are empty: name the keys of the secret that are to be used." $values.otlp.secret) -}}
{{- end -}}
{{- if and $values.otlp.secret (not (hasKey $values.env "SLIPWAY_OTLP_ENDPOINT")) -}}
{{- fail "env.SLIPWAY_OTLP_ENDPOINT is not set with otlp.secret: name the collector there." -}}
{{- end -}}
{{- range $name, $key := dict "SLIPWAY_OTLP_HEADERS" $values.otlp.headers "SLIPWAY_OTLP_CA" $values.otlp.ca -}}
{{- if and $key (hasKey $values.env $name) -}}
{{- fail (printf "env.%s is set by the chart itself with otlp.secret: remove it." $name) -}}
{{- end -}}
{{- end -}}
{{- $own := include "slipway.ownSettings" . | fromYamlArray -}}
{{- range $name := keys $values.env -}}
{{- if has $name $own -}}
{{- fail (printf "env.%s is set by the chart itself: remove it, and use the value that it is made of." $name) -}}
{{- end -}}
{{- end -}}
{{- range $name := keys $values.triton.env -}}
{{- if has $name $own -}}
{{- fail (printf "triton.env.%s is set by the chart itself: remove it, and use the value that it is made of." $name) -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := $facts.services -}}
{{- $service := index $values.services $name -}}
{{- range $kind := list "env" "secretEnv" -}}
{{- range $setting := keys (index $service $kind) -}}
{{- if has $setting $own -}}
{{- fail (printf "services.%s.%s.%s is set by the chart itself: remove it, and use the value that it is made of." $name $kind $setting) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $setting := keys $service.secretEnv -}}
{{- if or (hasKey $service.env $setting) (hasKey $values.env $setting) -}}
{{- fail (printf "services.%s.secretEnv.%s is in env, too: remove it from one of them." $name $setting) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $values.keda.enabled -}}
{{- $monitoring := include "slipway.natsMonitoring" . -}}
{{- if not (or $monitoring $values.keda.prometheus) -}}
{{- fail "keda.enabled needs what to scale by: set nats.monitoring, keda.prometheus, or both." -}}
{{- end -}}
{{- range $name, $_ := $facts.services -}}
{{- $service := index $values.services $name -}}
{{- if and (hasKey $service "minReplicas") (gt (int $service.minReplicas) (int $service.maxReplicas)) -}}
{{- fail (printf "services.%s.minReplicas is %d, above maxReplicas %d: lower it." $name (int $service.minReplicas) (int $service.maxReplicas)) -}}
{{- end -}}
{{- if and (eq $name "gateway") $values.keda.prometheus $service.enabled (eq (int $service.minReplicas) 0) -}}
{{- fail "services.gateway.minReplicas is 0: it is scaled by its own metric, which a gateway that is away does not report; set it to 1 or more." -}}
{{- end -}}
{{- if and (index $facts.services $name "scales") $service.enabled (eq (int $service.minReplicas) 0) (not $monitoring) -}}
{{- fail (printf "services.%s.minReplicas is 0 and nats.monitoring is empty: a service that is away reports no lag, so nothing would start it again; set nats.monitoring, or minReplicas to 1." $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}
