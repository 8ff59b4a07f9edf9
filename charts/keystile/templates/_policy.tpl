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

{{/* What the authorization server connects to, wherever it runs. Argument: dict root, model. */}}
{{- define "keystile.policy.auth" -}}
{{- $root := .root -}}
{{- $model := .model -}}
{{- $policies := $root.Values.network.policies -}}
{{- with $model.store.ports }}
# auth → the store; of one with sentinels these and the servers they name, of a cluster each node.
- ports:
    {{- range . }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  {{- if $model.store.own }}
  to:
    - podSelector:
        matchLabels:
          {{- include "keystile.selector" (dict "root" $root "component" "valkey") | nindent 10 }}
  {{- end }}
{{- end }}
{{- if $policies.publicEgress }}
# auth → clients' metadata documents and key sets, which are https on public addresses only; identity providers there.
- ports:
    - {protocol: TCP, port: 443}
  to:
    - ipBlock:
        cidr: 0.0.0.0/0
        except: [10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16]
    - ipBlock:
        cidr: "::/0"
        except: ["::1/128", "fc00::/7", "fe80::/10"]
{{- end }}
{{- $networks := list }}
{{- range ($root.Values.auth.settings.metadata_documents | default dict).private_hosts }}{{ $networks = concat $networks . }}{{ end }}
{{- with uniq $networks | sortAlpha }}
# auth → clients' document hosts on site, in the networks that are named for them.
- ports:
    - {protocol: TCP, port: 443}
  to:
    {{- range . }}
    - ipBlock:
        cidr: {{ contains "/" . | ternary . (printf "%s/%s" . (contains ":" . | ternary "128" "32")) | quote }}
    {{- end }}
{{- end }}
{{- range $model.auth.identity.egress }}
# auth → the identity {{ .name }}{{ if .cidrs }}, where its egress says{{ else }}, wherever that is: a policy knows no names{{ end }}.
- ports:
    {{- range .ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  {{- with .cidrs }}
  to:
    {{- range . }}
    - ipBlock:
        cidr: {{ . | quote }}
    {{- end }}
  {{- end }}
{{- end }}
{{- if $model.auth.identities }}
# auth → the API server, for the keys that sign service-account tokens. Its address is not known here.
- ports:
    {{- range $policies.apiServerPorts }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end }}
{{- end }}

{{/* What an MCP server's tools connect to. Argument: dict name, server (resolved). */}}
{{- define "keystile.policy.tools" -}}
{{- with .server.upstream }}
# MCP server → the one behind it, wherever that is: a policy knows no names.
- ports:
    - {protocol: TCP, port: {{ include "keystile.port" .url }}}
{{- end }}
{{- range .server.egress }}
# MCP server → what its tools call, as servers.{{ $.name }}.egress says.
- ports:
    {{- range .ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  to:
    - ipBlock:
        cidr: {{ .cidr | quote }}
{{- end }}
{{- end }}

{{/* Ports of the authorization servers that are not this release's. Argument: dict model, server (resolved). */}}
{{- define "keystile.policy.issuerPorts" -}}
{{- $urls := list -}}
{{- $issuers := list -}}
{{- if eq .model.topology "external" }}{{- $urls = append $urls .server.issuer }}{{- $issuers = append $issuers .server.settings }}{{- end -}}
{{- range dig "trusted_issuers" list (.server.settings | default dict) -}}
{{- $urls = append $urls .issuer -}}
{{- $issuers = append $issuers . -}}
{{- end -}}
{{- range $issuers -}}
{{- $urls = append $urls (dig "introspection" "url" "" (. | default dict)) -}}
{{- $urls = append $urls (dig "jwks" "url" "" (. | default dict)) -}}
{{- $urls = append $urls (dig "revocations" "push" "jwks_url" "" (. | default dict)) -}}
{{- end -}}
{{- $ports := list -}}
{{- range compact $urls }}{{- $ports = append $ports (include "keystile.port" .) }}{{- end -}}
{{- uniq $ports | toJson -}}
{{- end }}
