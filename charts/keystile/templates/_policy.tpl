{{/* Arrows of the NetworkPolicies that more than one component has. Each says from where to where, and why. */}}

{{/* Argument: dict root, port. */}}
{{- define "keystile.policy.clients" -}}
{{- $namespaces := .root.Values.network.policies.ingressNamespaces -}}
# clients → this service: through an ingress controller or gateway, and from the release's own pods.
- ports:
    - {protocol: TCP, port: {{ .port }}}
  {{- if $namespaces }}
  from:
    - podSelector:
        matchLabels:
          app.kubernetes.io/instance: {{ .root.Release.Name }}
    - namespaceSelector:
        matchExpressions:
          - {key: kubernetes.io/metadata.name, operator: In, values: {{ toJson $namespaces }}}
  {{- end }}
{{- end }}

{{/* Argument: dict root, port. */}}
{{- define "keystile.policy.metrics" -}}
{{- with .root.Values.network.policies.metricsNamespaces -}}
# Prometheus → the metrics port.
- ports:
    - {protocol: TCP, port: {{ $.port }}}
  from:
    - namespaceSelector:
        matchExpressions:
          - {key: kubernetes.io/metadata.name, operator: In, values: {{ toJson . }}}
{{- end }}
{{- end }}

{{- define "keystile.policy.dns" -}}
# this service → DNS, wherever it answers: pods of the cluster, a cache on the node, or 5353 behind OpenShift's Service.
- ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
    - {protocol: UDP, port: 5353}
    - {protocol: TCP, port: 5353}
{{- end }}

{{/* Argument: the chart's context. */}}
{{- define "keystile.policy.telemetry" -}}
{{- $ports := list -}}
{{- with .Values.observability.traces.otlp_endpoint }}{{- $ports = append $ports (include "keystile.port" .) -}}{{- end -}}
{{- with .Values.observability.audit.collector -}}
{{- if .enabled }}{{- $ports = append $ports (include "keystile.port" .otlp_endpoint) -}}{{- end -}}
{{- end -}}
{{- with uniq $ports -}}
# this service → where traces and audit events go.
- ports:
    {{- range . }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end }}
{{- end }}
