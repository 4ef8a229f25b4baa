{{- define "slipway.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "slipway.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* What every pod has: root, component, placement, stopS, priority. */}}
{{- define "slipway.podBase" -}}
serviceAccountName: {{ include "slipway.name" .root }}-{{ .component }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  {{- include "slipway.podSecurity" . | nindent 2 }}
{{- with include "slipway.priority" (dict "root" .root "component" .component "name" .priority) }}
priorityClassName: {{ . }}
{{- end }}
{{- with .placement.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .placement.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .placement.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Whether a component must run on Triton's node: one node at a time mounts the claim that both use. */}}
{{- define "slipway.followsTriton" -}}
{{- $triton := .root.Values.triton -}}
{{- if and (eq .component "server-manager") $triton.deploy (eq $triton.accessMode "ReadWriteOnce") -}}true{{- end -}}
{{- end }}

{{/* Replicas on different hosts and zones; none where all must be on one host. */}}
{{- define "slipway.spread" -}}
{{- if and (ne .root.Values.spread "none") (not (include "slipway.followsTriton" .)) -}}
topologySpreadConstraints:
  {{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: {{ $.root.Values.spread }}
    labelSelector:
      matchLabels:
        {{- include "slipway.selector" $ | nindent 8 }}
  {{- end }}
{{- end -}}
{{- end }}

{{- define "slipway.podMetadata" -}}
labels: # no version: a pod is replaced when its own template changes, not with each release of the chart
  {{- include "slipway.selector" . | nindent 2 }}
  {{- with .root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .root.Values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Environment of whatever connects to the bus: root. */}}
{{- define "slipway.busEnv" -}}
- name: SLIPWAY_NATS_URL
  value: {{ include "slipway.natsUrl" .root | quote }}
- name: SLIPWAY_NATS_CREDENTIALS
  value: /run/secrets/slipway/credential
- name: SLIPWAY_NATS_CA
  value: /run/trust/ca.pem
- name: SLIPWAY_ATTESTERS
  value: /run/trust/attesters.json
- name: SLIPWAY_TEAMS
  value: /run/trust/teams.json
- name: SLIPWAY_STATE_DIR
  value: /state
{{- end }}

{{- define "slipway.storeEnv" -}}
- name: SLIPWAY_S3_ENDPOINT
  value: {{ include "slipway.storeEndpoint" .root | quote }}
- name: SLIPWAY_S3_CREDENTIALS
  value: /run/secrets/slipway/store
{{- if or .root.Values.store.deploy (not .root.Values.store.systemAuthorities) }}
- name: SLIPWAY_S3_CA
  value: /run/trust/ca.pem
{{- end }}
- name: SLIPWAY_S3_BUCKET
  value: {{ .root.Values.store.bucket | quote }}
- name: SLIPWAY_S3_REGION
  value: {{ .root.Values.store.region | quote }}
{{- end }}

{{/* Settings of all pods and jobs: those of the values, and the files of the collector. */}}
{{- define "slipway.commonEnv" -}}
{{- $files := dict -}}
{{- if .Values.otlp.headers }}{{ $_ := set $files "SLIPWAY_OTLP_HEADERS" "/run/otlp/headers" }}{{ end -}}
{{- if .Values.otlp.ca }}{{ $_ := set $files "SLIPWAY_OTLP_CA" "/run/otlp/ca.pem" }}{{ end -}}
{{- merge $files .Values.env | toYaml -}}
{{- end }}

{{- define "slipway.otlpVolume" -}}
{{- with .Values.otlp }}
{{- if .secret }}
- name: otlp
  secret:
    secretName: {{ .secret }}
    defaultMode: 0440
    items:
      {{- with .headers }}
      - {key: {{ . }}, path: headers}
      {{- end }}
      {{- with .ca }}
      - {key: {{ . }}, path: ca.pem}
      {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "slipway.otlpMount" -}}
{{- if .Values.otlp.secret }}
- name: otlp
  mountPath: /run/otlp
  readOnly: true
{{- end }}
{{- end }}

{{- define "slipway.plainEnv" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* Secrets as files: root, secret. Kubelet replaces the files when the secret changes. */}}
{{- define "slipway.secretVolumes" -}}
- name: secrets
  secret:
    secretName: {{ include "slipway.secret" . }}
    defaultMode: 0440
- name: trust
  secret:
    secretName: {{ .root.Values.secrets.prefix }}-trust
    defaultMode: 0440
- name: tmp
  emptyDir:
    sizeLimit: 2Gi
{{- include "slipway.otlpVolume" .root }}
{{- end }}

{{- define "slipway.secretMounts" -}}
- name: secrets
  mountPath: /run/secrets/slipway
  readOnly: true
- name: trust
  mountPath: /run/trust
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- include "slipway.otlpMount" (.root | default .) }}
{{- end }}

{{- define "slipway.claimSpec" -}}
accessModes: [{{ default "ReadWriteOnce" .mode }}]
{{- with .volume.storageClass }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ .volume.size }}
{{- end }}

{{/* A volume that lives as long as its pod: name, volume. */}}
{{- define "slipway.volume" -}}
- name: {{ .name }}
  {{- if eq .volume.kind "ephemeral" }}
  ephemeral:
    volumeClaimTemplate:
      spec:
        {{- include "slipway.claimSpec" . | nindent 8 }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ .volume.size }}
  {{- end }}
{{- end }}

{{- define "slipway.preStop" -}}
{{- if .Values.preStopS }}
lifecycle:
  preStop:
    exec:
      command: ["python3", "-c", "import time; time.sleep({{ .Values.preStopS }})"]
{{- end }}
{{- end }}
