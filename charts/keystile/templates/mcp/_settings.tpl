{{/* The settings file of one MCP server. Argument: dict root, model, name (of the server). */}}
{{- define "keystile.mcp.settings" -}}
{{- $server := get .model.servers .name -}}
{{- $settings := deepCopy $server.settings -}}
{{- $introspection := dict "url" .model.auth.introspection "client_id" .name -}}
{{- if $server.identity -}}
{{- $_ := set $introspection "token_file" "/var/run/secrets/keystile/token" -}}
{{- end -}}
{{- if .root.Values.network.tls.authSecret -}}
{{- $_ := set $introspection "ca_file" "/etc/keystile/ca/ca.crt" -}}
{{- end -}}
{{- $_ := set $settings "introspection" (merge $introspection ($settings.introspection | default dict)) -}}
{{- if eq ($settings.validation | default "") "jwks" -}}
{{- $jwks := dict "url" .model.auth.jwks -}}
{{- if .root.Values.network.tls.authSecret }}{{- $_ := set $jwks "ca_file" "/etc/keystile/ca/ca.crt" -}}{{- end -}}
{{- $_ := set $settings "jwks" (merge $jwks ($settings.jwks | default dict)) -}}
{{- end -}}
{{- if not $settings.sessions -}}
{{- /* A session lives in one pod, and nothing sends its requests there: with several pods there can be none. */ -}}
{{- $one := and (eq (int $server.replicas) 1) (not $server.autoscaling.enabled) -}}
{{- $_ := set $settings "sessions" (ternary "process" "none" $one) -}}
{{- end -}}
resource: {{ $server.uri | quote }}
resource_name: {{ $server.title | quote }}
authorization_server: {{ .model.issuer.url | quote }}
scopes:
  {{- toYaml $server.scopes | nindent 2 }}
required_scopes: {{ toJson $server.required_scopes }}
policy: {{ toJson $server.policy }}
{{- with $server.app }}
app: {{ . | quote }}
{{- end }}
{{ include "keystile.listen" (dict "root" .root "component" "mcp" "server" .name "port" 3232) }}
metrics: {host: 0.0.0.0, port: 9465}
trusted_proxies: {{ toJson .root.Values.network.trusted_proxies }}
{{ include "keystile.observabilitySettings" .root }}
{{ toYaml $settings }}
{{- end }}
