{{/* One run's name in the cluster. Context: root, trainer. */}}
{{- define "trainer.name" -}}
{{ .root.Release.Name }}-{{ .trainer.name }}
{{- end }}

{{/* The secret that holds a run's token. Context: root, trainer. */}}
{{- define "trainer.token" -}}
{{- $values := .root.Values -}}
{{- $trainer := .trainer -}}
{{- if $trainer.tokenSecret -}}
{{ $trainer.tokenSecret }}
{{- else if or $values.clientsSecret (not $values.teacher.enabled) -}}
{{- fail (printf "trainer %s: no token is made here; name the secret that holds one in tokenSecret" $trainer.name) -}}
{{- else if not (hasKey $values.clients $trainer.client) -}}
{{- fail (printf "trainer %s: client %s is none of clients" $trainer.name $trainer.client) -}}
{{- else -}}
{{ .root.Release.Name }}-token-{{ $trainer.client }}
{{- end -}}
{{- end }}

{{/* What torchrun starts on each machine; by itself on one, so that the trainer's exit status is the container's. */}}
{{- define "trainer.command" -}}
{{- $trainer := .trainer -}}
{{- $name := include "trainer.name" . -}}
{{- $startup := .root.Values.teacher.startupMinutes -}}
{{- if and .root.Values.teacher.enabled (not $trainer.teacher) (lt (int $trainer.waitMinutes) (int $startup)) }}
{{- fail (printf "trainer %s: waitMinutes %v is less than teacher.startupMinutes %v" $trainer.name $trainer.waitMinutes $startup) }}
{{- end }}
{{- if and (eq (int $trainer.machines) 1) (le (int $trainer.gpus) 1) }}
- student-trainer
{{- else }}
- torchrun
- --nproc-per-node={{ max 1 (int $trainer.gpus) }}
{{- if eq (int $trainer.machines) 1 }}
- --standalone
{{- else }}
- --nnodes={{ $trainer.machines }}
- --node-rank=$(JOB_COMPLETION_INDEX)
- --master-addr={{ ternary (printf "%s-machines-0-0.%s" $name $name) (printf "%s-0.%s" $name $name) (eq $trainer.kind "JobSet") }}
- --master-port=29500
{{- end }}
- -m
- student_trainer
{{- end }}
- train
- --config=/etc/trainer/train.toml
- --model={{ $trainer.model }}
- --run-dir=runs/{{ $trainer.name }}
- --resume
- --teacher.address={{ $trainer.teacher | default (printf "dns:///%s.%s.svc:50051" (include "teacher.name" .root) .root.Release.Namespace) }}
- --teacher.connect-timeout-s={{ mul 60 $trainer.waitMinutes }}
- --teacher.outage-s={{ mul 60 $trainer.waitMinutes }}
- --teacher.token-file=/run/token/token
{{- if $trainer.caSecret | default .root.Values.tls.secret }}
- --teacher.ca-file=/run/ca/ca.crt
{{- else }}
- --teacher.plaintext-token
{{- end }}
{{- if $trainer.rollouts.gpus }}
{{- if gt (int $trainer.gpus) 1 }}
{{- fail "trainers: a rollout server serves one process; give gpus: 1 beside rollouts.gpus, or sample without one" }}
{{- end }}
- --sampler.kind
- vllm
- --sampler.address=127.0.0.1:50061
{{- end }}
{{- range $trainer.args }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{/* Spec of an Indexed Job, one pod a machine. */}}
{{- define "trainer.job" -}}
{{- $root := .root -}}
{{- $trainer := .trainer -}}
{{- $name := include "trainer.name" . -}}
completionMode: Indexed
completions: {{ $trainer.machines }}
parallelism: {{ $trainer.machines }}
# When one machine fails, the others do too: each counts.
backoffLimit: {{ ternary 0 (mul $trainer.retries $trainer.machines) (eq $trainer.kind "JobSet") }}
podFailurePolicy:
  rules:
    # Wrong settings stay wrong.
    - action: FailJob
      onExitCodes: {containerName: trainer, operator: In, values: [2]}
    # A drained machine is nobody's fault.
    - action: Ignore
      onPodConditions: [{type: DisruptionTarget, status: "True"}]
template:
  metadata:
    labels:
      {{- include "lasting.labels" $root | nindent 6 }}
      app.kubernetes.io/component: trainer
      vgs-opd/run: {{ $name }}
    {{- with $trainer.annotations }}
    annotations: {{ toYaml . | nindent 6 }}
    {{- end }}
  spec:
    {{- include "pod.security" $root | nindent 4 }}
    restartPolicy: Never
    terminationGracePeriodSeconds: 120
    {{- if eq $trainer.kind "Job" }}
    subdomain: {{ $name }}
    {{- end }}
    {{- if $trainer.rollouts.gpus }}
    # Beside the trainer for as long as it runs, on GPUs of its own; the trainer alone reaches it.
    initContainers:
      - name: rollouts
        restartPolicy: Always
        {{- include "image" (list $root $trainer.rollouts.image $trainer.tag) | nindent 8 }}
        args:
          - serve
          - --model={{ $trainer.model }}
          - --engine.tensor-parallel={{ $trainer.rollouts.gpus }}
          - --engine.staging-dir=/cache/staging
          {{- with $trainer.rollouts.contextLength }}
          - --engine.context-length={{ . }}
          {{- end }}
          {{- range $trainer.rollouts.args }}
          - {{ . | quote }}
          {{- end }}
        env:
          - {name: VLLM_NO_USAGE_STATS, value: "1"}
          {{- include "hub.env" $root | nindent 10 }}
        startupProbe:
          exec: {command: [healthcheck.py, "127.0.0.1:50061"]}
          periodSeconds: 10
          timeoutSeconds: 5
          failureThreshold: 360
        resources:
          {{- include "resources" (dict "resources" $trainer.rollouts.resources "gpus" $trainer.rollouts.gpus "gpuResource" $trainer.gpuResource) | nindent 10 }}
        {{- include "container.security" $root | nindent 8 }}
        volumeMounts:
          - {name: cache, mountPath: /cache}
          - {name: tmp, mountPath: /tmp}
          - {name: shm, mountPath: /dev/shm}
    {{- end }}
    containers:
      - name: trainer
        {{- include "image" (list $root $trainer.image $trainer.tag) | nindent 8 }}
        command: {{- include "trainer.command" . | nindent 10 }}
        env:
          - {name: TOKENIZERS_PARALLELISM, value: "false"}
          - {name: TORCH_ELASTIC_SHUTDOWN_TIMEOUT, value: "100"}
          {{- include "hub.env" $root | nindent 10 }}
          {{- with $trainer.env }}
          {{- toYaml . | nindent 10 }}
          {{- end }}
        resources:
          {{- include "resources" $trainer | nindent 10 }}
        {{- include "container.security" $root | nindent 8 }}
        volumeMounts:
          - {name: config, mountPath: /etc/trainer, readOnly: true}
          - {name: token, mountPath: /run/token, readOnly: true}
          {{- if $trainer.caSecret | default $root.Values.tls.secret }}
          - {name: ca, mountPath: /run/ca, readOnly: true}
          {{- end }}
          {{- if $trainer.dataClaim }}
          - {name: data, mountPath: /app/data, readOnly: true}
          {{- end }}
          - {name: runs, mountPath: /app/runs}
          - {name: cache, mountPath: /cache}
          - {name: tmp, mountPath: /tmp}
          - {name: shm, mountPath: /dev/shm}
    volumes:
      - name: config
        configMap: {name: {{ $name }}}
      - name: token
        secret:
          secretName: {{ include "trainer.token" . }}
          items: [{key: token, path: token}]
          defaultMode: 0440
      {{- with $trainer.caSecret | default $root.Values.tls.secret }}
      - name: ca
        secret: {secretName: {{ . }}, items: [{key: ca.crt, path: ca.crt}]}
      {{- end }}
      {{- with $trainer.dataClaim }}
      - name: data
        persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}
      {{- end }}
      - name: runs
        persistentVolumeClaim: {claimName: {{ required (printf "trainer %s: say which runsClaim its checkpoints go to" $trainer.name) $trainer.runsClaim }}}
      - name: cache
        emptyDir: {sizeLimit: {{ $trainer.cacheSize }}}
      - name: tmp
        emptyDir: {}
      - name: shm
        emptyDir: {medium: Memory, sizeLimit: {{ $trainer.sharedMemory }}}
    {{- with $trainer.nodeSelector }}
    nodeSelector: {{ toYaml . | nindent 6 }}
    {{- end }}
    {{- with $trainer.tolerations }}
    tolerations: {{ toYaml . | nindent 6 }}
    {{- end }}
    {{- with $trainer.affinity }}
    affinity: {{ toYaml . | nindent 6 }}
    {{- end }}
{{- end }}
