{{- define "slipway.podsOf" -}}
- podSelector:
    matchLabels:
      {{- include "slipway.selector" . | nindent 6 }}
{{- end }}

{{- define "slipway.toDns" -}}
- to:
    {{- toYaml .Values.network.dns | nindent 4 }}
  ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end }}

{{/* Ports of addresses, as a list: addresses (separated by commas), egress (its port, if one is named), default. */}}
{{- define "slipway.portsOf" -}}
{{- if .egress.port -}}
{{- list (int .egress.port) | toYaml -}}
{{- else -}}
{{- $ports := list -}}
{{- range splitList "," .addresses -}}
{{- $host := regexReplaceAll "/.*$" (regexReplaceAll "^[a-z]+://" (trim .) "") "" -}}
{{- $ports = append $ports (regexFind "[0-9]+$" (regexFind ":[0-9]+$" $host) | default $.default | int) -}}
{{- end -}}
{{- uniq $ports | toYaml -}}
{{- end -}}
{{- end }}

{{/* Egress to a server: root, component (of this release), own (whether it is deployed), ports, peers (of another). */}}
{{- define "slipway.toServer" -}}
- ports:
    {{- range .ports }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  {{- if .own }}
  to:
    {{- include "slipway.podsOf" . | nindent 4 }}
  {{- else if .peers }}
  to:
    {{- toYaml .peers | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "slipway.toBus" -}}
{{- $nats := .root.Values.nats -}}
{{- $egress := ternary (dict "port" 4222) $nats.egress $nats.deploy -}}
{{- $ports := include "slipway.portsOf" (dict "addresses" $nats.url "egress" $egress "default" 4222) | fromYamlArray -}}
{{- include "slipway.toServer" (dict "root" .root "component" "nats" "own" $nats.deploy "ports" $ports "peers" $nats.egress.peers) }}
{{- end }}

{{- define "slipway.toStore" -}}
{{- $store := .root.Values.store -}}
{{- $egress := ternary (dict "port" 9000) $store.egress $store.deploy -}}
{{- $ports := include "slipway.portsOf" (dict "addresses" $store.endpoint "egress" $egress "default" 443) | fromYamlArray -}}
{{- include "slipway.toServer" (dict "root" .root "component" "store" "own" $store.deploy "ports" $ports "peers" $store.egress.peers) }}
{{- end }}

{{/* Egress to the collector of traces and metrics, if the settings name one: root, env. */}}
{{- define "slipway.toCollector" -}}
{{- with index .env "SLIPWAY_OTLP_ENDPOINT" }}
{{- $default := ternary 443 80 (hasPrefix "https://" .) -}}
{{- $ports := include "slipway.portsOf" (dict "addresses" . "egress" dict "default" $default) | fromYamlArray -}}
{{- include "slipway.toServer" (dict "ports" $ports "peers" $.root.Values.network.collector) }}
{{- end }}
{{- end }}

{{- define "slipway.toOutside" -}}
- to:
    - ipBlock:
        cidr: {{ .Values.network.outsideCidr }}
        {{- with .Values.network.outsideExcept }}
        except:
          {{- toYaml . | nindent 10 }}
        {{- end }}
  ports:
    {{- range .Values.network.outsidePorts }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
{{- end }}

{{- define "slipway.toTriton" -}}
{{- $values := .root.Values -}}
{{- if $values.triton.deploy -}}
{{- include "slipway.toServer" (dict "root" .root "component" "triton" "own" true "ports" (list 8001)) }}
{{- else -}}
- ports:
    - {port: {{ splitList ":" $values.triton.grpc | last }}, protocol: TCP}
{{- end -}}
{{- end }}

{{/* What a service connects to: root, facts, service. */}}
{{- define "slipway.egress" -}}
{{- include "slipway.toDns" .root }}
{{ include "slipway.toBus" . }}
{{- if .facts.store }}
{{ include "slipway.toStore" . }}
{{- end }}
{{- range .facts.calls }}
{{- if eq . "triton" }}
{{ include "slipway.toTriton" $ }}
{{- else if eq . "agent" }}
{{ include "slipway.toServer" (dict "root" $.root "component" "agent" "own" true "ports" (list 8003)) }}
{{- else if eq . "gateway" }}
{{ include "slipway.toServer" (dict "root" $.root "component" "gateway" "own" true "ports" (list 8080)) }}
{{- else if eq . "outside" }}
{{ include "slipway.toOutside" $.root }}
{{- end }}
{{- end }}
{{- with include "slipway.toCollector" (dict "root" .root "env" (merge dict .service.env .root.Values.env)) }}
{{ . }}
{{- end }}
{{- with .service.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Who connects to a service: root, facts, service. */}}
{{- define "slipway.ingress" -}}
{{- if or .facts.calledBy .service.ingressFrom -}}
- from:
    {{- range .facts.calledBy }}
    {{- include "slipway.podsOf" (dict "root" $.root "component" .) | nindent 4 }}
    {{- end }}
    {{- with .service.ingressFrom }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - {port: 8080, protocol: TCP}
{{ end -}}
- from:
    {{- toYaml .root.Values.network.monitoring | nindent 4 }}
  ports:
    - {port: {{ .facts.adminPort }}, protocol: TCP}
{{- end }}
