{{/* What the pods of all components have in common. */}}

{{/* Pod Security Standard "restricted", for the pod. */}}
{{- define "keystile.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
# Mounted Secrets and tokens are readable by this group, and by nobody else.
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* The same for each container. */}}
{{- define "keystile.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Where a pod may run. Argument: a `pod` value. */}}
{{- define "keystile.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* Replicas on different nodes and zones while there is room. Argument: as "keystile.selector". */}}
{{- define "keystile.spread" -}}
{{- $selector := include "keystile.selector" . -}}
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- topologyKey: {{ . }}
  maxSkew: 1
  whenUnsatisfiable: ScheduleAnyway
  # Of one revision: during a rollout the old pods do not count.
  matchLabelKeys: [pod-template-hash]
  labelSelector:
    matchLabels:
      {{- $selector | nindent 6 }}
{{- end }}
{{- end }}

{{/* Names of Secrets to pull with. Argument: a list of image values. */}}
{{- define "keystile.pullSecrets" -}}
{{- $names := list -}}
{{- range . }}{{- $names = concat $names (.pullSecrets | default list) -}}{{- end -}}
{{- with uniq $names }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/*
Probes of both services. The process lives while it answers at all; requests come while what it depends on answers too.
The kubelet takes any certificate. Argument: as "keystile.scheme".
*/}}
{{- define "keystile.probes" -}}
{{- $scheme := eq (include "keystile.scheme" .) "https" | ternary ", scheme: HTTPS" "" -}}
startupProbe:
  httpGet: {path: /healthz, port: http{{ $scheme }}}
  periodSeconds: 1
  timeoutSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: http{{ $scheme }}}
  periodSeconds: 10
  timeoutSeconds: 3
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: http{{ $scheme }}}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
{{- end }}

{{/* Seconds in which a pod that ends is still sent requests, by those who have not heard of it yet. */}}
{{- define "keystile.preStopSeconds" -}}5{{- end }}

{{/* terminationGracePeriodSeconds: until nobody sends any more, then draining, then closing, which takes at most 10. Argument: drain_seconds. */}}
{{- define "keystile.graceSeconds" -}}
{{- add (include "keystile.preStopSeconds" .) . 15 -}}
{{- end }}

{{/* Settings of audit, traces and log, alike in both services. Argument: the chart's context. */}}
{{- define "keystile.observabilitySettings" -}}
{{- $audit := .Values.observability.audit -}}
audit:
  stdout: {{ $audit.stdout }}
  {{- if $audit.collector.enabled }}
  file: /var/lib/keystile/audit/audit.jsonl
  {{- end }}
{{- with .Values.observability.traces }}
{{- if .otlp_endpoint }}
traces:
  otlp_endpoint: {{ .otlp_endpoint | quote }}
  sample_ratio: {{ .sample_ratio }}
{{- end }}
{{- end }}
log:
  level: {{ .Values.observability.log.level }}
{{- end }}

{{/* The audit file's volumes. Argument: the chart's context. */}}
{{- define "keystile.auditVolumes" -}}
{{- with .Values.observability.audit.collector }}
{{- if .enabled }}
- name: audit
  emptyDir:
    sizeLimit: {{ .sizeLimit }}
- name: collector
  configMap:
    name: {{ $.Release.Name }}-collector
{{- end }}
{{- end }}
{{- end }}

{{/* The audit file's place in a service's container. Argument: the chart's context. */}}
{{- define "keystile.auditMount" -}}
{{- if .Values.observability.audit.collector.enabled }}
- name: audit
  mountPath: /var/lib/keystile/audit
{{- end }}
{{- end }}

{{/*
The collector, as a native sidecar (KEP-753): it starts before the service and ends after it, so that the last events of
a pod are shipped as well. Argument: dict root, service (the name that events are shipped under), and preStopSeconds for
a pod that ends of itself: so long is left to ship what it wrote last.
*/}}
{{- define "keystile.auditCollector" -}}
{{- with .root.Values.observability.audit.collector }}
{{- if .enabled }}
initContainers:
  - name: collector
    restartPolicy: Always
    image: {{ include "keystile.image" (dict "image" .image "version" "") }}
    imagePullPolicy: {{ .image.pullPolicy }}
    # Without the gate, lines count as read while they are still collected for sending.
    args: [--config=/etc/otelcol/collector.yaml, --feature-gates=stanza.synchronousLogEmitter]
    env:
      - name: SERVICE_NAME
        value: {{ $.service }}
      - name: POD_NAME
        valueFrom: {fieldRef: {fieldPath: metadata.name}}
      - name: POD_NAMESPACE
        valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
      {{- if .authorizationKey }}
      - name: OTLP_AUTHORIZATION
        valueFrom:
          secretKeyRef:
            name: {{ $.root.Values.existingSecret }}
            key: {{ .authorizationKey }}
      {{- end }}
    ports:
      - {name: health, containerPort: 13133}
    {{- with $.preStopSeconds }}
    lifecycle:
      preStop:
        sleep:
          seconds: {{ . }}
    {{- end }}
    startupProbe:
      httpGet: {path: /, port: health}
      periodSeconds: 1
      failureThreshold: 60
    # No liveness probe: asked politely to end, a collector counts as read what it could not send.
    resources:
      {{- toYaml .resources | nindent 6 }}
    securityContext:
      {{- include "keystile.containerSecurity" $ | nindent 6 }}
    volumeMounts:
      - name: collector
        mountPath: /etc/otelcol
        readOnly: true
      # Its position in the file lies beside the events, and outlives a restart of the container.
      - name: audit
        mountPath: /var/lib/keystile/audit
{{- end }}
{{- end }}
{{- end }}

{{/*
What an MCP server proves itself with at /introspect: a token of its own service account, made for auth alone and renewed
by the kubelet, or a secret that both sides are given. Argument: dict root, server, issuer.
*/}}
{{- define "keystile.credentials" -}}
{{- if .server.identity -}}
- name: credentials
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          audience: {{ .issuer | quote }}
          # Long enough to outlast an API server that is away for a while; renewed when four fifths are over.
          expirationSeconds: 3600
{{- end }}
{{- end }}
