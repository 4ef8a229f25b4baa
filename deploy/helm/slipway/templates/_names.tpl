{{- define "slipway.name" -}}
{{- default .Release.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "slipway.facts" -}}
{{- .Files.Get "files/facts.yaml" -}}
{{- end }}

{{/* Labels that select the pods of one component: root, component. */}}
{{- define "slipway.selector" -}}
app.kubernetes.io/name: slipway
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "slipway.labels" -}}
{{ include "slipway.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: slipway
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* Name and labels of an object: root, component, and hook, which orders it before the chart's other objects. */}}
{{- define "slipway.metadata" -}}
name: {{ include "slipway.name" .root }}-{{ .component }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "slipway.labels" . | nindent 2 }}
{{- with .hook }}
annotations:
  helm.sh/hook: pre-install,pre-upgrade
  helm.sh/hook-weight: {{ . | quote }}
  helm.sh/hook-delete-policy: before-hook-creation
{{- end }}
{{- end }}

{{- define "slipway.image" -}}
{{- $image := .root.Values.image -}}
{{- $name := printf "%s/%s%s" $image.registry $image.prefix .image -}}
{{- with index $image.digests .image -}}
{{ $name }}@{{ . }}
{{- else -}}
{{ $name }}:{{ default $.root.Chart.AppVersion $image.tag }}
{{- end -}}
{{- end }}

{{- define "slipway.secret" -}}
{{ .root.Values.secrets.prefix }}-{{ .secret }}
{{- end }}

{{- define "slipway.natsUrl" -}}
{{- if .Values.nats.deploy -}}
tls://{{ include "slipway.name" . }}-nats:4222
{{- else -}}
{{ .Values.nats.url }}
{{- end -}}
{{- end }}

{{- define "slipway.natsMonitoring" -}}
{{- if .Values.nats.deploy -}}
{{ include "slipway.name" . }}-nats.{{ .Release.Namespace }}.svc:8222
{{- else -}}
{{ .Values.nats.monitoring }}
{{- end -}}
{{- end }}

{{- define "slipway.storeEndpoint" -}}
{{- if .Values.store.deploy -}}
{{ include "slipway.name" . }}-store:9000
{{- else -}}
{{ .Values.store.endpoint }}
{{- end -}}
{{- end }}

{{- define "slipway.tritonGrpc" -}}
{{- if .Values.triton.deploy -}}
{{ include "slipway.name" . }}-triton:8001
{{- else -}}
{{ .Values.triton.grpc }}
{{- end -}}
{{- end }}

{{- define "slipway.gatewayUrl" -}}
{{ ternary "https" "http" .Values.gatewayTls.enabled }}://{{ include "slipway.name" . }}-gateway:8080
{{- end }}

{{/* Whether bus or store are of this release: what needs them cannot be a hook that comes before them. */}}
{{- define "slipway.ownServers" -}}
{{- if or .Values.nats.deploy .Values.store.deploy -}}true{{- end -}}
{{- end }}

{{/* The class of priority of a component: serving, control or batch. */}}
{{- define "slipway.priority" -}}
{{- $kind := "control" -}}
{{- if has .component (list "gateway" "triton" "monitor" "rollback-controller" "server-manager" "nats" "store") -}}
{{- $kind = "serving" -}}
{{- else if has .component (list "merger" "quantiser" "benchmarker" "evaluator" "mirror" "backup" "smoke") -}}
{{- $kind = "batch" -}}
{{- end -}}
{{- if .name -}}
{{ .name }}
{{- else if .root.Values.priorityClasses.create -}}
{{ include "slipway.name" .root }}-{{ $kind }}
{{- end -}}
{{- end }}
