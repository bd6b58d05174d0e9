{{- define "labels" -}}
{{ include "lasting.labels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Those that no version changes, for what can't be changed. */}}
{{- define "lasting.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "teacher.selector" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: teacher
{{- end }}

{{- define "teacher.name" -}}
{{ .Release.Name }}-teacher
{{- end }}

{{- define "clients.secret" -}}
{{ .Values.clientsSecret | default (printf "%s-clients" .Release.Name) }}
{{- end }}

{{/* image: [context, name, tag] */}}
{{- define "image" -}}
{{- $root := index . 0 -}}
image: {{ printf "%s%s:%s" $root.Values.image.registry (index . 1) (index . 2 | default $root.Chart.AppVersion) | quote }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
{{- end }}

{{- define "pod.security" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .Values.runAs }}
  runAsGroup: {{ .Values.runAs }}
  fsGroup: {{ .Values.runAs }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "container.security" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "hub.env" -}}
- {name: HF_HOME, value: /cache/huggingface}
{{- if .Values.hub.offline }}
- {name: HF_HUB_OFFLINE, value: "1"}
{{- end }}
{{- with .Values.hub.tokenSecret }}
- name: HF_TOKEN
  valueFrom: {secretKeyRef: {name: {{ . }}, key: token}}
{{- end }}
{{- end }}

{{/*
Asked of the teacher's own port. Kubernetes' gRPC probes speak no TLS, so with it the image's program asks; of several
machines the first one alone answers. Context: root, set.
*/}}
{{- define "teacher.probe" -}}
{{- $ask := ternary "healthcheck.py localhost:50051 --ca-file /run/tls/ca.crt" "healthcheck.py 127.0.0.1:50051" (not (empty .root.Values.tls.secret)) -}}
{{- if .set -}}
exec: {command: [sh, -c, {{ printf "test $POD_INDEX != 0 || exec %s" $ask | quote }}]}
{{- else if .root.Values.tls.secret -}}
exec: {command: {{ splitList " " $ask | toJson }}}
{{- else -}}
grpc: {port: 50051}
{{- end }}
{{- end }}

{{/* GPUs can't be shared, so they are limits. Context: resources, gpus and gpuResource. */}}
{{- define "resources" -}}
{{- $limits := .resources.limits | default dict -}}
{{- if .gpus }}
{{- $limits = merge (dict .gpuResource (toString .gpus)) $limits -}}
{{- end -}}
requests: {{ .resources.requests | default dict | toJson }}
limits: {{ $limits | toJson }}
{{- end }}
