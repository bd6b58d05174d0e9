{{/*
A teacher's pod: metadata and spec. Context: root, and for several machines the StatefulSet's name in `set`.
*/}}
{{- define "teacher.pod" -}}
{{- $root := .root -}}
{{- $teacher := $root.Values.teacher -}}
metadata:
  labels:
    {{- include "labels" $root | nindent 4 }}
    app.kubernetes.io/component: teacher
    {{- with .set }}
    vgs-opd/set: {{ . }}
    {{- end }}
  annotations:
    # A changed configuration is a new pod.
    checksum/config: {{ $teacher.config | sha256sum }}
    {{- with $teacher.annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- include "pod.security" $root | nindent 2 }}
  # A drain that ran out of time, vLLM's processes ended after it, lines closed; what is not needed costs nothing.
  terminationGracePeriodSeconds: {{ add $teacher.preStopSeconds (mul 2 $teacher.graceSeconds) 15 }}
  {{- if .set }}
  subdomain: {{ .set }}
  {{- end }}
  containers:
    - name: teacher
      {{- include "image" (list $root $teacher.image $root.Values.image.tag) | nindent 6 }}
      args:
        - serve
        - --config=/etc/teacher/teacher.toml
        - --model={{ $teacher.model }}
        - --teacher-id={{ $teacher.id }}
        - --server.host=0.0.0.0
        - --server.http-host=0.0.0.0
        - --server.grace-s={{ $teacher.graceSeconds }}
        - --server.clients-file=/run/clients/clients.toml
        {{- if gt (mul $teacher.gpus $teacher.machines) 1 }}
        - --engine.tensor-parallel-size={{ mul $teacher.gpus $teacher.machines }}
        {{- end }}
        {{- if .set }}
        - --engine.nodes={{ $teacher.machines }}
        - --engine.node-rank=$(POD_INDEX)
        - --engine.master-address={{ .set }}-0.{{ .set }}
        {{- end }}
        {{- range $teacher.args }}
        - {{ . | quote }}
        {{- end }}
      env:
        - {name: VLLM_NO_USAGE_STATS, value: "1"}
        {{- if .set }}
        - name: POD_INDEX
          valueFrom: {fieldRef: {fieldPath: "metadata.labels['apps.kubernetes.io/pod-index']"}}
        - name: VLLM_HOST_IP
          valueFrom: {fieldRef: {fieldPath: status.podIP}}
        {{- end }}
        {{- include "hub.env" $root | nindent 8 }}
        {{- with $teacher.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - {name: grpc, containerPort: 50051}
        - {name: http, containerPort: 8080}
      startupProbe:
        {{- include "teacher.probe" . | nindent 8 }}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: {{ mul $teacher.startupMinutes 6 }}
      readinessProbe:
        {{- include "teacher.probe" . | nindent 8 }}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 2
      # Slower to judge: a restart loses what is under way, and a dead engine ends the process by itself.
      livenessProbe:
        {{- include "teacher.probe" . | nindent 8 }}
        periodSeconds: 20
        timeoutSeconds: 5
        failureThreshold: 6
      lifecycle:
        preStop:
          {{- if .set }}
          # Machine 0 needs the others for as long as it drains.
          exec: {command: [sh, -c, {{ include "teacher.farewell" $teacher | quote }}]}
          {{- else }}
          exec: {command: [sleep, {{ $teacher.preStopSeconds | quote }}]}
          {{- end }}
      resources:
        {{- include "resources" $teacher | nindent 8 }}
      {{- include "container.security" $root | nindent 6 }}
      volumeMounts:
        - {name: config, mountPath: /etc/teacher, readOnly: true}
        - {name: clients, mountPath: /run/clients, readOnly: true}
        {{- if $root.Values.tls.secret }}
        - {name: tls, mountPath: /run/tls, readOnly: true}
        {{- end }}
        {{- if $teacher.dataClaim }}
        - {name: data, mountPath: /app/data, readOnly: true}
        {{- end }}
        - {name: cache, mountPath: /cache}
        - {name: tmp, mountPath: /tmp}
        - {name: shm, mountPath: /dev/shm}
  volumes:
    - name: config
      configMap: {name: {{ include "teacher.name" $root }}}
    - name: clients
      secret: {secretName: {{ include "clients.secret" $root }}, defaultMode: 0440}
    {{- with $root.Values.tls.secret }}
    - name: tls
      secret: {secretName: {{ . }}, defaultMode: 0440}
    {{- end }}
    {{- with $teacher.dataClaim }}
    - name: data
      persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}
    {{- end }}
    - name: cache
      {{- if $teacher.cacheClaim }}
      persistentVolumeClaim: {claimName: {{ $teacher.cacheClaim }}}
      {{- else }}
      emptyDir: {sizeLimit: {{ $teacher.cacheSize }}}
      {{- end }}
    - name: tmp
      emptyDir: {}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ $teacher.sharedMemory }}}
  {{- with $teacher.nodeSelector }}
  nodeSelector: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with $teacher.tolerations }}
  tolerations: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with $teacher.affinity }}
  affinity: {{ toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* How long a machine of several waits before its SIGTERM. */}}
{{- define "teacher.farewell" -}}
if test $POD_INDEX = 0; then exec sleep {{ .preStopSeconds }}; else exec sleep {{ add .preStopSeconds .graceSeconds 6 }}; fi
{{- end }}
