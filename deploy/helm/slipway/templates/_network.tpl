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

{{/* Egress to a server: root, component (of this release), own (whether it is deployed), egress (values of another). */}}
{{- define "slipway.toServer" -}}
- ports:
    - {port: {{ .port }}, protocol: TCP}
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
{{- $port := ternary 4222 $nats.egress.port $nats.deploy -}}
{{- include "slipway.toServer" (dict "root" .root "component" "nats" "own" $nats.deploy "port" $port "peers" $nats.egress.peers) }}
{{- end }}

{{- define "slipway.toStore" -}}
{{- $store := .root.Values.store -}}
{{- $port := ternary 9000 $store.egress.port $store.deploy -}}
{{- include "slipway.toServer" (dict "root" .root "component" "store" "own" $store.deploy "port" $port "peers" $store.egress.peers) }}
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
{{- include "slipway.toServer" (dict "root" .root "component" "triton" "own" true "port" 8001) }}
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
{{- else if eq . "gateway" }}
{{ include "slipway.toServer" (dict "root" $.root "component" "gateway" "own" true "port" 8080) }}
{{- else if eq . "outside" }}
{{ include "slipway.toOutside" $.root }}
{{- end }}
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
