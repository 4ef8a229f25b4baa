{{/* The settings of one service besides those of all: root, component, facts. */}}
{{- define "slipway.ownEnv" -}}
{{- $values := .root.Values -}}
- name: SLIPWAY_HTTP_HOST
  value: 0.0.0.0
- name: SLIPWAY_HTTP_PORT
  value: "8080"
{{- if .facts.attests }}
- name: SLIPWAY_ATTESTATION_KEY
  value: /run/secrets/slipway/attestation
{{- end }}
{{- if eq .component "gateway" }}
- name: GATEWAY_ADMIN_HOST
  value: 0.0.0.0
- name: GATEWAY_ADMIN_PORT
  value: {{ .facts.adminPort | quote }}
- name: GATEWAY_API_KEYS
  value: /run/secrets/slipway/api-keys.json
{{- if $values.gatewayTls.enabled }}
- name: GATEWAY_TLS_CERTIFICATE
  value: /run/tls/tls.crt
- name: GATEWAY_TLS_KEY
  value: /run/tls/tls.key
{{- end }}
{{- else if eq .component "rollback-controller" }}
- name: ROLLBACK_CONTROLLER_GATEWAY_URL
  value: {{ include "slipway.gatewayUrl" .root | quote }}
- name: ROLLBACK_CONTROLLER_GATEWAY_KEY
  value: /run/secrets/slipway/gateway-key
{{- if $values.gatewayTls.enabled }}
- name: ROLLBACK_CONTROLLER_GATEWAY_CA
  value: /run/tls/ca.crt
{{- end }}
{{- else if eq .component "console" }}
- name: CONSOLE_IDENTITIES
  value: /run/trust/identities.json
- name: CONSOLE_CREDENTIALS
  value: /run/console
{{- if $values.services.gateway.enabled }}
- name: CONSOLE_GATEWAY_URL
  value: {{ include "slipway.gatewayUrl" .root | quote }}
{{- if $values.gatewayTls.enabled }}
- name: CONSOLE_GATEWAY_CA
  value: /run/tls/ca.crt
{{- end }}
{{- end }}
{{- else if eq .component "benchmarker" }}
- name: BENCHMARKER_SERVING_HARDWARE
  value: {{ default "toy engine" $values.triton.hardwareName | quote }}
{{- else if eq .component "server-manager" }}
- name: SERVER_MANAGER_TRITON_GRPC
  value: {{ include "slipway.tritonGrpc" .root | quote }}
- name: SERVER_MANAGER_ENGINE
  value: {{ $values.triton.engine }}
- name: SERVER_MANAGER_DEVICE
  value: {{ ternary "cpu" "gpu" (eq $values.triton.engine "toy") }}
- name: SERVER_MANAGER_HARDWARE
  value: {{ $values.triton.hardware | quote }}
- name: SERVER_MANAGER_MEMORY_BUDGET_BYTES
  value: {{ $values.triton.memoryBudgetBytes | int64 | quote }}
- name: SERVER_MANAGER_ENGINE_ARGS
  value: {{ ternary (dict) $values.triton.engineArgs (eq $values.triton.engine "toy") | toJson | quote }}
- name: SERVER_MANAGER_REPOSITORY
  value: /serving/models
- name: SERVER_MANAGER_ARTIFACTS
  value: /serving/artifacts
- name: SERVER_MANAGER_AGENT_GRPC
  value: {{ include "slipway.name" .root }}-agent:8003
{{- end }}
{{- end }}

{{/* The pod of a service: root, component, facts, service (its values). */}}
{{- define "slipway.servicePod" -}}
{{- $values := .root.Values -}}
{{- $tls := and $values.gatewayTls.enabled (has .component (list "gateway" "rollback-controller" "console")) -}}
{{- $placement := deepCopy .service.placement -}}
{{- if include "slipway.followsTriton" . -}}
{{- $_ := set $placement "tolerations" (concat $placement.tolerations $values.triton.placement.tolerations | uniq) -}}
{{- end -}}
{{- $_ := set $placement "affinity" (include "slipway.affinity" . | fromYaml) -}}
{{- include "slipway.podBase" (dict "root" .root "component" .component "placement" $placement "priority" .service.priorityClassName) }}
terminationGracePeriodSeconds: {{ add $values.preStopS .service.stopS }}
shareProcessNamespace: true # so that the program is not process 1, which its own container cannot kill
{{ include "slipway.spread" . }}
containers:
  - name: {{ .component }}
    image: {{ include "slipway.image" (dict "root" .root "image" .component) }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    securityContext:
      {{- include "slipway.containerSecurity" . | nindent 6 }}
    env:
      {{- include "slipway.busEnv" . | nindent 6 }}
      {{- if .facts.store }}
      {{- include "slipway.storeEnv" . | nindent 6 }}
      {{- end }}
      {{- include "slipway.ownEnv" . | nindent 6 }}
      {{- include "slipway.plainEnv" (merge (dict) .service.env (include "slipway.commonEnv" .root | fromYaml)) | nindent 6 }}
      {{- range $name, $from := .service.secretEnv }}
      - name: {{ $name }}
        valueFrom:
          secretKeyRef:
            name: {{ $from.secret }}
            key: {{ $from.key }}
      {{- end }}
    ports:
      - name: http
        containerPort: 8080
      {{- if ne (int .facts.adminPort) 8080 }}
      - name: admin
        containerPort: {{ .facts.adminPort }}
      {{- end }}
    {{- include "slipway.probes" .facts | nindent 4 }}
    {{- include "slipway.preStop" .root | nindent 4 }}
    resources:
      {{- toYaml .service.resources | nindent 6 }}
    volumeMounts:
      {{- include "slipway.secretMounts" . | nindent 6 }}
      - name: state
        mountPath: /state
      {{- if eq .component "server-manager" }}
      - name: serving
        mountPath: /serving
      {{- else if eq .component "console" }}
      - name: orders
        mountPath: /run/console
        readOnly: true
      {{- end }}
      {{- if $tls }}
      - name: tls
        mountPath: /run/tls
        readOnly: true
      {{- end }}
      {{- with .service.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes:
  {{- include "slipway.secretVolumes" (dict "root" .root "secret" .component) | nindent 2 }}
  {{- if ne .service.state.kind "persistent" }}
  {{- include "slipway.volume" (dict "name" "state" "volume" .service.state) | nindent 2 }}
  {{- end }}
  {{- if eq .component "server-manager" }}
  - name: serving
    persistentVolumeClaim:
      claimName: {{ default (printf "%s-serving" (include "slipway.name" .root)) $values.triton.claim }}
  {{- else if eq .component "console" }}
  - name: orders
    secret:
      secretName: {{ $values.secrets.prefix }}-console-orders
      defaultMode: 0440
      optional: {{ not $values.secrets.consoleOrders }} # without it the console shows, and orders nothing
  {{- end }}
  {{- if $tls }}
  - name: tls
    secret:
      secretName: {{ $values.gatewayTls.secretName }}
      defaultMode: 0440
      {{- if ne .component "gateway" }}
      items:
        - key: ca.crt
          path: ca.crt
      {{- end }}
  {{- end }}
  {{- with .service.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "slipway.probes" -}}
{{- $port := ternary "http" "admin" (eq (int .adminPort) 8080) -}}
startupProbe:
  httpGet:
    path: /healthz
    port: {{ $port }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  httpGet:
    path: /healthz
    port: {{ $port }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet:
    path: /readyz
    port: {{ $port }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end }}

{{/* The affinity of a service. A claim that one node mounts at a time: server-manager follows Triton. */}}
{{- define "slipway.affinity" -}}
{{- $affinity := deepCopy .service.placement.affinity -}}
{{- if include "slipway.followsTriton" . -}}
{{- $labels := include "slipway.selector" (dict "root" .root "component" "triton") | fromYaml -}}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" $labels) -}}
{{- $affinity = merge (dict "podAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $term))) $affinity -}}
{{- end -}}
{{- toYaml $affinity -}}
{{- end }}
